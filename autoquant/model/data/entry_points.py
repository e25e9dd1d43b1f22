"""Entry points: the user's functions, by `package.module:function` or `path/file.py:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from autoquant.errors import AutoquantError, JobError

ENTRY_MODULE = "autoquant_entry_"
"""What the names of modules begin with that were imported from a file."""

FILES = "files"
"""Folder of a working directory on another node that holds this machine's files, by their paths."""

TRAVELLED = "AUTOQUANT_FILES"
"""Environment variable that names that folder, where there is one."""


def load_entry(entry: str) -> Callable[..., Any]:
    """Import the function that an entry point names.

    A file is imported under a name derived from its path, once, with its own folder importable.
    """
    place, _, name = entry.rpartition(":")
    try:
        module = (
            _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except JobError:
        raise
    except (Exception, SystemExit) as error:
        raise JobError(
            f"{entry}: importing {place} failed: {type(error).__name__}: {error}",
            hint="run the file on its own with the same Python to see the whole error",
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise JobError(
            f"{entry}: {place} has no function {name!r}",
            hint="name a function that is defined at the top of the module",
        )
    return found  # type: ignore[no-any-return]


def call_entry(entry: str, arguments: dict[str, Any], failure: type[AutoquantError]) -> Any:
    """Import an entry point and call it with its arguments from the job file."""
    function = load_entry(entry)
    try:
        return function(**arguments)
    except AutoquantError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, TypeError) and len(frames) == 1:
            raise JobError(
                f"{entry} does not take these arguments: {error}",
                hint="change `arguments` in the job file, or the function's parameters",
            ) from error
        raise failure(
            f"{entry} failed: {type(error).__name__}: {error} "
            f"at {frames[-1].filename}:{frames[-1].lineno}",
            hint="mend the function, or the `arguments` that the job file gives it",
        ) from error


def _load_file(path: Path) -> ModuleType:
    path = _found_here(path.resolve())
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"{ENTRY_MODULE}{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise JobError(f"no file {path}", hint="give the path of a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _found_here(path: Path) -> Path:
    """Where a file of the machine that searches is in this process, which may be elsewhere."""
    folder = os.environ.get(TRAVELLED)
    if folder is None:
        return path
    travelled = Path(folder).joinpath(*path.parts[1:])
    return travelled if travelled.is_file() else path
