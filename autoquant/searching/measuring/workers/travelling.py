"""What goes to the nodes of a cluster with a job: our own code, the user's, and named files."""

from __future__ import annotations

import logging
import shutil
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autoquant.errors import ExecutionError
from autoquant.job.section import shipped_folders
from autoquant.model.data.entry_points import ENTRY_MODULE, FILES

_SKIPPED = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
_SHIPPED = ("search_spaces", "accelerators")
_OF_OTHERS = ("site-packages", "dist-packages")
"""Folders of installed packages of another Python, which PYTHONPATH or a .pth file names."""


def travelling_environment(files: Sequence[Path], packages: Sequence[str]) -> dict[str, Any]:
    """Upload the code of this process to the cluster; give the runtime environment of a worker.

    It is the package itself, every module that was imported from elsewhere than the installed
    packages (with its whole package), the files of entry points, and `files`. What Python has
    installed is not sent: torch, ray and the engines must be on the nodes, or in `packages`.
    """
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    with tempfile.TemporaryDirectory(prefix="autoquant-travels-") as scratch:
        folder = Path(scratch) / "code"
        gather(folder, files)
        environment = {"working_dir": str(folder)}
        try:
            found = upload_working_dir_if_needed(
                environment,
                include_gitignore=False,
                scratch_dir=scratch,
                logger=logging.getLogger("autoquant.silent"),
            )
        except Exception as error:
            raise ExecutionError(
                f"execution: the job's code cannot be sent to the cluster: {error}",
                hint="keep data out of the packages of your code, or of execution.files; nodes "
                "may read them from a shared disk",
            ) from error
    environment = {"working_dir": found["working_dir"]}
    return {**environment, "pip": list(packages)} if packages else environment


def gather(folder: Path, files: Sequence[Path] = ()) -> None:
    """Copy into a folder what travels: modules by their names, files under `files/`."""
    folder.mkdir(parents=True)
    for kind in _SHIPPED:
        source = next((place for place in shipped_folders(kind) if place.is_dir()), None)
        if source is not None:
            shutil.copytree(source, folder / kind, ignore=_SKIPPED)
    for name, source in sorted(_own_modules(list(sys.modules.values()))):
        _copy(source, folder / name)
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "")
        if getattr(module, "__name__", "").startswith(ENTRY_MODULE) and file.is_file():
            _copy(file, under(folder / FILES, file))
    for path in files:
        if not path.exists():
            raise ExecutionError(
                f"execution.files: no file or folder {path}", hint="correct it, or leave it out"
            )
        _copy(path, under(folder / FILES, path))
        if path.resolve().is_relative_to(Path.cwd()):
            _copy(path, folder / path.resolve().relative_to(Path.cwd()))


def under(folder: Path, path: Path) -> Path:
    """Where a file of this machine is within a folder that travels."""
    return folder.joinpath(*path.resolve().parts[1:])


def _own_modules(modules: Iterable[ModuleType]) -> Iterator[tuple[str, Path]]:
    """Top-level packages and modules that are no installed ones, and where they are."""
    installed = _installed_folders()
    seen: set[str] = set()
    for module in modules:
        name = getattr(module, "__name__", "").partition(".")[0]
        file = getattr(sys.modules.get(name), "__file__", None)
        if not file or name in seen or name == "__main__" or name.startswith(ENTRY_MODULE):
            continue
        seen.add(name)
        path = Path(file).resolve()
        is_installed = any(path.is_relative_to(place) for place in installed)
        if not path.exists() or (is_installed and name != "autoquant"):
            continue
        if path.name == "__init__.py":
            yield name, path.parent
        elif path.suffix == ".py":
            yield f"{name}.py", path


def _installed_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    places = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {*site.getsitepackages(), site.getusersitepackages()}
    places |= {place for place in sys.path if Path(place).name in _OF_OTHERS}
    return tuple(Path(place).resolve() for place in places)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=_SKIPPED, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
