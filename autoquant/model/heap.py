"""Memory that Python and the C library keep although nothing uses it."""

from __future__ import annotations

import ctypes
import gc
import sys

_LARGE_BYTES = 32 << 20


def is_large(weight_bytes: int) -> bool:
    """Whether copies of such weights are worth the time that it takes to be rid of them."""
    return weight_bytes >= _LARGE_BYTES


def free_large(weight_bytes: int) -> None:
    """Free what nothing uses any more, where that may be so many bytes of weights.

    A graph refers to itself, so that it waits for Python's collector; that counts objects, of which
    a graph of a few large layers has few. What is freed goes back to the system (`trim_heap`). A
    collection takes 0.2 s, longer than a small model's whole forward, so that small ones wait.
    """
    if is_large(weight_bytes):
        gc.collect()
        trim_heap()


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library is glibc; elsewhere nothing.

    glibc serves tensors of up to 32 MiB from a heap that it keeps. Passes over a large network's
    tensors leave it in holes: the gradient pass of a ResNet-50 at 224 pixels had 0.6 GiB in use
    and held 3.3. `malloc_trim(3)` frees whole pages within the heap too, in milliseconds.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 1_000_000_000


def keep_freed_memory() -> bool:
    """Tell malloc to keep what is freed; True where that took effect.

    By default glibc returns every large block to the kernel and faults it in again page by page
    at the next forward. That costs float models, whose activations are large, far more than
    int8 ones, and depends on what the process did before: the same model was seen at 2.2x and
    at 5.8x of its fp32 time. With the thresholds out of reach the ratio repeats, and it is the
    smaller, honest one. See mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = [mallopt(name, _KEEP_BYTES) for name in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)]
    return all(result == 1 for result in kept)
