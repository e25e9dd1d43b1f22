"""Ranges by observers of the user's own: functions of what calibration saw of a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from autoquant.core.build import BuildSettings
from autoquant.core.ranges import ObserverName, OwnRange
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.errors import JobError
from autoquant.job import Calibration
from autoquant.job.section import Entry
from autoquant.model.calibration.range_rules import bind_observers
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.entry_points import load_entry
from autoquant.model.graph.captured import Capture

OwnObserver = Callable[[TensorStatistics], Any]


def own_ranges(
    calibration: Calibration,
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: BuildSettings,
) -> tuple[OwnRange, ...]:
    """Ask the user's observers for the range of each tensor that they are named for.

    Raises:
        JobError: One fails, or gives no two finite numbers in order.
    """
    bound = bind_observers(calibration, captured)
    named = [*bound.values(), calibration.observer]
    if all(isinstance(item, ObserverName) for item in named):
        return ()
    owners = TensorRanges(captured, statistics, settings)
    made: dict[int, OwnObserver] = {id(item): _observer(item) for item in named if not _named(item)}
    found = []
    for tensor, seen in statistics.tensors.items():
        site = owners.owner(tensor)
        observer = bound.get(site or "", calibration.observer)
        if not _named(observer):
            found.append(_range(made[id(observer)], tensor, site or tensor, seen))
    return tuple(found)


def _named(observer: object) -> bool:
    return isinstance(observer, ObserverName)


def _observer(given: Any) -> OwnObserver:
    """A function as it is; a class made once, with the entry's arguments."""
    arguments: Mapping[str, Any] = given.arguments if isinstance(given, Entry) else {}
    function = load_entry(given.entry) if isinstance(given, Entry) else given
    try:
        if isinstance(function, type):
            made: OwnObserver = function(**arguments)
            return made
    except Exception as error:
        raise JobError(
            f"calibration: the observer {function.__name__} cannot be made: "
            f"{type(error).__name__}: {error}",
            hint="change its arguments",
        ) from error
    return partial(function, **arguments)


def _range(observer: OwnObserver, tensor: str, site: str, seen: TensorStatistics) -> OwnRange:
    where = f"calibration: your observer, for {site!r},"
    try:
        low, high = map(float, observer(seen))
    except Exception as error:
        raise JobError(
            f"{where} failed: {type(error).__name__}: {error}",
            hint="it is called with the statistics of a tensor, and gives its (low, high)",
        ) from error
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise JobError(
            f"{where} gave ({low}, {high})", hint="give two finite numbers, the smaller one first"
        )
    return OwnRange(tensor, low, high)
