"""When to stop measuring a candidate: as soon as it can no longer reach the frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from autoquant.core.evaluation import Threshold
from autoquant.core.measurement import Measurement

CONFIDENCE_Z = 3.0
"""One look errs in 0.13% of cases; at most five looks in 0.7% (Bonferroni): 99% confidence."""

_LOOKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
_FEWEST_SAMPLES = 64


def look_after(samples: int) -> tuple[int, ...]:
    """After how many of all samples a candidate is looked at: growing subsets, each doubled."""
    return tuple(
        count for share in _LOOKS if (count := math.ceil(samples * share)) >= _FEWEST_SAMPLES
    )


def look_batches(sizes: Sequence[int]) -> tuple[int, ...]:
    """After how many batches a candidate is looked at, never after the last one."""
    seen = list(accumulate(sizes))
    looks = (
        next(place for place, done in enumerate(seen, 1) if done >= count)
        for count in look_after(sum(sizes))
    )
    return tuple(sorted({place for place in looks if place < len(sizes)}))


def why_stop(threshold: Threshold, found: Mapping[str, Measurement]) -> str | None:
    """Say why a candidate cannot reach the frontier any more, None while it can.

    It cannot when its accuracy drop is beyond the constraint, or when a rival that costs no more
    has the smaller output error while the candidate is not even one standard error ahead in
    accuracy; each with 99% confidence over all looks.
    """
    drop, sqnr = found["accuracy_drop"], found["sqnr_db"]
    if drop.stderr is None or sqnr.stderr is None:
        return None  # what was seen says nothing of how far it may be off
    if threshold.accuracy_drop is not None:
        least = drop.value - CONFIDENCE_Z * drop.stderr
        if least > threshold.accuracy_drop:
            return (
                f"accuracy drop {drop.value:.4g}, at least {least:.4g}, is beyond the limit "
                f"{threshold.accuracy_drop:g} ({_seen(sqnr)})"
            )
    if threshold.rival is None:
        return None
    most = sqnr.value + CONFIDENCE_Z * sqnr.stderr
    ahead = threshold.rival_drop - drop.value
    unsure = math.hypot(drop.stderr, threshold.rival_drop_stderr)
    if most < threshold.rival_sqnr_db and ahead <= unsure:
        return (
            f"SQNR {sqnr.value:.1f} dB, at most {most:.1f} dB, and candidate {threshold.rival}, "
            f"which costs no more, has {threshold.rival_sqnr_db:.1f} dB ({_seen(sqnr)})"
        )
    return None


def _seen(measurement: Measurement) -> str:
    return f"after {measurement.samples} samples, 99% confidence"
