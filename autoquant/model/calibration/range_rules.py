"""A job's rules of calibration meet a model: the observer and the fixed range of each site."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

from autoquant.core.build import BuildSettings
from autoquant.core.ranges import FixedRange, ObserverName, OwnRange, RangeRules
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.errors import JobError
from autoquant.job import Calibration
from autoquant.job.section import Entry
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.entry_points import load_entry
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.same_values import value_sources

INPUTS = "inputs."
"""Before the names of the model's inputs, in patterns of fixed ranges."""

_Value = TypeVar("_Value")


def bind_ranges(
    calibration: Calibration, captured: Capture, of_target: Mapping[str, tuple[float, float]]
) -> RangeRules:
    """Bind a job's patterns to the sites and inputs of a model; later patterns win.

    Tensors that share a scale (a pool's and what it reads) take the rule of the first of them.

    Args:
        calibration: What the job says.
        captured: The model.
        of_target: By site, the range that the target fixes, where the job fixes none.

    Raises:
        JobError: A pattern matches nothing, or only sites whose range something else decides;
            names all such patterns.
    """
    rules = RangeRules(calibration.percentile, calibration.averaging)
    if not calibration.sites and not calibration.fixed_ranges and not of_target:
        return rules
    names = _names_by_tensor(captured)
    groups = _sharing(captured, names)
    sites = _leaders([site.name for site in captured.sites], groups)
    all_names = _leaders([*sites, *_input_names(captured).values()], groups)
    ruled = {site.name for site in captured.sites if site.output_range is not None}
    mistakes = [
        *_mistakes("calibration.sites", calibration.sites, sites, ruled),
        *_mistakes("calibration.fixed_ranges", calibration.fixed_ranges, all_names, ruled),
    ]
    if mistakes:
        raise JobError.of("calibration", mistakes)
    of_job = _bind(calibration.fixed_ranges, all_names)
    fixed = {name: of_target[top] for name, top in all_names.items() if top in of_target} | of_job
    return RangeRules(
        percentile=calibration.percentile,
        averaging=calibration.averaging,
        sites=tuple(
            (name, observer)
            for name, observer in _bind(calibration.sites, sites).items()
            if isinstance(observer, ObserverName)
        ),
        fixed=tuple(
            FixedRange(
                name=name,
                low=low,
                high=high,
                tensors=tuple(tensor for tensor, owner in names.items() if owner == name),
                reads=tuple(_reads(captured, name)),
                is_job=name in of_job,
            )
            for name, (low, high) in fixed.items()
            if name not in ruled
        ),
    )


def bind_observers(calibration: Calibration, captured: Capture) -> dict[str, ObserverName | Any]:
    """By site, what `calibration.sites` names for it; the user's own functions included."""
    groups = _sharing(captured, _names_by_tensor(captured))
    return _bind(calibration.sites, _leaders([site.name for site in captured.sites], groups))


def _sharing(captured: Capture, names: Mapping[str, str]) -> list[list[str]]:
    """Names whose tensors share a scale."""
    return [
        [names[tensor] for tensor in (source, holder) if tensor in names]
        for holder, source in value_sources(captured.graph).items()
    ]


def _leaders(names: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """By name, the first of those that share a scale with it; itself where none does."""
    leaders = {name: name for name in names}
    for group in groups:
        first, *others = [name for name in dict.fromkeys(group) if name in leaders] or [""]
        leaders.update(dict.fromkeys(others, leaders.get(first, first)))
    return leaders


def _names_by_tensor(captured: Capture) -> dict[str, str]:
    """By node, the site or input whose tensor it is; the inner ops of a site have none."""
    return _input_names(captured) | {
        tensor: site
        for tensor, site in _writers(captured).items()
        if tensor not in captured.inner_nodes and tensor not in captured.no_tensors
    }


def _writers(captured: Capture) -> dict[str, str]:
    """By node, the site whose result it is."""
    lasts = {name: site.name for name, site in captured.lasts.items()}
    results = {  # an LSTM gives several tensors, of which the first is its output
        node.name: lasts[node.args[0].name]
        for node in captured.graph.graph.nodes
        if node.target is operator.getitem and node.args[1] == 0 and node.args[0].name in lasts
    }
    return lasts | results


def _input_names(captured: Capture) -> dict[str, str]:
    """By node, the name of the model's input that it is."""
    nodes = [node for node in captured.graph.graph.nodes if node.op == "placeholder"]
    by_node = len(nodes) != len(captured.calling.names)
    names = [str(node.target) for node in nodes] if by_node else captured.calling.names
    return {
        node.name: f"{INPUTS}{name}"
        for node, name in zip(nodes, names, strict=True)
        if node.name not in captured.no_tensors
    }


def _reads(captured: Capture, name: str) -> Iterator[str | None]:
    """What writes each tensor that a site reads; None: no site does."""
    writers = _writers(captured)
    sources = value_sources(captured.graph)
    roots = {group[0] for group in captured.members.get(name, ())}
    for node in captured.graph.graph.nodes:
        if node.name in roots:
            for source in node.all_input_nodes:
                if source.op != "get_attr" and source.name not in captured.no_tensors:
                    yield writers.get(sources.get(source.name, source.name))


def _bind(patterns: Mapping[str, _Value], leaders: Mapping[str, str]) -> dict[str, _Value]:
    """By name, what the last pattern that matches its leader says."""
    found = {
        leader: value
        for pattern, value in patterns.items()
        for leader in leaders.values()
        if fnmatchcase(leader, pattern)
    }
    return {name: found[leader] for name, leader in leaders.items() if leader in found}


def _mistakes(
    key: str, patterns: Mapping[str, object], leaders: Mapping[str, str], ruled: set[str]
) -> Iterator[str]:
    """Patterns that match nothing, or nothing that they could change."""
    for pattern in patterns:
        matched = [name for name in leaders if fnmatchcase(name, pattern)]
        if not matched:
            yield f"{key}: {pattern!r} matches nothing in this model; {_nearest(pattern, leaders)}"
        elif all(name in ruled for name in matched):
            yield (
                f"{key}: {pattern!r} changes nothing: the definition of {matched[0]!r} fixes its "
                "range; leave it out"
            )
        elif not any(leaders[name] == name for name in matched):
            yield (
                f"{key}: {pattern!r} changes nothing: {matched[0]!r} shares the scale of "
                f"{leaders[matched[0]]!r}; write the rule for that one"
            )


def _nearest(pattern: str, names: Mapping[str, str]) -> str:
    known: Sequence[str] = list(names)
    close = difflib.get_close_matches(pattern.replace("*", ""), known, n=5, cutoff=0.1)
    return f"names are like {', '.join(close or known[:5])}; search --dry-run lists all sites"


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
    except (Exception, SystemExit) as error:
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
    except (Exception, SystemExit) as error:
        raise JobError(
            f"{where} failed: {type(error).__name__}: {error}",
            hint="it is called with the statistics of a tensor, and gives its (low, high)",
        ) from error
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise JobError(
            f"{where} gave ({low}, {high})", hint="give two finite numbers, the smaller one first"
        )
    return OwnRange(tensor, low, high)
