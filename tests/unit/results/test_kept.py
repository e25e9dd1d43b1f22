"""What a search keeps is taken again whole, or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme
from autoquant.results import files
from autoquant.results.forms import COSTS
from autoquant.results.kept import Kept, cache_folder

TABLE = CostTable(
    0.1,
    {("a", Scheme.INT8): 0.25, ("a", Scheme.FP32): 0.7},
    {("a", "b"): {(Scheme.INT8, Scheme.FP32): 0.01}},
    Kind.MEASURED,
)
OTHER = replace(TABLE, constant=9.0)


def recalled(kept: Kept, found: CostTable, depends_on: object = "model") -> CostTable:
    return kept.recall("costs", COSTS, lambda: depends_on, lambda: found)


def entry_of(folder: Path) -> Path:
    (entry,) = folder.iterdir()
    return entry


def test_what_was_found_is_taken_with_its_time(tmp_path: Path) -> None:
    recalled(Kept(tmp_path), TABLE)
    os.utime(entry_of(tmp_path) / files.COSTS, (0.0, 1_700_000_000.0))
    later = Kept(tmp_path)
    found = recalled(later, OTHER)
    assert (found.constant, found.ops, found.edges) == (TABLE.constant, TABLE.ops, TABLE.edges)
    (taken,) = later.taken
    assert taken.startswith("costs (2023-11-1")


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: recalled(Kept(folder), OTHER, "another model"),
        lambda folder: recalled(Kept(folder, context="another version"), OTHER),
        lambda folder: Kept(folder).recall("times", COSTS, lambda: "model", lambda: OTHER),
    ],
    ids=["model", "context", "value"],
)
def test_what_depends_on_something_else_is_found_anew(
    tmp_path: Path, other: Callable[[Path], CostTable]
) -> None:
    recalled(Kept(tmp_path), TABLE)
    assert other(tmp_path).constant == 9.0


@pytest.mark.parametrize("kept", [Kept(None), Kept], ids=["off", "not told"])
def test_nothing_is_kept_without_a_folder_or_where_nothing_tells_what_decides(
    tmp_path: Path, kept: Kept | type[Kept]
) -> None:
    chosen, depends_on = (kept, "model") if isinstance(kept, Kept) else (Kept(tmp_path), None)
    recalled(chosen, TABLE, depends_on)
    assert recalled(chosen, OTHER, depends_on).constant == 9.0
    assert not chosen.taken
    assert not list(tmp_path.iterdir())


def change(path: Path) -> None:
    path.write_text(path.read_text().replace("0.25", "0.35"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: change(entry / files.COSTS),
        lambda entry: (entry / files.COSTS).write_bytes(b""),
        lambda entry: (entry / files.MANIFEST).unlink(),
        lambda entry: (entry / files.MANIFEST).write_text("nothing\n"),
    ],
    ids=["changed", "empty", "without checksum", "foreign checksum"],
)
def test_a_damaged_entry_is_found_anew_and_replaced(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    recalled(Kept(tmp_path), TABLE)
    spoil(entry_of(tmp_path))
    kept = Kept(tmp_path)
    assert recalled(kept, OTHER).constant == 9.0
    assert not kept.taken
    assert recalled(Kept(tmp_path), TABLE).constant == 9.0


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_time(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    assert recalled(Kept(place / "autoquant"), TABLE) is TABLE


def test_the_oldest_entries_go_when_all_are_too_large(tmp_path: Path) -> None:
    recalled(Kept(tmp_path), TABLE, 0)
    size = sum(path.stat().st_size for path in entry_of(tmp_path).iterdir())
    os.utime(entry_of(tmp_path), (0.0, 0.0))
    bounded = Kept(tmp_path, most_bytes=2 * size)
    recalled(bounded, TABLE, 1)
    assert len(list(tmp_path.iterdir())) == 2
    recalled(bounded, TABLE, 2)
    assert len(list(tmp_path.iterdir())) == 2
    assert recalled(bounded, OTHER, 0).constant == 9.0


def test_entries_have_the_modes_of_the_users_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        recalled(Kept(tmp_path / "cache"), TABLE)
    finally:
        os.umask(before)
    entry = entry_of(tmp_path / "cache")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o750
    assert stat.S_IMODE((entry / files.COSTS).stat().st_mode) == 0o640


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "autoquant"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "autoquant"


def in_a_process_of(user: int, function: Callable[[], object]) -> str:
    """What a function gives when another user calls it, as `repr`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(user)
            found = repr(function())
        except BaseException as error:  # noqa: BLE001  # told to the parent
            found = repr(error)
        os.write(writing, found.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        found = told.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_folder_that_may_not_be_read_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    recalled(Kept(tmp_path / "cache"), TABLE)
    (tmp_path / "cache").chmod(0o700)
    found = in_a_process_of(54321, lambda: recalled(Kept(tmp_path / "cache"), OTHER).constant)
    assert found == "9.0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    assert in_a_process_of(54321, cache_folder) == "None"
