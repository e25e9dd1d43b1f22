"""The command line: argv -> one call -> exit code."""

from autoquant.cli.app import main, run

__all__ = ["main", "run"]
