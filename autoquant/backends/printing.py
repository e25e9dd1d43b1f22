"""What compiled libraries print past Python's own streams, kept instead of shown."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STDOUT, STDERR = 1, 2


@contextmanager
def captured_prints(descriptor: int) -> Iterator[list[str]]:
    """Keep what is written to a descriptor of this process, below `sys.stdout` or `sys.stderr`.

    Args:
        descriptor: `STDOUT` or `STDERR`.

    Yields:
        A list, which holds the text once the block is left.
    """
    said: list[str] = []
    stream = {STDOUT: sys.stdout, STDERR: sys.stderr}[descriptor]
    stream.flush()
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), descriptor)
        try:
            yield said
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, descriptor)
            os.close(kept)
            sink.seek(0)
            said.append(sink.read().decode(errors="replace"))
