"""Writing files so that a reader sees the old text or the new, and errors that name the mend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from autoquant.core.json_values import json_of
from autoquant.core.os_errors import storage_errors
from autoquant.errors import StorageError
from autoquant.results.files import FORMAT

Value = TypeVar("Value")


def write_bytes(path: Path, content: bytes) -> None:
    """Put a file in place in one step: a crash leaves the old file or the new one.

    Raises:
        StorageError: The disk is full, the folder is not writable...
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path, "write"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Put a UTF-8 text file in place in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Put a JSON file of values in place in one step."""
    write_text(path, json.dumps(json_of(data), indent=2, ensure_ascii=False) + "\n")


def write_document(path: Path, data: Any) -> None:
    """Put a JSON object in place that carries its format's version: a mapping, or a value's."""
    write_json(path, {"format": FORMAT, **json_of(data)})


def read_text(path: Path) -> str:
    """Read a UTF-8 text file of a result folder.

    Raises:
        StorageError: It is missing, unreadable, or not text.
    """
    try:
        with storage_errors(path, "read"):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, str(error)) from error
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise missing(path) from error
        raise


def read_json(path: Path) -> Any:
    """Read a JSON file of a result folder.

    Raises:
        StorageError: It is missing, unreadable, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise damaged(path, str(error)) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        StorageError: It is missing, unreadable, or holds something else.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise damaged(path, "it holds no mapping")
    return document


def read_document(path: Path) -> dict[str, Any]:
    """Read a JSON object that carries its format's version."""
    document = read_mapping(path)
    found = document.get("format")
    if found != FORMAT:
        raise StorageError(
            f"{path} has the format {found}; this version reads {FORMAT}",
            hint="read it with the version of autoquant that wrote it (see environment.json)",
        )
    return document


def rebuild(path: Path, make: Callable[[dict[str, Any]], Value]) -> Value:
    """Make a value again of what `write_document` wrote of it.

    Raises:
        StorageError: The file is missing, of another version, or damaged.
    """
    document = read_document(path)
    del document["format"]
    with well_formed(path):
        return make(document)


@contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Turn what goes wrong while values are rebuilt from a file into a `StorageError`.

    Raises:
        StorageError: The file's content does not have the form that it was written in.
    """
    try:
        yield
    except KeyError as error:
        raise damaged(path, f"no key {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(path, str(error)) from error


def missing(path: Path) -> StorageError:
    """Say that a file of a result folder is not there."""
    return StorageError(
        f"{path.parent} holds no {path.name}",
        hint="give the output folder of a search; one that was interrupted goes on with --resume",
    )


def damaged(path: Path, reason: str) -> StorageError:
    """Say that a file of a result folder cannot be understood."""
    return StorageError(
        f"{path} is damaged: {reason}", hint="restore it from a copy, or search again"
    )
