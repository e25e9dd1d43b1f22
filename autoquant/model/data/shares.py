"""One data set shared out: to calibrate on, to compare candidates on, and to hold out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoquant.errors import DataError
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import StreamedBatches, sizes_of

_ENOUGH = 256
"""Samples to calibrate on; more change ranges little."""

_FEWEST_BATCHES = 12
"""Data in fewer batches are cut into so many, where they are in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Parts of one data set that have no sample in common.

    Attributes:
        calibration: Batches spread over the whole set: a quarter of it, or at least 256 samples.
        evaluation: Of the other batches every second one, or all where none are held out.
        heldout: The rest; None where it is not asked for.
    """

    calibration: Sequence[Batch]
    evaluation: Sequence[Batch]
    heldout: Sequence[Batch] | None

    def __str__(self) -> str:
        parts = [
            f"{sum(sizes_of(self.calibration)):,} samples to calibrate on",
            f"{sum(sizes_of(self.evaluation)):,} to compare candidates on",
        ]
        if self.heldout is not None:
            parts.append(f"{sum(sizes_of(self.heldout)):,} held out")
        return f"the data were shared out: {', '.join(parts)}"


def share_out(batches: Sequence[Batch], *, holds_out: bool) -> Shares:
    """Share out a data set.

    Batches are dealt in turn, so that each share has some of all of a set that is sorted by class.
    """
    batches = _cut(batches)
    if len(batches) < 2 + holds_out:
        raise DataError(
            f"data of {len(batches)} batches cannot be shared out: to calibrate on, to compare "
            "candidates on" + (", and to hold out" if holds_out else ""),
            hint="give more samples, or `calibration` and `evaluation` apart",
        )
    calibration = _spread(sizes_of(batches))
    others = [place for place in range(len(batches)) if place not in calibration]
    return Shares(
        calibration=_some(batches, sorted(calibration)),
        evaluation=_some(batches, others[::2] if holds_out else others),
        heldout=_some(batches, others[1::2]) if holds_out else None,
    )


def _cut(batches: Sequence[Batch]) -> Sequence[Batch]:
    """The same samples in at least twelve batches, where they can be taken apart."""
    if len(batches) >= _FEWEST_BATCHES or isinstance(batches, StreamedBatches):
        return batches
    size = max(1, sum(map(len, batches)) // _FEWEST_BATCHES)
    return tuple(part for batch in batches for part in batch.parts(size))


def _spread(sizes: Sequence[int]) -> set[int]:
    """Places of batches that lie evenly: a quarter of them, or fewer that are enough."""
    most = max(1, len(sizes) // 4)
    enough = -(-_ENOUGH * len(sizes) // sum(sizes))
    count = min(most, enough)
    return {(2 * index + 1) * len(sizes) // (2 * count) for index in range(count)}


def _some(batches: Sequence[Batch], places: Sequence[int]) -> Sequence[Batch]:
    if isinstance(batches, StreamedBatches):
        return batches.some(places)
    return tuple(batches[place] for place in places)
