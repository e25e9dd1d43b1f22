"""onednn's packed weights are first called on the size that is timed: they keep its kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from tests.networks import images, seeded
from tests.unit.backends.test_residual_sums import Residual

KEEPING = tuple(engine for engine in ("onednn", "x86") if engine in engines_here())


class BatchSizes(TorchDispatchMode):
    """Notes on how many samples quantized convolutions are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if str(func._schema.name).startswith("quantized::conv2d") and "prepack" not in str(func):
            self.seen.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("engine", KEEPING)
def test_the_first_call_is_of_the_size_that_is_timed_and_only_new_weights_need_one(
    engine: str,
) -> None:
    model, x = seeded(Residual), images(8)
    captured = capture(model, (x,))
    settings = BuildSettings(options={"engine": engine}).with_weight_bits(8)
    statistics = calibrate(captured, [(x,)])
    backend = TorchGraphBackend(
        BuildRequest(model, captured, statistics, settings, (x,), (images(5),))
    )
    plan = Plan.of({site.name: Scheme.INT8 for site in captured.sites})
    first, second = BatchSizes(), BatchSizes()
    with first:
        backend.build(plan)
    with second:
        backend.build(plan)
    assert set(first.seen[:4]) == {5}
    assert 5 not in second.seen
