"""The study's journal: what a crash or a full disk leaves of it, and what it refuses."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from autoquant.errors import StorageError
from autoquant.searching.journal import Journal
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


def test_what_the_disk_refuses_names_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*journal: File too large"):
            journal.append_logs([{"op_code": 0}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal = Journal(tmp_path / "journal")
    journal.append_logs([{"op_code": 0}])
    assert list(journal.read_logs(0)) == [{"op_code": 0}]
