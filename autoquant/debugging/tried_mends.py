"""What the mends that a check names are worth at the outputs, each built and run on the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoquant.core.findings.concerns import Concern, Trial
from autoquant.core.glance import few
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError
from autoquant.model.data.number_outputs import judged_pair, without_sources
from autoquant.model.data.output_noise import OutputNoises
from autoquant.model.data.outputs import named_outputs
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.raised_plan import raise_ops

if TYPE_CHECKING:
    from autoquant.torch_ao.qconfig import QConfigMapping

Run = Callable[[tuple[Tensor, ...]], Any]
Build = Callable[[Sequence[Concern]], tuple[Run, str]]
"""Builds what is checked with the mends of some concerns, and says what was mended last."""


def try_mends(
    prepared: Preparation,
    plan: Plan,
    mapping: QConfigMapping | None,
    concerns: Sequence[Concern],
) -> Iterator[Concern]:
    """Say of each concern whose mend can be tried what it brings, alone and with the others.

    SQNR of the outputs on the samples of `prepared.subject.calibration`, of what is built. Fixed
    ranges are no part of a mapping.
    """

    def build(mended: Sequence[Concern]) -> tuple[Run, str]:
        if mapping is None:
            return _of_plan(prepared, plan, mended)
        return _of_mapping(prepared, mapping, mended)

    tried = [
        item for item in concerns if item.trial and (mapping is None or item.trial.changes_ops)
    ]
    before = _output_db(prepared, build, ()) if tried else None
    together = _output_db(prepared, build, tried) if before and len(tried) > 1 else None
    for item in concerns:
        after = _output_db(prepared, build, (item,)) if before and item in tried else None
        if before is None or after is None:
            yield item
            continue
        how = f"tried on {prepared.statistics.samples} samples, as it runs here"
        step = f"{after[1]}: outputs {before[0]:.1f} -> {after[0]:.1f} dB"
        others = f", {together[0]:.1f} dB with all {len(tried)} mended" if together else ""
        yield replace(item, mend=f"{item.mend}; {how}, {step}{others}")


def _output_db(
    prepared: Preparation, build: Build, mended: Sequence[Concern]
) -> tuple[float, str] | None:
    """SQNR of what is built with some mends, and what these were; None: the engine refuses it."""
    try:
        run, how = build(mended)
    except BackendError:
        return None
    noises = OutputNoises()
    with torch.no_grad():
        for batch in prepared.subject.calibration:
            expected = prepared.captured.graph(*batch.inputs)
            expected, found = judged_pair(expected, partial(run, batch.inputs), batch.inputs)
            noises.add(named_outputs(expected), named_outputs(found), len(batch))
    return noises.decibels(prepared.subject.outputs)["sqnr_db"][0], how


def _of_plan(prepared: Preparation, plan: Plan, mended: Sequence[Concern]) -> tuple[Run, str]:
    build, schemes, how = prepared.settings.build, dict(plan.schemes), ""
    for item, trial in _trials(mended):
        if trial.leaves_out:
            kept = tuple(
                one for one in build.ranges.fixed if not (one.is_job and one.name in item.where)
            )
            build, how = replace(build, ranges=replace(build.ranges, fixed=kept)), "left out"
        elif trial.weight_bits is not None:
            build, how = build.with_weight_bits(trial.weight_bits), _bits(item)
        else:
            if trial.scheme is None:
                raised = raise_ops(prepared, Plan.of(schemes), item.where, wide_weights=True)
                schemes = dict(raised.schemes)
            else:
                schemes |= dict.fromkeys(item.where, trial.scheme)
            how = f"{few(item.where)} in {schemes[item.where[0]].value}"
    settings = replace(prepared.settings, build=build)
    backend = replace(prepared, settings=settings).backend if mended else prepared.backend
    return partial(backend.run, backend.build(Plan.of(schemes)).module), how


def _of_mapping(
    prepared: Preparation, mapping: QConfigMapping, mended: Sequence[Concern]
) -> tuple[Run, str]:
    """A mapping with the QConfigs that plans have at the ops of some concerns."""
    from autoquant.torch_ao.examination import convert_calibrated
    from autoquant.torch_ao.mapping import with_qconfigs
    from autoquant.torch_ao.values import inputs_of

    subject, captured = prepared.subject, prepared.captured
    model, build, how = without_sources(subject.model), prepared.settings.build, ""
    for item, trial in _trials(mended):
        scheme = trial.scheme or Scheme.INT8
        if trial.weight_bits is not None:
            build = build.with_weight_bits(trial.weight_bits)
        how = (
            _bits(item) if trial.scheme is None else f"{few(item.where)} as a plan's {scheme.value}"
        )
        uniform = Plan.uniform([site.name for site in captured.sites], scheme)
        mapping = with_qconfigs(mapping, model, captured, item.where, uniform, build)
    given = [inputs_of(model, captured, batch.inputs) for batch in subject.calibration]
    _, converted = convert_calibrated(model, captured, mapping, given, prepared.engine)

    def run(inputs: tuple[Tensor, ...]) -> Any:
        return converted(*inputs_of(model, captured, inputs))

    return run, how


def _trials(mended: Sequence[Concern]) -> Iterator[tuple[Concern, Trial]]:
    return ((item, item.trial) for item in mended if item.trial is not None)


def _bits(concern: Concern) -> str:
    assert concern.trial is not None
    return f"{few(concern.where)} in {concern.trial.weight_bits} bits"
