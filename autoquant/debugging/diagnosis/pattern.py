"""Is the error more than rounding makes, and on how many samples?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autoquant.core.findings.badcases import BadCases
from autoquant.core.findings.diagnosis import Pattern
from autoquant.model.calibration.ranges.grid import Grid

IDEAL_DB = 40.0
"""SQNR of one int8 tensor whose range fits: 6.02 x 8 + 4.77 - 20 log10(peak / rms), with a peak of
4.3 times the rms (Bennett 1948; Jayant and Noll, Digital Coding of Waveforms, eq. 4.3.15)."""
MARGIN_DB = 6.0
"""What a model may be below the ideal sum: a bit."""
TYPICAL_DB = 20.0
"""A median sample above this, less than 1% of noise, is never called bad."""
BAD_DB = 10.0
"""A single sample is bad below this, with noise of more than a tenth of its signal..."""
LOUD_DB = 20.0
"""...and of a hundred times the median sample's: an output near zero has little signal and the
usual noise. The energy of one normal error is 100 times its median (0.45 of the variance) beyond
6.7 standard deviations, which no sample of a fair billion reaches."""


def typical_limit_db(grids: Iterable[Grid]) -> float:
    """The SQNR below which the median sample is bad.

    Independent roundings add up: n tensors of 255 steps at 40 dB each leave 40 - 10 log10 n at the
    outputs, finer ones count less by the square of their steps. A bit less than that is bad, but
    nothing above 20 dB is.
    """
    tensors = sum((255.0 / (grid.high - grid.low)) ** 2 for grid in grids)
    expected = IDEAL_DB - 10.0 * math.log10(max(tensors, 1e-6))
    return min(expected - MARGIN_DB, TYPICAL_DB)


def pattern_of(cases: BadCases, limit_db: float, bad: Sequence[int]) -> Pattern:
    """Tell whether most samples are bad, few (`bad`), or none."""
    if cases.sqnr.quantile(0.5) < limit_db:
        return Pattern.INSENSITIVE
    return Pattern.SENSITIVE if bad else Pattern.HEALTHY


def bad_samples(cases: BadCases) -> tuple[int, ...]:
    """Samples whose noise is large beside their signal (`loud`), and beside the median's too."""
    limit = cases.noise.quantile(0.5) + LOUD_DB
    return tuple(case.index for case in cases.loud if case.value >= limit)
