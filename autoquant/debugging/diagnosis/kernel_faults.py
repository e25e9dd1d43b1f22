"""Wrong kernels in words, and what they cost at the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from autoquant.backends.targets import load_target
from autoquant.core.findings.diagnosis import Cause, Finding, KernelCheck, Pattern
from autoquant.core.glance import few
from autoquant.debugging.diagnosis.findings import EXPLAINS
from autoquant.debugging.diagnosis.kernels import build_handed_out, check_kernels
from autoquant.debugging.diagnosis.probe_set import ProbeSet, noise_of
from autoquant.debugging.diagnosis.repairs import Repairs
from autoquant.errors import BackendError, ModelError
from autoquant.model.data.batches import take_samples
from autoquant.model.data.output_noise import to_decibels
from autoquant.model.graph.node_shapes import shape_of
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.doubts import is_unexplained
from autoquant.searching.measuring.evaluator import MeasurementSettings
from autoquant.searching.pair import Pair

KERNEL_SAMPLES = 16
"""Samples on which kernels are compared with their reference."""
_MOST_ELEMENTS = 2**26
"""Of all results together that are kept at once; samples run in parts of as many as that allows."""
_APART = 4.0
"""Outputs with so many times the noise that reference numerics of the plan have (6 dB) say that
something is wrong which no op shows that hands out its result."""


@dataclass(frozen=True, slots=True)
class KernelFault:
    """All wrong kernels of a plan.

    Attributes:
        finding: In words; its decibels are of the outputs as they run, and by reference.
        explains: Whether they make at least half of the output error.
    """

    finding: Finding
    explains: bool


@dataclass(frozen=True, slots=True)
class KernelAudit:
    """A plan's kernels against their references.

    Attributes:
        fault: The wrong ones; None: none is.
        notes: Why none was compared, or what no single op explains.
    """

    fault: KernelFault | None
    notes: tuple[str, ...]


def audit_kernels(
    pair: Pair, marked: SiteNodes, rounding: SchemeRounding, probe: ProbeSet, repairs: Repairs
) -> KernelAudit:
    """Check every kernel of a pair's plan on a few samples, and weigh what is wrong.

    Takes one more conversion and build of the model, whose outputs are the results of all its ops.
    """
    prepared = pair.prepared
    inputs = _few(pair, marked, probe)

    def look(settings: MeasurementSettings) -> tuple[KernelCheck, ...]:
        request = prepared.request(settings.build)
        target = load_target(settings.build.backend)
        built = build_handed_out(target, request, marked, pair.plan, pair.executable)
        return check_kernels(built, rounding, inputs)

    checks: tuple[KernelCheck, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        checks = look(prepared.settings)
    except (BackendError, ModelError) as error:
        why = f"no kernel was compared with its reference: {pair.backend.name} does not build the "
        notes = (f"{why}model with all results as outputs ({error.message})",)
    before = probe.loss(noise_of(pair, probe.batch))
    after = probe.loss(repairs.noise())
    wrong = _wrong(checks)
    if wrong:
        engine = next(_right_engines(prepared.settings, look, set(wrong)), None)
        return KernelAudit(_weighed(wrong, before, after, engine), ())
    if probe.pattern is Pattern.HEALTHY:  # as a search doubts a candidate
        is_apart = is_unexplained(to_decibels(before), to_decibels(after))
    else:
        is_apart = before >= _APART * after
    if is_apart:
        notes = (*notes, _beside(pair, before, after, are_compared=bool(checks)))
    return KernelAudit(None, notes)


def _few(pair: Pair, marked: SiteNodes, probe: ProbeSet) -> list[tuple[Tensor, ...]]:
    """Inputs of the first samples, in parts whose results fit into memory."""
    elements = sum(math.prod(shape_of(node) or ()) for node in marked.lasts)
    size = _MOST_ELEMENTS * len(pair.prepared.subject.calibration[0]) // max(elements, 1)
    batches = take_samples([probe.batch], KERNEL_SAMPLES)
    return [part.inputs for batch in batches for part in batch.parts(max(size, 1))]


def _wrong(checks: Sequence[KernelCheck]) -> dict[str, KernelCheck]:
    return {check.site: check for check in checks if not check.is_right}


def _beside(pair: Pair, before: float, after: float, *, are_compared: bool) -> str:
    wrong = (
        "and no op alone is wrong: what it fuses, or does beside the ops, is"
        if are_compared
        else "so some op computes something else: pin ops to fp32 one by one until both agree"
    )
    return (
        f"as {pair.backend.name} runs the plan its outputs have {to_decibels(before):.1f} dB, by "
        f"reference numerics {to_decibels(after):.1f}, {wrong}"
    )


def _right_engines(
    settings: MeasurementSettings,
    look: Callable[[MeasurementSettings], Sequence[KernelCheck]],
    wrong: Collection[str],
) -> Iterator[str]:
    """Other engines of this target that run the plan, with right kernels at some ops.

    Each as what a job says of the backend to choose it: `engine=fbgemm`.
    """
    build = settings.build
    for variant in load_target(build.backend).variants().values():
        if variant.options.items() <= build.options.items():
            continue
        try:
            seen = look(settings.building(options=variant.options))
        except (BackendError, ModelError):
            continue
        if not _wrong(seen).keys() & wrong:
            yield ", ".join(f"{key}={value}" for key, value in variant.options.items())


def _weighed(
    wrong: Mapping[str, KernelCheck], before: float, after: float, engine: str | None
) -> KernelFault:
    """Wrong kernels, and what they cost: noise as the plan runs, and by reference numerics."""
    names = tuple(wrong)
    finding = Finding(
        cause=Cause.KERNEL,
        sites=names,
        touching=names,
        samples=(),
        evidence="; ".join(map(_evidence, [*wrong.values()][:3])),
        step=_step(names, engine),
        before_db=to_decibels(before),
        after_db=to_decibels(after),
    )
    return KernelFault(finding, before >= EXPLAINS * after)


def _evidence(check: KernelCheck) -> str:
    return (
        f"the kernel of {check.site} ({check.scheme.value}) is up to {check.roundings:.3g} times "
        f"as far from its reference computation as rounding explains, at {check.share:.2%} of its "
        "elements"
    )


def _step(names: Sequence[str], engine: str | None) -> str:
    other = f"use another engine, which is right here (--set backend.{engine})"
    pin = f"pin {few(names)} to fp32 (space.rules), and report it to whoever makes the engine"
    return pin if engine is None else f"{other} or {pin}"
