"""Wrong kernels in words, and what they cost at the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autoquant.core.findings.diagnosis import Cause, Finding, KernelCheck
from autoquant.core.glance import few
from autoquant.debugging.diagnosis.findings import EXPLAINS
from autoquant.debugging.diagnosis.kernels import BuiltPlan, run_with_references
from autoquant.debugging.diagnosis.probe_set import ProbeSet
from autoquant.debugging.samples.sample_error import energies
from autoquant.model.data.batches import Batch
from autoquant.model.data.output_noise import to_decibels
from autoquant.model.data.outputs import output_rows


@dataclass(frozen=True, slots=True)
class KernelFault:
    """All wrong kernels of a plan.

    Attributes:
        finding: In words; its decibels are measured, on the native kernels.
        explains: Whether they make at least half of the output error.
    """

    finding: Finding
    explains: bool


def weigh_kernels(
    checks: Sequence[KernelCheck],
    model: nn.Module,
    built: BuiltPlan,
    probe: ProbeSet,
    engines: Iterable[str],
) -> KernelFault | None:
    """Put a reference in place of every wrong kernel, and see what that gains.

    Returns:
        None where all kernels are right.
    """
    wrong = [check for check in checks if not check.is_right]
    if not wrong:
        return None
    names = [check.site for check in wrong]
    inputs = probe.batch.inputs
    expected = model(*inputs)
    before = probe.loss(_noise(expected, built.shown.nest(built.graph(*inputs)), probe.batch))
    mended = run_with_references(built, inputs, names)
    after = probe.loss(_noise(expected, mended, probe.batch))
    finding = Finding(
        cause=Cause.KERNEL,
        sites=tuple(names),
        touching=tuple(names),
        samples=(),
        evidence="; ".join(map(_evidence, wrong[:3])),
        step=_step(names, next(iter(engines), None)),
        before_db=to_decibels(before),
        after_db=to_decibels(after),
    )
    return KernelFault(finding, before >= EXPLAINS * after)


def _noise(expected: Any, found: Any, batch: Batch) -> Tensor:
    signal, noise = energies(output_rows(expected, batch), output_rows(found, batch))
    return noise / signal.clamp_min(1e-300)


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
