"""Says where an engine's outputs are further off than the rounding of a plan explains."""

from __future__ import annotations

from collections.abc import Sequence

from autoquant.core.measurement import Candidate
from autoquant.model.numerics.rounded_graph import choices_of
from autoquant.searching.preparing.emulated import emulated_decibels
from autoquant.searching.preparing.preparation import Preparation

_DOUBTED_DB = 25.0
"""Plans that measure as much are taken as they are, which costs nothing."""

_UNEXPLAINED_DB = 10.0
_SAMPLES = 16


def is_unexplained(measured_db: float, emulated_db: float) -> bool:
    """Whether outputs lose much, and far more than reference numerics of the same plan do."""
    return measured_db < _DOUBTED_DB and emulated_db - measured_db > _UNEXPLAINED_DB


def doubt_kernels(candidates: Sequence[Candidate], prepared: Preparation) -> str | None:
    """Hold candidates that lose much against reference numerics of the same plan.

    Measured values are of the real kernels either way: the search is led right. But where a kernel
    is at fault, a better plan than those that it finds is one mend away.

    Returns:
        A notice of the first candidate that rounding does not explain; None where there is none,
        or the model was captured module by module, which leaves no reference numerics.
    """
    captured = prepared.captured
    if captured.how != "export":
        return None
    for item in candidates:
        if item.failure is not None or "sqnr_db" not in item.measurements:
            continue
        measured = item.value("sqnr_db")
        if measured >= _DOUBTED_DB:
            continue
        plan, rounding = choices_of(item.plan), prepared.rounding
        emulated = emulated_decibels(prepared.subject, captured, rounding, plan, _SAMPLES)
        if is_unexplained(measured, emulated):
            return (
                f"candidate {item.number} measures {measured:.1f} dB on {prepared.backend.name}, "
                f"and its rounding explains {emulated:.1f} dB ({_SAMPLES} samples, emulated): some "
                "kernel there computes something else. `autoquant diagnose` names the op; pinned "
                "to another scheme in the search space, the rest may do better."
            )
    return None
