"""The study's journal: what a crash or a full disk leaves of it, and what it refuses."""

from __future__ import annotations

import resource
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from autoquant.errors import StorageError
from autoquant.searching.journal import Journal
from autoquant.searching.study import STUDY_NAME
from tests.unit.searching.test_resume import Additive, Kept, plans, search


@pytest.mark.parametrize("share", [0.0, 0.07, 0.2, 0.33, 0.46, 0.5, 0.61, 0.74, 0.87, 0.97, 0.999])
def test_a_journal_torn_anywhere_leads_to_the_same_plans(tmp_path: Path, share: float) -> None:
    kept = Kept()
    whole = search(tmp_path / "journal", Additive(), kept)
    content = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(content[: int(share * len(content))])
    again = Additive()
    assert plans(search(tmp_path / "journal", again, kept)) == plans(whole)
    assert not again.evaluated


@pytest.mark.parametrize("line", ["no json", "[1, 2]", '{"op_code": '], ids=["text", "list", "cut"])
def test_a_damaged_line_is_named_with_its_mend(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal"
    path.write_text('{"op_code": 0}\n' + line + "\n")
    with pytest.raises(StorageError, match="journal is damaged: line 2") as caught:
        Journal(path)
    assert "remove the file" in caught.value.hint


def test_a_study_of_another_version_is_refused_with_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"op_code": 0}\n{"op_code": 4, "study_id": 0}\n')
    with pytest.raises(StorageError, match="this version did not write") as caught:
        search(path, Additive(), Kept())
    assert "remove the file" in caught.value.hint


def test_what_the_disk_refuses_names_the_file_and_leaves_it_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append([{"op_code": 0}])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*journal: File too large"):
            journal.append([{"op_code": 1}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append([{"op_code": 2}])
    assert Journal(tmp_path / "journal").entries == ({"op_code": 0}, {"op_code": 2})


def test_optuna_reads_the_study(tmp_path: Path) -> None:
    history = search(tmp_path / "journal", Additive(), Kept())
    path = str(tmp_path / "journal")
    backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
    study = optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(backend))
    assert [trial.number for trial in study.trials] == [c.number for c in history.candidates]
    for trial, candidate in zip(study.trials, history.candidates, strict=True):
        assert trial.state is TrialState.COMPLETE
        assert trial.params == candidate.plan.to_json()
        assert trial.values == [-candidate.value("sqnr_db"), candidate.value("bops_ratio")]
        assert trial.user_attrs["accuracy_drop"] == candidate.value("accuracy_drop")
        assert set(trial.constraints) == {"accuracy_drop"}
    assert study.best_trials
