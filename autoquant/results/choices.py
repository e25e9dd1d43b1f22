"""The few candidates that a person chooses between, and what they compete with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoquant.core.frontier import NOISE_Z
from autoquant.core.measurement import (
    SINGLE_RIVAL_PLAN,
    Candidate,
    Measurement,
    float_plans,
    rival_plans,
)
from autoquant.core.objectives import Objective, losses_of
from autoquant.core.precision import Scheme
from autoquant.core.quantities import SINGLE_SPEEDUP
from autoquant.results.findings import Findings
from autoquant.results.wording import uniform_label


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate, and what it is the right one for."""

    title: str
    why: str
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Rival:
    """What people run without a search.

    Attributes:
        title: What it is, and on which engine where that is another than the search's.
        speedup: Over fp32 as given; None where nothing was timed.
        candidate: Where the search measured it as a candidate.
        single: Over fp32 as given on one sample, where that was timed.
    """

    title: str
    speedup: Measurement | None
    candidate: Candidate | None = None
    single: Measurement | None = None


def find_choices(findings: Findings) -> tuple[Choice, ...]:
    """Give the fastest within the limit, the safest, and what lies best between them.

    The safest is the most exact that is faster than float beyond noise. Between them stands the
    member with the largest product of what it gains over the one in cost and over the other in dB.
    Fewer than three where these are the same.
    """
    fastest = findings.chosen
    if fastest is None:
        return ()
    limit, axis = findings.facts.max_drop, (*findings.frontier.axes[1:], Objective.SIZE)[0]
    timed = "speedup" in fastest.measurements
    first = "Fastest" if timed else "Smallest"
    title = first if limit is None else f"{first} within the limit"
    found = [Choice(title, "Take it unless you have a reason not to.", fastest)]
    worth = [
        item
        for item in findings.frontier.within(limit)
        if pays(item) and item.value("sqnr_db") > fastest.value("sqnr_db")
    ]
    if not worth:
        return tuple(found)
    safest = max(worth, key=lambda item: item.value("sqnr_db"))

    def gain(item: Candidate) -> float:
        cost = axis.loss(safest.measurements) - axis.loss(item.measurements)
        return cost * (item.value("sqnr_db") - fastest.value("sqnr_db"))

    between = max(worth, key=gain)
    if gain(between) > 0.0:
        found.append(Choice("Balanced", "Much of the gain, with less error.", between))
    than = "faster than float" if timed else "smaller than float"
    found.append(Choice("Safest", f"The least error that is still {than}.", safest))
    return tuple(found)


_SURELY = 3.0


def find_trainable(findings: Findings) -> Candidate | None:
    """The plan from which training may gain: it surely loses something, and is cheap for it.

    The chosen one where it loses more than noise; else the most exact of the cheaper ones that do
    (of all, where none is within the limit). None: nothing that was measured is worth training.
    """
    chosen = findings.chosen
    if chosen is not None and _surely_loses(chosen):
        return chosen
    axes = (*findings.frontier.axes[1:2], Objective.SIZE)
    limit = None if chosen is None else losses_of(axes, chosen)
    cheaper = [
        item
        for item in findings.comparable
        for costs in [losses_of(axes, item)]
        if costs is not None and (limit is None or costs < limit) and _surely_loses(item)
    ]
    return min(cheaper, key=lambda item: item.value("accuracy_drop"), default=None)


def _surely_loses(candidate: Candidate) -> bool:
    """Whether its drop, on held-out data where it has one, is above 0 beyond noise.

    By three standard errors: of a dozen candidates one is off by two.
    """
    measured = candidate.measurements
    drop = measured.get("heldout_accuracy_drop", measured["accuracy_drop"])
    return drop.value > _SURELY * (drop.stderr or 0.0)


def pays(candidate: Candidate) -> bool:
    """Whether it is not all fp32, and, where it was timed, faster than float beyond noise."""
    if set(candidate.plan.counts()) == {Scheme.FP32.value}:
        return False
    for name in ("float_speedup", "speedup"):
        if name in candidate.measurements:
            found = candidate.measurements[name]
            return found.value - NOISE_Z * (found.stderr or 0.0) > 1.0
    return True


def is_no_faster(candidate: Candidate) -> bool:
    """Whether it was timed, and is not certainly faster than float."""
    return "speedup" in candidate.measurements and not pays(candidate)


def find_shown(findings: Findings) -> tuple[Candidate, ...]:
    """Give the candidates that come first or stand beside them, each once, as far as timed."""
    choices = [item.candidate for item in find_choices(findings)]
    rivals = [item.candidate for item in find_rivals(findings) if item.candidate is not None]
    found = {item.number: item for item in (*choices, *rivals) if "speedup" in item.measurements}
    return tuple(found.values())


def find_rivals(findings: Findings) -> Iterator[Rival]:
    """Give the float model as given, the engine's float plans and the uniform plans."""
    named: dict[str, Candidate] = {}
    for item in findings.comparable:
        label = uniform_label(item)
        if label is not None:
            named.setdefault(label, item)
    baseline = findings.frontier.baseline
    for scheme, speedup in float_plans(baseline).items():
        if f"all {scheme.title}" not in named:
            yield Rival(f"all {scheme.title}", speedup)
    for label, item in named.items():
        found = item.measurements
        yield Rival(label, found.get("speedup"), item, found.get(SINGLE_SPEEDUP.name))
    single = rival_plans(baseline, SINGLE_RIVAL_PLAN)
    for key, speedup in rival_plans(baseline).items():
        engine, scheme = key
        yield Rival(f"all {scheme.title} on {engine}", speedup, single=single.get(key))
