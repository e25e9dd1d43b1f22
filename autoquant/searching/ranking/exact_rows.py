"""Which rows of a table are worth measuring exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.ranking.trials import Trial

NOISE_SHARE = 0.9
ROW_SHARE = 1 / 3


def most_exact_rows(row_count: int) -> int:
    """How many of so many rows may be measured exactly."""
    return floor(row_count * ROW_SHARE)


def rows_that_matter(
    space: SearchSpace, trials: Sequence[Trial], table: SensitivityTable
) -> tuple[Trial, ...]:
    """Choose the rows worth measuring exactly: all of the knobs that make most of the noise.

    The smallest set of knobs whose rows hold 90% of the summed noise of the cheapest scheme, but
    no more than a third of all rows. Most noise first.
    """
    noise = _noise_of_cheapest(space, table)
    limit = most_exact_rows(len(trials))
    wanted = NOISE_SHARE * sum(noise.values())
    chosen: list[Trial] = []
    covered = 0.0
    for knob in sorted(space.free, key=lambda knob: -noise[knob]):
        rows = [trial for trial in trials if trial.knob is knob]
        if covered >= wanted or len(chosen) + len(rows) > limit:
            break
        covered += noise[knob]
        chosen += rows
    return tuple(chosen)


def _noise_of_cheapest(space: SearchSpace, table: SensitivityTable) -> Mapping[Knob, float]:
    """Noise of each free knob under the cheapest scheme, or under the cheapest that it allows."""
    losses = table.losses()

    def noise(knob: Knob) -> float:
        cheapest = space.schemes[0] if space.schemes[0] in knob.schemes else knob.schemes[0]
        return 0.0 if cheapest is Scheme.FP32 else losses.get((knob.name, cheapest), 0.0)

    return {knob: noise(knob) for knob in space.free}
