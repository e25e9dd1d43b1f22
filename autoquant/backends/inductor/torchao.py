"""torchao's PT2E, imported once and without its messages."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import NamedTuple

from autoquant.core.quiet import quiet


class Pt2e(NamedTuple):
    """The modules of torchao that a plan meets."""

    quantizer: ModuleType
    composable: ModuleType
    flow: ModuleType
    observer: ModuleType


@cache
def pt2e() -> Pt2e:
    """Import torchao's PT2E; it registers inductor's int8 passes, for the whole process."""
    with quiet():
        from torchao.quantization.pt2e import observer, quantize_pt2e
        from torchao.quantization.pt2e.quantizer import (
            composable_quantizer,
            x86_inductor_quantizer,
        )
    return Pt2e(x86_inductor_quantizer, composable_quantizer, quantize_pt2e, observer)
