"""What the float model scores and takes: once in a search, whoever resumes it."""

from __future__ import annotations

from pathlib import Path

from autoquant.core.measurement import Measurements
from autoquant.errors import DataError
from autoquant.results.forms import BASELINE
from autoquant.searching.begun import Begun
from autoquant.searching.measuring.workers.alarm import float_in_time
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.stages import Stages

_TIES = 2.5
"""So many samples may score otherwise where the same is computed in another order."""
_SAME = 1e-3
"""A metric over the data set differs by no more then, as a share of it."""


def measure_baseline(begun: Begun, prepared: Preparation) -> Measurements:
    """Measure the float model, or take over what an earlier process measured.

    Raises:
        DataError: The evaluation data, or the metric, are not those of the earlier process.
    """
    folder = begun.folder.path
    known = BASELINE.find(folder)
    if known is not None:
        with begun.progress.stage("scoring the float model again", None):
            _check_scores(known, prepared.evaluator.float_scores(), folder)
        return known
    limit = float_in_time(begun.job.execution.timeout)
    with begun.progress.stage("measuring the float model", None), limit:
        baseline = begun.timed.baseline(prepared)
    begun.folder.write(BASELINE, baseline)
    return baseline


def with_heldout(stages: Stages) -> Stages:
    """Score the float model on held-out data: once there is an answer, which needs none of it."""
    if stages.prepared.subject.heldout is None or "heldout_accuracy" in stages.baseline:
        return stages
    limit = float_in_time(stages.begun.job.execution.timeout)
    with stages.begun.progress.stage("scoring the float model on held-out data", None), limit:
        return stages.knowing(stages.prepared.evaluator.heldout_baseline())


def _check_scores(known: Measurements, found: Measurements, folder: Path) -> None:
    """Refuse to go on with other evaluation data, or another metric, than a search began with."""
    before, now = known["accuracy"], found["accuracy"]
    share = max(_TIES / (now.samples or 1), _SAME)
    if abs(now.value - before.value) > share * max(1.0, abs(before.value)):
        raise DataError(
            f"the float model scores {now.value:g} here, and {before.value:g} in {folder}: the "
            "evaluation data or the metric are others",
            hint="--resume (Python: resume=True) needs the same; or choose another output",
        )
