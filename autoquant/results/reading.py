"""Reading a result folder: needs no lock, so a running search can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from autoquant.core.build import BuildSettings
from autoquant.core.costs import CostTable
from autoquant.core.frontier import Frontier
from autoquant.core.json_values import value_of
from autoquant.core.measurement import Candidate, Measurement
from autoquant.core.os_errors import storage_errors
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import StorageError
from autoquant.job.yaml_text import parse_yaml
from autoquant.results import files
from autoquant.results.costs_file import read_costs
from autoquant.results.findings import Findings, SearchFacts
from autoquant.results.frontier_file import read_frontier
from autoquant.results.history import read_history
from autoquant.results.manifest import verify
from autoquant.results.sensitivity_file import read_sensitivity
from autoquant.results.statistics_file import read_statistics
from autoquant.results.storage import (
    Value,
    damaged,
    read_document,
    read_mapping,
    read_text,
    rebuild,
    well_formed,
)


def load_findings(folder: Path) -> Findings:
    """Read all that a finished search found."""
    with storage_errors(folder, "read"):
        is_folder = folder.is_dir()
    if not is_folder:
        raise StorageError(f"no folder {folder}", hint="give the output folder of a search")
    verify(folder)
    return Findings(
        facts=load_facts(folder),
        job_text=load_job_text(folder),
        environment=load_environment(folder),
        sites=load_sites(folder),
        candidates=load_candidates(folder),
        frontier=load_frontier(folder),
        sensitivity=_sensitivity(folder),
        costs=load_costs(folder) if (folder / files.COSTS).exists() else None,
    )


def _sensitivity(folder: Path) -> SensitivityTable | None:
    """The table with the knobs that it is of; None where there is none."""
    if not (folder / files.SENSITIVITY).exists():
        return None
    space = load_space(folder) if (folder / files.SPACE).exists() else None
    return replace(load_sensitivity(folder), space=space)


def load_facts(folder: Path) -> SearchFacts:
    """Read `search.json`."""
    return rebuild(folder / files.FACTS, SearchFacts.from_json)


def load_job_text(folder: Path) -> str:
    """Read `job.yaml`."""
    return read_text(folder / files.JOB)


def load_job_document(folder: Path) -> dict[str, Any]:
    """Read `job.yaml` as keys and values.

    Raises:
        JobError: It is no YAML; names the line.
    """
    path = folder / files.JOB
    document = parse_yaml(load_job_text(folder), str(path))
    if not isinstance(document, dict):
        raise damaged(path, "it holds no mapping")
    return document


def load_environment(folder: Path) -> Mapping[str, Any]:
    """Read `environment.json`."""
    return read_mapping(folder / files.ENVIRONMENT)


def load_sites(folder: Path) -> tuple[Site, ...]:
    """Read the sites of `sites.json`, in graph order."""
    return rebuild(folder / files.SITES, lambda found: value_of(tuple[Site, ...], found["sites"]))


def load_space(folder: Path) -> SearchSpace:
    """Read `space.json`."""
    return rebuild(folder / files.SPACE, partial(value_of, SearchSpace))


def load_baseline(folder: Path) -> dict[str, Measurement]:
    """Read `baseline.json`."""
    path = folder / files.BASELINE
    document = read_mapping(path)
    with well_formed(path):
        return value_of(dict[str, Measurement], document)


def load_statistics(folder: Path) -> CalibrationStatistics:
    """Read `statistics.safetensors`."""
    return read_statistics(folder / files.STATISTICS)


def known(load: Callable[[Path], Value], folder: Path | None) -> Value | None:
    """What an earlier process kept in its folder; None where there is none."""
    if folder is None:
        return None
    try:
        return load(folder)
    except StorageError:
        return None


def load_build(folder: Path) -> BuildSettings:
    """Read `build.json`."""
    return rebuild(folder / files.BUILD, BuildSettings.from_json)


def load_calling(folder: Path) -> dict[str, Any] | None:
    """Read `calling.json`; None where an older version searched."""
    path = folder / files.CALLING
    return read_document(path) if path.exists() else None


def load_costs(folder: Path) -> CostTable:
    """Read `costs.json`."""
    return read_costs(folder / files.COSTS)


def load_sensitivity(folder: Path) -> SensitivityTable:
    """Read `sensitivity.csv`."""
    return read_sensitivity(folder / files.SENSITIVITY)


def load_candidates(folder: Path) -> tuple[Candidate, ...]:
    """Read `history.jsonl`: every candidate's last record, by number."""
    return read_history(folder / files.HISTORY)


def load_frontier(folder: Path) -> Frontier:
    """Read `frontier.json`; members come whole from the history, the baseline from its file."""
    path, candidates = folder / files.FRONTIER, load_candidates(folder)
    frontier, known = read_frontier(path, candidates), {item.number: item for item in candidates}
    for member in frontier.members:
        if member.number not in known or known[member.number].digest != member.digest:
            raise damaged(path, f"{files.HISTORY} lacks its member {member.number}")
    if not (folder / files.BASELINE).exists():
        return frontier
    return replace(frontier, baseline=load_baseline(folder))
