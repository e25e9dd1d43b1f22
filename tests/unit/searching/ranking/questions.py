"""Questions about small networks, for the tests of sensitivity."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.ranking.trials import Question

EVERYWHERE = (Scheme.INT8, Scheme.INT16, Scheme.INT16_WEIGHT, Scheme.FP16, Scheme.BF16, Scheme.FP32)


def ask(model: nn.Module, *inputs: Tensor, batch_size: int = 32) -> Question:
    """Every scheme at every site, on all inputs, which calibrate as well."""
    parts = list(zip(*(item.split(batch_size) for item in inputs), strict=True))
    captured = capture(model, parts[0], how="export")
    statistics = calibrate(captured, parts)
    ranges = TensorRanges(captured, statistics, BuildSettings())
    return Question(
        captured=captured,
        space=every_scheme(captured),
        rounding=SchemeRounding(ranges),
        batches=tuple(Batch(part) for part in parts),
        samples=len(inputs[0]),
    )


def every_scheme(captured: Capture) -> SearchSpace:
    """A knob for each group of sites that must agree, with every scheme that its sites have."""
    sites = {site.name: site for site in captured.sites}
    groups = {name: {name} for name in sites}
    for names in captured.agreements:
        joined = set().union(*(groups[name] for name in names))
        groups |= dict.fromkeys(joined, joined)
    knobs = {min(group, key=list(sites).index): group for group in groups.values()}
    return SearchSpace(
        tuple(
            Knob(name, tuple(item for item in sites if item in group), _schemes(sites, group))
            for name, group in knobs.items()
        )
    )


def _schemes(sites: dict[str, Site], names: Iterable[str]) -> tuple[Scheme, ...]:
    kinds = {sites[name].kind for name in names}
    if kinds & {OpKind.EMBEDDING, OpKind.EMBEDDING_BAG}:
        return (Scheme.INT8_WEIGHT_ONLY, Scheme.FP32)
    if kinds & {OpKind.LSTM, OpKind.GRU}:
        return (Scheme.INT8_DYNAMIC, Scheme.FP32)
    if kinds == {OpKind.LINEAR}:
        return (Scheme.INT8, Scheme.INT8_DYNAMIC, *EVERYWHERE[1:])
    return EVERYWHERE
