"""What came out of a search, in a few plain sentences."""

from __future__ import annotations

from autoquant.core.measurement import Candidate, fastest_float
from autoquant.core.quantities import SINGLE_FLOAT_SPEEDUP, SINGLE_SPEEDUP
from autoquant.results.choices import is_no_faster
from autoquant.results.findings import Findings
from autoquant.results.wording import (
    ScoreUnit,
    bytes_text,
    candidates_text,
    counts_text,
    drop_text,
    score_unit,
    with_spread,
)

NO_FASTER = "Nothing within the limit is certainly faster than float here."


def summarize(findings: Findings) -> tuple[str, ...]:
    """Say how many candidates are worth choosing, which is the fastest, and what went wrong."""
    sentences = [_frontier_sentence(findings)]
    if findings.chosen is not None:
        sentences += _chosen_sentences(findings, findings.chosen)
    return (
        *sentences,
        *_failure_sentences(findings),
        *_stopped_sentences(findings),
        *findings.facts.notices,
    )


def training_sentence(findings: Findings, trained: Candidate | None) -> str:
    """Say which plan `find_trainable` found for training, and why."""
    if trained is None:
        return (
            "Training has nothing to bring back: the chosen plan loses nothing beyond noise, and "
            "no cheaper one was measured that surely loses something."
        )
    what = f"#{trained.number} ({counts_text(trained.plan)})"
    drop = _quality(trained, findings_unit(findings))
    chosen = findings.chosen
    if chosen is None:
        return f"Of those that lose too much the nearest is {what}, {drop}: training may mend it."
    if trained.number == chosen.number:
        return f"Training may bring back what {what} loses."
    return (
        f"#{chosen.number} loses nothing beyond noise. {what} is cheaper, {drop}: training may "
        "bring back some of it."
    )


def findings_unit(findings: Findings) -> ScoreUnit:
    """Give the unit in which the job's metric is shown."""
    return score_unit(
        [findings.frontier.baseline, *(item.measurements for item in findings.candidates)],
        findings.facts.metric,
    )


def _frontier_sentence(findings: Findings) -> str:
    tried, kept = len(findings.candidates), len(findings.frontier)
    if kept == 0:
        return (
            f"None of {candidates_text(tried)} is within the constraints: raise the budget, "
            "allow a larger accuracy drop, or allow more precise schemes."
        )
    verb = "is" if kept == 1 else "are"
    return f"{kept} of {candidates_text(tried)} {verb} worth choosing between."


def _chosen_sentences(findings: Findings, chosen: Candidate) -> list[str]:
    unit = findings_unit(findings)
    limit = findings.facts.max_drop
    allowed = f" within the allowed drop of {_amount(limit, unit)}" if limit is not None else ""
    first = "fastest" if "speedup" in chosen.measurements else "smallest"
    facts = [counts_text(chosen.plan), *_cost_facts(findings, chosen), _quality(chosen, unit)]
    sentences = [f"The {first}{allowed} is #{chosen.number}: {'; '.join(facts)}."]
    if is_no_faster(chosen):
        sentences.append(NO_FASTER)
    ahead = findings.frontier.within(limit)[0]
    if ahead.number != chosen.number:
        sentences.append(f"#{ahead.number} costs as little within noise, and has more error.")
    heldout = chosen.measurements.get("heldout_accuracy_drop")
    if heldout is not None:
        spread = drop_text(heldout, unit)
        verdict = ""
        if limit is not None:
            verdict = ", within the limit" if heldout.value <= limit else ", ABOVE the limit"
        sentences.append(
            f"On held-out data its drop is {spread} {unit.drop_unit}{verdict} "
            f"({heldout.kind.value})."
        )
    return sentences


def _cost_facts(findings: Findings, chosen: Candidate) -> list[str]:
    facts = []
    speedup = chosen.measurements.get("speedup")
    if speedup is not None:
        facts.append(
            f"{with_spread(speedup)} times the speed of {findings.facts.rival} "
            f"({speedup.kind.value})"
        )
    over_float = chosen.measurements.get("float_speedup")
    scheme = fastest_float(findings.frontier.baseline)
    if over_float is not None and scheme is not None:
        facts.append(
            f"{with_spread(over_float)} times the engine's fastest float plan, all {scheme.value}"
        )
    if SINGLE_SPEEDUP.name in chosen.measurements:
        facts.append(f"on one sample {single_text(findings, chosen)}")
    size = chosen.measurements.get("size_bytes")
    full = findings.frontier.baseline.get("size_bytes")
    if size is not None:
        share = f", {size.value / full.value:.0%} of fp32" if full and full.value else ""
        facts.append(f"{bytes_text(size.value)}{share} ({size.kind.value})")
    return facts


def single_text(findings: Findings, candidate: Candidate) -> str:
    """Say how fast a candidate is on one sample, over fp32 as given and over the float plan."""
    found = candidate.measurements
    text = f"{with_spread(found[SINGLE_SPEEDUP.name])} times {findings.facts.rival}"
    over_float = found.get(SINGLE_FLOAT_SPEEDUP.name)
    scheme = fastest_float(findings.frontier.baseline)
    if over_float is None or scheme is None:
        return text
    return f"{text}, {with_spread(over_float)} times all {scheme.value}"


def _quality(chosen: Candidate, unit: ScoreUnit) -> str:
    drop = chosen.measurements["accuracy_drop"]
    return f"drop {drop_text(drop, unit)} {unit.drop_unit} ({drop.kind.value})"


def _failure_sentences(findings: Findings) -> list[str]:
    count = len(findings.failures)
    if count == 0:
        return []
    return [f"{candidates_text(count)} failed; the reasons are listed with the failures."]


def _stopped_sentences(findings: Findings) -> list[str]:
    count = len(findings.stopped)
    if count == 0:
        return []
    noun, verb = candidates_text(count), "was" if count == 1 else "were"
    return [
        f"{noun} {verb} not measured to the end, because the frontier was out of reach; the "
        "reasons are listed."
    ]


def _amount(drop: float, unit: ScoreUnit) -> str:
    return f"{drop * unit.factor:.{unit.digits}f} {unit.drop_unit}"
