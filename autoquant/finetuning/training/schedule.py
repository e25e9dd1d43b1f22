"""The learning rate over a training: it begins at its highest and falls, without a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

from autoquant.errors import JobError

Schedule = Callable[[float], float]
"""Factor of the learning rate, by progress from 0 to 1."""


def cosine(progress: float) -> float:
    """Half a cosine, from 1 to 0 (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts).

    >>> round(cosine(0.0), 3), round(cosine(0.5), 3), round(cosine(1.0), 3)
    (1.0, 0.5, 0.0)
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def tail_of(schedule: Schedule, share: float) -> Schedule:
    """The last part of a float training's schedule, scaled to begin at 1.

    Args:
        schedule: Learning rate of the float training by progress from 0 to 1, in any unit.
        share: Length of the part, above 0 and at most 1.

    >>> halved = tail_of(lambda progress: 8 * (1 - progress), share=0.25)
    >>> halved(0.0), halved(0.5), halved(1.0)
    (1.0, 0.5, 0.0)
    """
    start = 1.0 - share
    first = _rate(schedule, start)
    if first <= 0.0:
        raise JobError(
            f"float_schedule gives {first:g} at progress {start:g}, where fine-tuning begins",
            hint="give a schedule that is above 0 there, or raise share",
        )
    return lambda progress: _rate(schedule, start + share * progress) / first


def _rate(schedule: Schedule, progress: float) -> float:
    try:
        found = float(schedule(progress))
    except Exception as error:
        raise JobError(
            f"float_schedule failed at progress {progress:g}: {type(error).__name__}: {error}",
            hint="it is called with the progress of the float training, from 0 to 1",
        ) from error
    if not math.isfinite(found) or found < 0.0:
        raise JobError(
            f"float_schedule gives {found} at progress {progress:g}",
            hint="give a finite learning rate that is not negative",
        )
    return found
