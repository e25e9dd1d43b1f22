"""What torch.ao makes of a plan, timed beside what `quantize` gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.core.measurement import Measurement
from autoquant.core.quiet import no_warnings
from autoquant.searching.measuring.evaluator import with_threads
from autoquant.searching.measuring.latency import measure_latency, with_sitting_error
from autoquant.torch_ao.conversion import using_engine
from autoquant.torch_ao.way_out import PlanMapping


@dataclass(frozen=True, slots=True)
class MappingLatency:
    """Two ways to run one plan, timed in turn.

    Attributes:
        mapping_ms: What torch.ao's conversion takes.
        ours_ms: What the model that `quantize` gives takes.
        ratio: torch.ao's time over ours, by pairs.
        form: Of torch.ao's: `frozen TorchScript`, or `eager` where it cannot be traced.
        engine: Of torch.ao's.
    """

    mapping_ms: Measurement
    ours_ms: Measurement
    ratio: Measurement
    form: str
    engine: str

    def __str__(self) -> str:
        busy = " (the machine was busy)" if self.ratio.busy else ""
        return (
            f"torch.ao ({self.engine}, {self.form}) {self.mapping_ms.value:.3g} ms, "
            f"quantize {self.ours_ms.value:.3g} ms: {self.ratio.value:.2f} times{busy}"
        )


def time_mapping(
    mapped: PlanMapping,
    ours: nn.Module,
    run: Callable[[nn.Module, tuple[Tensor, ...]], Any],
    tensors: tuple[Tensor, ...],
    *,
    pairs: int,
    threads: int,
) -> MappingLatency:
    """Time a plan's two models in turn, each as fast as it can be handed out."""
    inputs = mapped.way.inputs(tensors)
    engine = using_engine(mapped.coverage.engine)
    with with_threads(threads), engine, no_warnings(), torch.no_grad():
        theirs, form = _frozen(mapped.converted, inputs)
        found = measure_latency(
            lambda: run(ours, tensors),
            lambda: theirs(*inputs),
            pairs=pairs,
            threads=threads,
        )
    return MappingLatency(
        mapping_ms=with_sitting_error(found["baseline_latency_ms"]),
        ours_ms=with_sitting_error(found["latency_ms"]),
        ratio=with_sitting_error(found["speedup"]),
        form=form,
        engine=mapped.coverage.engine,
    )


def _frozen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Callable[..., Any], str]:
    """The module as frozen TorchScript; itself where torch cannot trace it."""
    if all(isinstance(item, Tensor) for item in inputs):
        with suppress(Exception):
            traced = torch.jit.trace(module, inputs, strict=False, check_trace=False)
            frozen = torch.jit.freeze(traced.eval())
            frozen(*inputs)
            return frozen, "frozen TorchScript"
    return module, "eager"
