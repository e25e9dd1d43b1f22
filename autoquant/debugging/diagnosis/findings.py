"""Suspects that explain the error become findings; the rest of the error is shared out by op."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from autoquant.core.precision import Scheme
from autoquant.debugging.diagnosis.repairs import Repairs
from autoquant.debugging.diagnosis.suspects import Suspect
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.data.output_noise import to_decibels

EXPLAINS = 2.0
"""A cause stands when mending it halves the noise: half of the error, or more, is its own."""

Loss = Callable[[Tensor], float]
"""One number from the noise-to-signal ratios of the probe's samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """What mending one suspect does."""

    suspect: Suspect
    before: float
    after: float


def prove(
    suspects: Sequence[Suspect],
    repairs: Repairs,
    loss: Loss,
    limit_db: float,
    progress: Callable[[int], None] = lambda steps: None,
) -> tuple[Proof, ...]:
    """Keep the suspects that explain at least half of the error.

    A suspect is mended alone; where several are at work, alone none may help, so it also counts
    when the outputs stay bad as long as it alone is left unmended.
    """
    before = _mended(repairs, loss, ())
    everything = _mended(repairs, loss, suspects)
    proofs = []
    for suspect in suspects:
        after = _mended(repairs, loss, [suspect])
        without = _mended(repairs, loss, [item for item in suspects if item is not suspect])
        is_needed = without >= EXPLAINS * everything and to_decibels(without) < limit_db
        if before >= EXPLAINS * after or is_needed:
            proofs.append(Proof(suspect, before, after))
        progress(1)
    return tuple(proofs)


@dataclass(frozen=True, slots=True)
class Coarse:
    """Ops that are too coarse though their ranges are right."""

    sites: tuple[str, ...]
    before: float
    after: float


def find_coarse(
    repairs: Repairs, loss: Loss, progress: Callable[[int], None] = lambda steps: None
) -> Coarse:
    """Find the fewest ops whose rounding makes at least half of the error.

    Ops are ranked by what each gains alone in fp32; the shortest head of that ranking that halves
    the noise is taken, found by doubling.
    """
    before = loss(repairs.noise())
    alone: dict[str, float] = {}
    for site, scheme in repairs.plan.assignment:
        if scheme is Scheme.FP32:
            continue
        alone[site] = loss(repairs.noise(raised=[site]))
        progress(1)
    ranking = sorted(alone, key=alone.__getitem__)
    count, after = 1, alone[ranking[0]]
    while before < EXPLAINS * after and count < len(ranking):
        count = min(2 * count, len(ranking))
        after = loss(repairs.noise(raised=ranking[:count]))
    return Coarse(tuple(ranking[:count]), before, after)


def _mended(repairs: Repairs, loss: Loss, suspects: Iterable[Suspect]) -> float:
    grids: dict[str, Grid | None] = {}
    raised: list[str] = []
    weights: list[str] = []
    for suspect in suspects:
        grids |= suspect.mended
        raised.extend(suspect.raised)
        weights.extend(suspect.weights)
    return loss(repairs.noise(grids, raised, weights))
