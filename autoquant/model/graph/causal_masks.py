"""Masks of attention under torch.export: used as they are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules import transformer


@contextmanager
def masks_as_given() -> Iterator[None]:
    """Let `nn.TransformerEncoder` and `nn.TransformerDecoder` take any mask for what it is.

    They compare its values with those of a causal mask, for which torch has a faster kernel of the
    same function; torch.export knows no values, and gives up. Who says `is_causal` is believed, as
    by torch.
    """
    parts: Any = transformer
    compared = parts._detect_is_causal_mask
    parts._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        parts._detect_is_causal_mask = compared
