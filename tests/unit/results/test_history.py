from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoquant.core.history import Ask
from autoquant.core.measurement import Candidate
from autoquant.core.precision import Scheme
from autoquant.errors import StorageError
from autoquant.results.history import History, read_history, read_past
from tests.unit.results.synthetic import make_candidate


def candidate(number: int, drop: float = 0.001) -> Candidate:
    return make_candidate(number, {"conv": Scheme.INT8, "fc": Scheme.FP32}, drop=drop)


def write(path: Path, candidates: list[Candidate]) -> None:
    history = History(path)
    for item in candidates:
        history.candidate(item)
    history.close()


def test_what_is_appended_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, [candidate(0), candidate(1)])
    write(path, [candidate(2)])
    assert read_history(path) == (candidate(0), candidate(1), candidate(2))


def test_a_later_record_of_a_number_supersedes_the_earlier(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, [candidate(0), candidate(1), candidate(0, drop=0.5)])
    assert read_history(path) == (candidate(0, drop=0.5), candidate(1))


def test_a_later_record_leaves_out_what_did_not_change(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, [candidate(0), candidate(0, drop=0.5)])
    first, second = path.read_text().splitlines()
    assert "plan" in json.loads(first)
    assert "plan" not in json.loads(second)
    assert read_history(path) == (candidate(0, drop=0.5),)


def test_a_later_record_of_another_plan_says_so(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    other = make_candidate(0, {"conv": Scheme.FP32, "fc": Scheme.FP32})
    write(path, [candidate(0), other])
    assert read_history(path) == (other,)


def test_asks_and_rounds_are_read_back_between_candidates(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    asks = [Ask(number, candidate(number).plan, "tpe", round=1) for number in (0, 1)]
    history = History(path)
    history.asked(asks[0])
    history.candidate(candidate(0))
    history.asked(asks[1])
    history.candidate(candidate(1))
    history.told(1)
    history.asked(later := Ask(2, candidate(2).plan, "tpe", round=2))
    history.candidate(candidate(0, drop=0.5))
    history.close()
    past = read_past(path)
    assert past.asked == (*asks, later)
    assert past.told == {0: candidate(0), 1: candidate(1)}
    assert past.candidates == (candidate(0, drop=0.5), candidate(1))
    assert path.read_text().count('"plan"') == 3, "once for each number"


def test_a_candidate_that_was_told_and_is_not_there_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.asked(Ask(0, candidate(0).plan, "tpe", round=1))
    history.told(1)
    history.told(2)
    history.close()
    with pytest.raises(StorageError, match="line 2: no line before it holds candidate 0"):
        read_past(path)


def test_a_record_that_refers_to_a_missing_one_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, [candidate(0), candidate(0, drop=0.5), candidate(1)])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(StorageError, match=r"history\.jsonl is damaged: line 1"):
        read_history(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(min_value=1, max_value=400))
def test_a_torn_last_line_costs_nothing_else(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "torn.jsonl"
    path.unlink(missing_ok=True)
    write(path, [candidate(0), candidate(1), candidate(2)])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    kept = (candidate(0), candidate(1), candidate(2)) if cut == 1 else (candidate(0), candidate(1))
    assert read_history(path) == kept
    write(path, [candidate(3)])
    assert read_history(path) == (*kept, candidate(3))


def test_zeros_that_a_power_cut_leaves_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, [candidate(0)])
    with path.open("ab") as file:
        file.write(b"\0" * 100)
    write(path, [candidate(1)])
    assert read_history(path) == (candidate(0), candidate(1))


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, [candidate(0)])
    path.write_bytes(b'{"number": 7}\n' + path.read_bytes())
    with pytest.raises(StorageError, match=r"history\.jsonl is damaged: line 1"):
        read_history(path)


def test_a_missing_history_is_empty(tmp_path: Path) -> None:
    assert read_history(tmp_path / "history.jsonl") == ()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_refused_write_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.candidate(candidate(0))
    before = path.read_bytes()
    with (
        largest_file(len(before) + 50),
        pytest.raises(StorageError, match=r"cannot write .*history\.jsonl"),
    ):
        history.candidate(candidate(1))
    assert path.read_bytes() == before
    history.candidate(candidate(1))
    history.close()
    assert read_history(path) == (candidate(0), candidate(1))


def test_a_history_that_was_deleted_or_moved_away_is_said(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "search", tmp_path / "elsewhere"
    folder.mkdir()
    history = History(folder / "history.jsonl")
    history.candidate(candidate(0))
    folder.rename(elsewhere)
    with pytest.raises(StorageError, match=r"cannot write .*history\.jsonl: No such file") as told:
        history.candidate(candidate(1))
    assert "put it back" in told.value.hint
    elsewhere.rename(folder)
    history.candidate(candidate(1))
    history.close()
    assert read_history(folder / "history.jsonl") == (candidate(0), candidate(1))
