"""`--indices`: which samples of a data set are meant."""

from __future__ import annotations

import json
from pathlib import Path

from autoquant.errors import DataError


def read_indices(text: str) -> tuple[int, ...]:
    """Read `3,17`, or a JSON file `{"indices": [3, 17]}`."""
    words = [word.strip() for word in text.split(",")]
    if all(word.isdecimal() for word in words):
        return tuple(int(word) for word in words)
    path = Path(text)
    if not path.is_file():
        raise DataError(
            f"--indices {text}: neither numbers nor a file", hint="write 3,17 or give a JSON file"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"--indices {text}: {error}", hint='write {"indices": [3, 17]}') from error
    indices = found.get("indices") if isinstance(found, dict) else None
    if not isinstance(indices, list) or not all(type(item) is int for item in indices):
        raise DataError(
            f"--indices {text}: it holds no list of whole numbers under 'indices'",
            hint='write {"indices": [3, 17]}',
        )
    return tuple(indices)
