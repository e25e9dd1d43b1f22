"""The command line: argv -> one call -> exit code."""

from autoquant.cli.app import main

__all__ = ["main"]
