"""What `autoquant tune` tried, as rows, Markdown and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoquant.core.findings.tuning import RULE, Attempt, Stage, TuneReport, Verdict
from autoquant.core.json_values import fields_json
from autoquant.core.plan import PLAN_FORMAT, Plan
from autoquant.results import files
from autoquant.results.storage import write_json, write_text
from autoquant.results.wording import ScoreUnit, counts_text, drop_text, score_unit

HEADS = ("stage", "tried", "ops", "int16 share", "drop", "verdict")


def tune_rows(report: TuneReport) -> list[tuple[str, ...]]:
    """One row for each plan that was measured, in order; the chosen one is marked.

    Of the search only what meets the goal; `tune.json` has all.
    """
    unit = tune_unit(report)
    return [_row(attempt, unit, attempt is report.chosen) for attempt in _shown(report)]


def _shown(report: TuneReport) -> list[Attempt]:
    return [
        attempt
        for attempt in report.attempts
        if attempt.stage is not Stage.SEARCH or attempt.verdict is Verdict.MET
    ]


def tune_unit(report: TuneReport) -> ScoreUnit:
    """In which unit the metric is shown."""
    everything = [attempt.candidate.measurements for attempt in report.attempts]
    return score_unit(everything, report.metric)


def tune_sentences(report: TuneReport) -> list[str]:
    """How it ended, and what to do next."""
    unit = tune_unit(report)
    goal = f"Goal: a drop of at most {report.goal * unit.factor:g} {unit.drop_unit}."
    said = [goal, report.conclusion]
    hidden = len(report.attempts) - len(_shown(report))
    if hidden:
        said.append(f"{hidden} plans of the search that do not surely meet it are not listed.")
    chosen = report.chosen
    heldout = chosen.candidate.measurements.get("heldout_accuracy_drop") if chosen else None
    if heldout is not None:
        verdict = "within" if heldout.value <= report.goal else "ABOVE"
        said.append(
            f"On held-out data its drop is {drop_text(heldout, unit)} {unit.drop_unit}, "
            f"{verdict} the goal ({heldout.kind.value})."
        )
    return said


def _row(attempt: Attempt, unit: ScoreUnit, is_chosen: bool) -> tuple[str, ...]:
    drop = attempt.candidate.measurements.get("accuracy_drop")
    verdict = attempt.verdict.value
    if attempt.verdict is Verdict.FAILED and attempt.candidate.failure is not None:
        verdict = f"failed: {attempt.candidate.failure.reason}"
    elif attempt.candidate.stopped is not None:
        verdict = "out of reach, stopped early"
    return (
        attempt.stage.value,
        attempt.why,
        counts_text(attempt.plan),
        f"{attempt.plan.int16_share:.0%}",
        "" if drop is None else drop_text(drop, unit),
        f"{verdict}, chosen" if is_chosen else verdict,
    )


def tune_markdown(report: TuneReport, name: str) -> str:
    """The short report."""
    unit = tune_unit(report)
    heads = [head if head != "drop" else f"drop, {unit.drop_unit}" for head in HEADS]
    lines = [
        f"# Tuning {name}",
        "",
        *tune_sentences(report),
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in tune_rows(report)),
        "",
        RULE,
    ]
    if report.chosen is not None:
        wide = [
            f"- `{site}`: {scheme.value}"
            for site, scheme in report.chosen.plan.assignment
            if scheme.value != "int8"
        ]
        lines += ["", "## Ops above int8 in the chosen plan", "", *(wide or ["none"])]
    return "\n".join(lines) + "\n"


def tune_json(report: TuneReport) -> dict[str, Any]:
    """Give the report as JSON values; `plans` are what a search takes as seeds."""
    return {
        "format": PLAN_FORMAT,
        "goal": report.goal,
        "reached": report.chosen is not None,
        "conclusion": report.conclusion,
        "rule": RULE,
        "chosen": None if report.chosen is None else report.chosen.plan.digest,
        "attempts": [
            {**fields_json(attempt, but=("candidate",)), **attempt.candidate.to_json()}
            for attempt in report.attempts
        ],
        "plans": [
            {"digest": plan.digest, "plan": plan.to_json()} for plan in _result_plans(report)
        ],
    }


def _result_plans(report: TuneReport) -> list[Plan]:
    """Plans that stages ended with, the chosen one first, each once."""
    chosen = [] if report.chosen is None else [report.chosen.plan]
    return list(dict.fromkeys([*chosen, *(attempt.plan for attempt in report.results)]))


def write_tuning(folder: Path, report: TuneReport, name: str) -> None:
    """Write `tune.json`, `tune.md`, and the plan where there is one, `tuned.json`."""
    write_json(folder / files.TUNE, tune_json(report))
    write_text(folder / files.TUNE_REPORT, tune_markdown(report, name))
    if report.plan is not None:
        write_text(folder / files.TUNED, report.plan.file_text())
    else:
        (folder / files.TUNED).unlink(missing_ok=True)
