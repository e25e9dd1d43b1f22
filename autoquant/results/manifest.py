"""`manifest.sha256`: a checksum of every file of a result, as `sha256sum --check` reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from autoquant.core.os_errors import storage_errors
from autoquant.errors import StorageError
from autoquant.results import files
from autoquant.results.storage import read_text, write_text

_CHUNK = 2**20
_CHECKED = frozenset(
    (
        *(files.JOB, files.FACTS, files.ENVIRONMENT, files.SITES, files.SPACE, files.BASELINE),
        *(files.STATISTICS, files.BUILD, files.CALLING, files.EXAMPLE, files.SENSITIVITY),
        *(files.COSTS, files.HISTORY, files.FRONTIER),
    )
)
"""What results are read from. The rest is for people and engines, or can be written again."""


def seal(folder: Path) -> None:
    """Write the checksums of all that a folder holds now, in one step.

    Raises:
        StorageError: A file cannot be read, or the manifest not be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in _files(folder))
    text = "".join(f"{_digest(folder / name)}  {name}\n" for name in names)
    write_text(folder / files.MANIFEST, text)


def unseal(folder: Path) -> None:
    """Check the folder, and drop its manifest: what follows changes what it says.

    Raises:
        StorageError: A file differs.
    """
    verify(folder)
    with storage_errors(folder, "write to"):
        (folder / files.MANIFEST).unlink(missing_ok=True)


def verify(folder: Path) -> None:
    """See that the files of a result are those that were written; without a manifest all are.

    Raises:
        StorageError: A file differs, is missing or not listed; names the first.
    """
    path = folder / files.MANIFEST
    if not path.exists():
        return
    known = dict(_lines(path))
    there = {item.relative_to(folder).as_posix() for item in _files(folder)}
    for name in sorted(filter(_is_checked, known.keys() | there)):
        if name not in known:
            raise _differs(folder / name, f"{files.MANIFEST} does not list it")
        if name not in there:
            raise _differs(folder / name, f"it is gone, but {files.MANIFEST} lists it")
        if _digest(folder / name) != known[name]:
            raise _differs(folder / name, f"its checksum in {files.MANIFEST} is another")


def _differs(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path} is not as it was written: {reason}",
        hint=f"restore it from a copy; or remove {files.MANIFEST} to take the folder as it is",
    )


def _is_checked(name: str) -> bool:
    plans, slash, plan = name.partition("/")
    return name in _CHECKED or bool(slash and plans == files.PLANS and plan.endswith(".json"))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Name and checksum of each file that a manifest lists."""
    for line in read_text(path).splitlines():
        digest, _, name = line.partition("  ")
        yield name, digest


def _files(folder: Path) -> Iterator[Path]:
    """All files of a result; neither the lock nor what is being written."""
    for place in (folder, folder / files.PLANS):
        for path in place.glob("*"):
            if path.is_file() and not path.name.startswith(".") and path.name != files.MANIFEST:
                yield path


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with storage_errors(path, "read"), path.open("rb") as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found.hexdigest()
