"""The package that brings `autoquant`: how it is called where packages are installed."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, distribution

NAME = "autoquant-search"
_STRANGER = "autoquant"
"""Somebody else's distribution, with the same import name."""


def install_command(extra: str) -> str:
    """The command that installs optional dependencies."""
    return f"pip install '{NAME}[{extra}]'"


def warn_of_stranger() -> None:
    """Warn where the other package is installed too: the two write the same files."""
    try:
        files = distribution(_STRANGER).files or ()
    except PackageNotFoundError:
        return
    if any(file.as_posix() == "autoquant/__init__.py" for file in files):
        warnings.warn(
            f"the package {_STRANGER!r} is installed beside {NAME!r}: another project with the "
            f"same import name, whose files mix with these. Run `pip uninstall {_STRANGER}`, then "
            f"`pip install --force-reinstall --no-deps {NAME}`",
            stacklevel=3,
        )
