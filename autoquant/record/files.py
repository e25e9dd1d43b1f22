"""Names of the files of a result folder; docs/result-folder.md describes each."""

from __future__ import annotations

from pathlib import Path

FORMAT = 1

LOCK = ".lock"
HISTORY = "history.jsonl"
FACTS = "search.json"
JOB = "job.yaml"
ENVIRONMENT = "environment.json"
SITES = "sites.json"
SPACE = "space.json"
BASELINE = "baseline.json"
STATISTICS = "statistics.safetensors"
SENSITIVITY = "sensitivity.csv"
FRONTIER = "frontier.json"
REPORT = "report.html"
PLANS = "plans"


def plan_path(folder: Path, number: int) -> Path:
    """Give the path of a candidate's plan."""
    return folder / PLANS / f"{number}.json"
