"""Candidates and findings as MLflow's parameters, metrics and tags."""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import own_goals
from autoquant.core.secrets import masked
from autoquant.results.environment import TIMED_ON
from autoquant.results.findings import Findings, SearchFacts
from autoquant.results.summary import summarize
from autoquant.results.table import CandidateTable, candidate_table, to_markdown

SEARCH_TAG = "autoquant.search_id"
NUMBER_TAG = "autoquant.candidate"
CONTENT_TAG = "autoquant.content"
FRONTIER_TAG = "frontier"
FAILURE_TAG = "failure"
MODEL_TAG = "model"
STOPPED_TAG = "stopped"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
RESUMED_PREFIX = "resumed."

_LONGEST_TAG = 5000
_LONGEST_NOTE = 7500
_LONGEST_PARAMETER = 500


def content_digest(candidate: Candidate) -> str:
    """Give a digest of all that a candidate holds: a run with the same one is up to date."""
    text = json.dumps(candidate.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def candidate_parameters(candidate: Candidate) -> dict[str, str]:
    """Give digest, origin and the count of ops by scheme (`ops.int8`)."""
    counts = {f"ops.{scheme}": str(count) for scheme, count in candidate.plan.counts().items()}
    return {"digest": candidate.digest, "origin": candidate.origin, **counts}


def candidate_metrics(candidate: Candidate) -> dict[str, float]:
    """Give every measurement with its standard error, and seconds by phase."""
    seconds = {f"seconds.{phase}": value for phase, value in candidate.seconds.items()}
    return measurement_metrics(candidate.measurements) | seconds


def measurement_metrics(measurements: Measurements, prefix: str = "") -> dict[str, float]:
    """Give `<name>` and `<name>_stderr` of each measurement."""
    metrics: dict[str, float] = {}
    for name, item in measurements.items():
        metrics[prefix + name] = item.value
        if item.stderr is not None:
            metrics[f"{prefix}{name}_stderr"] = item.stderr
    return metrics


def kind_tags(measurements: Measurements, prefix: str = "") -> dict[str, str]:
    """Give `kind.<name>` of each measurement; of a speedup also its `clock`, and `busy`."""
    tags = {f"kind.{prefix}{name}": item.kind.value for name, item in measurements.items()}
    speedup = measurements.get("speedup")
    if speedup is not None and speedup.clock is not None:
        tags[f"{prefix}clock"] = speedup.clock.value
        tags[f"{prefix}busy"] = "yes" if speedup.busy else "no"
    return tags


def candidate_tags(candidate: Candidate) -> dict[str, str]:
    """Give content, kinds, plan (where it is short enough), and why it failed or was stopped."""
    tags = {
        CONTENT_TAG: content_digest(candidate),
        **kind_tags(candidate.measurements),
    }
    plan = plan_text(candidate)
    if len(plan) <= _LONGEST_TAG:
        tags["plan"] = plan
    if candidate.failure is not None:
        tags[FAILURE_TAG] = candidate.failure.reason[:_LONGEST_TAG]
    if candidate.stopped is not None:
        tags[STOPPED_TAG] = candidate.stopped[:_LONGEST_TAG]
    return tags


def plan_text(candidate: Candidate) -> str:
    """Give the plan as one line of JSON."""
    return json.dumps(candidate.plan.to_json(), separators=(",", ":"))


def search_tags(
    facts: SearchFacts, environment: Mapping[str, Any], tags: Mapping[str, str]
) -> dict[str, str]:
    """Give the tags of the parent run: the user's, the search's id, and where it ran."""
    git = environment.get("git") or {}
    revision = {"mlflow.source.git.commit": git["revision"]} if git.get("revision") else {}
    return {
        **_source_tags(),
        **revision,
        **{name: masked(value) for name, value in tags.items()},
        SEARCH_TAG: facts.search_id,
        **_fact_tags(facts),
    }


def child_tags(parent: str, candidate: Candidate) -> dict[str, str]:
    """Give the tags by which a candidate's run is found again."""
    return {PARENT_TAG: parent, NUMBER_TAG: str(candidate.number), **_source_tags()}


def search_parameters(facts: SearchFacts, environment: Mapping[str, Any]) -> dict[str, str]:
    """Give the settings, and the versions and CPU of the environment."""
    versions = environment.get("versions") or {}
    cpu = environment.get("cpu") or {}
    timed = environment.get(TIMED_ON) or {}
    values = {
        "name": facts.name,
        "max_drop": facts.max_drop,
        **facts.settings,
        **{f"version.{name}": value for name, value in versions.items()},
        "cpu": cpu.get("model"),
        **{f"{TIMED_ON}.{name}": value for name, value in timed.items()},
    }
    return {
        name: str(value)[:_LONGEST_PARAMETER] for name, value in values.items() if value is not None
    }


def findings_metrics(findings: Findings) -> dict[str, float]:
    """Give the parent's metrics: counts, hypervolume, baseline and the chosen member."""
    metrics: dict[str, float] = {
        "hypervolume": findings.frontier.hypervolume,
        "candidates": len(findings.candidates),
        "failures": len(findings.failures),
        "stopped": len(findings.stopped),
        "frontier_members": len(findings.frontier),
        **measurement_metrics(findings.frontier.baseline, "baseline."),
    }
    if findings.chosen is not None:
        metrics |= measurement_metrics(findings.chosen.measurements, "chosen.")
    return metrics


def findings_tags(findings: Findings) -> dict[str, str]:
    """Give the parent's closing tags: kinds of its metrics, and the note that its page shows."""
    tags = {
        NOTE_TAG: note_text(findings),
        **_fact_tags(findings.facts),
        **kind_tags(findings.frontier.baseline, "baseline."),
        **{f"unit.{g.value}": g.unit for g in own_goals(findings.frontier.objectives) if g.unit},
    }
    if findings.chosen is not None:
        tags |= {"chosen": str(findings.chosen.number)}
        tags |= kind_tags(findings.chosen.measurements, "chosen.")
    return tags


def note_text(findings: Findings) -> str:
    """Give summary and frontier table as markdown, within what a tag can hold."""
    table = candidate_table(
        findings.frontier.members,
        findings.frontier.baseline,
        findings.facts.rival,
        findings.facts.metric,
        own_goals(findings.frontier.objectives),
    )
    head = "\n\n".join(
        [
            " ".join(summarize(findings)),
            "Pictures, plans and all details: artifact `report.html`.",
        ]
    )
    kept = len(table.rows)
    while True:
        text = f"{head}\n\n{_shortened(table, kept)}"
        if len(text) <= _LONGEST_NOTE or kept == 1:
            return text[:_LONGEST_NOTE]
        kept -= 1


def _shortened(table: CandidateTable, kept: int) -> str:
    left_out = len(table.rows) - kept
    notes = table.notes
    if left_out:
        notes = (f"{left_out} more members are in the report.", *notes)
    return to_markdown(CandidateTable(table.columns, table.rows[:kept], notes))


def _fact_tags(facts: SearchFacts) -> dict[str, str]:
    return {"target": facts.target, "metric": facts.metric}


def _source_tags() -> dict[str, str]:
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": "autoquant",
        "mlflow.source.type": "LOCAL",
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"
