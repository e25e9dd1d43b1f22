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

    C's buffer is emptied on both sides, so that nothing else is kept. Where the process has no such
    descriptor there is nothing to keep.

    Yields:
        A list, which holds the text once the block is left.
    """
    said: list[str] = []
    stream = {STDOUT: sys.stdout, STDERR: sys.stderr}[descriptor]
    flush = ctypes.CDLL(None).fflush
    try:
        kept = os.dup(descriptor)
    except OSError:
        yield said
        return
    if stream is not None:
        stream.flush()
    flush(None)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), descriptor)
        try:
            yield said
        finally:
            flush(None)
            os.dup2(kept, descriptor)
            os.close(kept)
            sink.seek(0)
            said.append(sink.read().decode(errors="replace"))
