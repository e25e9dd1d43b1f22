"""The study of a search, as optuna-dashboard reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from autoquant.core.measurement import Failure
from autoquant.core.objectives import Objective
from autoquant.job import Constraints
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.study import STUDY_NAME, write_study
from tests.unit.searching.test_resume import Additive, search, space_of

OBJECTIVES = (Objective.OUTPUT_ERROR, Objective.BOPS)
LIMITS = Limits(Constraints(accuracy_drop=0.02), {})


def read(path: Path) -> optuna.Study:
    backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
    return optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(backend))


def test_a_trial_is_a_candidate(tmp_path: Path) -> None:
    candidates = search(Additive()).candidates
    write_study(tmp_path / "study", space_of(6), OBJECTIVES, LIMITS, candidates)
    study = read(tmp_path / "study")
    assert [trial.number for trial in study.trials] == [item.number for item in candidates]
    for trial, candidate in zip(study.trials, candidates, strict=True):
        assert trial.state is TrialState.COMPLETE
        assert trial.params == candidate.plan.to_json()
        assert trial.values == [-candidate.value("sqnr_db"), candidate.value("bops_ratio")]
        assert trial.user_attrs["accuracy_drop"] == candidate.value("accuracy_drop")
        assert trial.user_attrs["origin"] == candidate.origin
        assert set(trial.constraints) == {"accuracy_drop"}
    assert study.best_trials


def test_a_failure_is_a_failed_trial(tmp_path: Path) -> None:
    first, second = search(Additive(), trials=8).candidates[:2]
    failed = replace(first, measurements={}, failure=Failure("no engine"))
    write_study(tmp_path / "study", space_of(6), OBJECTIVES, LIMITS, (failed, second))
    assert [trial.state.name for trial in read(tmp_path / "study").trials] == ["FAIL", "COMPLETE"]


def test_the_file_is_written_anew(tmp_path: Path) -> None:
    candidates = search(Additive(), trials=8).candidates
    (tmp_path / "study").write_text("nonsense")
    for _ in range(2):
        write_study(tmp_path / "study", space_of(6), OBJECTIVES, LIMITS, candidates)
    assert len(read(tmp_path / "study").trials) == len(candidates)
