"""From what a command was given to a candidate, a model, a store."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoquant.cli.options import ask_for_trust
from autoquant.errors import PlanError
from autoquant.job import Job, load_job
from autoquant.model.recipes import load_model
from autoquant.results import files
from autoquant.results.trust import refuse_stranger
from autoquant.searching.candidate import ResultCandidate
from autoquant.searching.result import SearchResult


def find_candidate(
    result: SearchResult, number: int | None, max_drop: float | None
) -> ResultCandidate:
    """The candidate that a command means."""
    if number is not None and max_drop is not None:
        raise PlanError(
            f"--number {number} names a candidate and --max-drop {max_drop} looks for one",
            hint="give one of them",
        )
    if number is None:
        return result.best(max_drop)
    found = result.candidate(number)
    if found.failure is not None:
        raise PlanError(
            f"candidate {number} failed: {found.failure.reason}", hint="choose a frontier member"
        )
    return found


def job_of(path: Path) -> Job:
    """The job of a job file or of a result folder."""
    return load_job(path / files.JOB if path.is_dir() else path)


def load_model_of(folder: Path, *, trust: bool) -> nn.Module:
    """The float model of a search, by its job's entry point."""
    refuse_stranger(folder, trust=ask_for_trust(folder, trust))
    return load_model(job_of(folder))
