"""Reading a result folder: needs no lock, so a running search can be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from autoquant.core.frontier import Frontier
from autoquant.core.os_errors import storage_errors
from autoquant.errors import StorageError
from autoquant.job.yaml_text import parse_yaml
from autoquant.results import files
from autoquant.results.findings import Findings
from autoquant.results.forms import BASELINE, COSTS, ENVIRONMENT, FACTS, SENSITIVITY, SITES, SPACE
from autoquant.results.frontier_file import read_frontier
from autoquant.results.history import read_history
from autoquant.results.manifest import verify
from autoquant.results.storage import damaged, read_text


def load_findings(folder: Path) -> Findings:
    """Read all that a finished search found."""
    with storage_errors(folder, "read"):
        is_folder = folder.is_dir()
    if not is_folder:
        raise StorageError(f"no folder {folder}", hint="give the output folder of a search")
    verify(folder)
    space, table = SPACE.find(folder), SENSITIVITY.find(folder)
    return Findings(
        facts=FACTS.load(folder),
        job_text=read_text(folder / files.JOB),
        environment=ENVIRONMENT.load(folder),
        sites=tuple(SITES.load(folder)),
        candidates=read_history(folder / files.HISTORY),
        frontier=load_frontier(folder),
        sensitivity=None if table is None else replace(table, space=space),
        costs=COSTS.find(folder),
    )


def load_job_document(folder: Path) -> dict[str, Any]:
    """Read `job.yaml` as keys and values.

    Raises:
        JobError: It is no YAML; names the line.
    """
    path = folder / files.JOB
    document = parse_yaml(read_text(path), str(path))
    if not isinstance(document, dict):
        raise damaged(path, "it holds no mapping")
    return document


def load_frontier(folder: Path) -> Frontier:
    """Read `frontier.json`; members come whole from the history, the baseline from its file."""
    path, candidates = folder / files.FRONTIER, read_history(folder / files.HISTORY)
    frontier, known = read_frontier(path, candidates), {item.number: item for item in candidates}
    for member in frontier.members:
        if member.number not in known or known[member.number].digest != member.digest:
            raise damaged(path, f"{files.HISTORY} lacks its member {member.number}")
    baseline = BASELINE.find(folder)
    return frontier if baseline is None else replace(frontier, baseline=baseline)
