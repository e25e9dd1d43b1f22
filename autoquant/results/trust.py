"""Whether this user wrote a result folder: only then are the functions that it names called."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from autoquant.core.os_errors import storage_errors
from autoquant.errors import StorageError
from autoquant.results import files
from autoquant.results.storage import write_text

_KEY_BYTES = 32


def sign(folder: Path) -> None:
    """Leave a signature of the folder's job, made with a key that only this user can read.

    Without a place for that key the folder is signed by nobody, and asks for trust later.
    """
    try:
        key = _key()
    except OSError:
        return
    write_text(folder / files.SIGNATURE, _signature(folder, key) + "\n")


def is_own(folder: Path) -> bool:
    """Whether this user wrote the folder's job, and nobody changed it since."""
    try:
        found = (folder / files.SIGNATURE).read_text(encoding="ascii").strip()
        expected = _signature(folder, _key())
    except (OSError, ValueError, StorageError):
        return False
    return hmac.compare_digest(found, expected)


def refuse_stranger(folder: Path, *, trust: bool) -> None:
    """See that the functions that a folder's job names may be called."""
    if not trust and not is_own(folder):
        raise StorageError(
            f"{folder / files.JOB} names functions to call, and was not written by you on this "
            "machine, or was changed since",
            hint="read it; if you trust it, go on with --trust (in Python: trust=True), or copy it "
            "out of that folder",
        )


def _signature(folder: Path, key: bytes) -> str:
    path = folder / files.JOB
    with storage_errors(path, "read"):
        return hmac.new(key, path.read_bytes(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """This user's key; made at the first use."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "autoquant" / "key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(made, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            made.unlink()
    return path.read_bytes()
