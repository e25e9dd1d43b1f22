"""Names of the files of a result folder; docs/result-folder.md describes each."""

from __future__ import annotations

from pathlib import Path

FORMAT = 1

LOCK = ".lock"
SIGNATURE = ".signature"
MANIFEST = "manifest.sha256"
HISTORY = "history.jsonl"
STUDY = "study.journal"
FACTS = "search.json"
JOB = "job.yaml"
ENVIRONMENT = "environment.json"
SITES = "sites.json"
SPACE = "space.json"
BASELINE = "baseline.json"
STATISTICS = "statistics.safetensors"
BUILD = "build.json"
CALLING = "calling.json"
EXAMPLE = "example.safetensors"
SENSITIVITY = "sensitivity.csv"
COSTS = "costs.json"
SENSITIVITY_UNFINISHED = "sensitivity.unfinished.csv"
FRONTIER = "frontier.json"
REPORT = "report.html"
PLANS = "plans"
TUNE = "tune.json"
TUNE_REPORT = "tune.md"
TUNED = "tuned.json"
TUNING = "tuning"

LEFTOVERS = (
    HISTORY,
    STUDY,
    BASELINE,
    STATISTICS,
    BUILD,
    SENSITIVITY,
    SENSITIVITY_UNFINISHED,
    COSTS,
)
"""What a resumed search takes over instead of finding it out again; a new one must not."""


def plan_path(folder: Path, number: int) -> Path:
    """Give the path of a candidate's plan."""
    return folder / PLANS / f"{number}.json"
