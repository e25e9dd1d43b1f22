from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from autoquant.core.history import Ask
from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan, load_plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.errors import StorageError
from autoquant.results import files, forms
from autoquant.results import reading as results
from autoquant.results.findings import Findings
from autoquant.results.folder import ResultFolder
from tests.unit.results.synthetic import BASELINE, ENVIRONMENT, make_candidate, make_site


def statistics() -> CalibrationStatistics:
    rng = np.random.default_rng(0)

    def tensor(channels: int) -> TensorStatistics:
        return TensorStatistics(
            low=-1.0 / 3.0,
            high=0.1,
            histogram=rng.random(16, dtype=np.float32),
            histogram_low=-0.25,
            histogram_high=1e-7,
            channel_low=-rng.random(channels, dtype=np.float32),
            channel_high=rng.random(channels, dtype=np.float32),
            sample_low=-rng.random(5, dtype=np.float32),
            sample_high=rng.random(5, dtype=np.float32),
        )

    return CalibrationStatistics({"x": tensor(3), "conv+cat/0": tensor(0)}, 5, "abc")


def write_everything(folder: ResultFolder, findings: Findings) -> None:
    folder.write_job(findings.job_text)
    folder.write(forms.FACTS, findings.facts)
    folder.write(forms.ENVIRONMENT, findings.environment)
    folder.write(forms.SITES, findings.sites)
    folder.write(forms.BASELINE, findings.frontier.baseline)
    if findings.sensitivity is not None:
        folder.write(forms.SENSITIVITY, findings.sensitivity)
    for item in findings.candidates:
        folder.candidate(item)
    folder.write_frontier(findings.frontier)


def test_everything_is_read_back_as_it_was_written(tmp_path: Path, findings: Findings) -> None:
    with closing(ResultFolder.create(tmp_path / "out")) as folder:
        write_everything(folder, findings)
        assert folder.past().candidates == findings.candidates
    assert results.load_findings(tmp_path / "out") == findings


def test_sites_space_and_baseline_are_read_back(tmp_path: Path) -> None:
    sites = (make_site("conv"), make_site("fc"))
    space = SearchSpace((Knob("conv", ("conv", "fc"), (Scheme.INT8, Scheme.FP32)),))
    with closing(ResultFolder.create(tmp_path)) as folder:
        folder.write(forms.SITES, sites)
        folder.write(forms.SPACE, space)
        folder.write(forms.BASELINE, BASELINE)
        folder.write(forms.ENVIRONMENT, ENVIRONMENT)
    assert forms.SITES.load(tmp_path) == sites
    assert forms.SPACE.load(tmp_path) == space
    assert forms.BASELINE.load(tmp_path) == BASELINE
    assert forms.ENVIRONMENT.load(tmp_path) == ENVIRONMENT


def test_a_folder_that_still_holds_addresses_of_calls_is_read(tmp_path: Path) -> None:
    sites = (make_site("conv"),)
    with closing(ResultFolder.create(tmp_path)) as folder:
        folder.write(forms.SITES, sites)
    path = tmp_path / "sites.json"
    document = json.loads(path.read_text())
    address = {"node": "conv", "call": "module", "scope": "conv", "target": "", "index": 0}
    path.write_text(json.dumps({**document, "addresses": [{**address, "site": "conv"}]}))
    assert forms.SITES.load(tmp_path) == sites


def test_statistics_are_read_back_to_the_last_bit(tmp_path: Path) -> None:
    before = statistics()
    with closing(ResultFolder.create(tmp_path)) as folder:
        folder.write(forms.STATISTICS, before)
    after = forms.STATISTICS.load(tmp_path)
    assert (after.samples, after.digest) == (before.samples, before.digest)
    assert list(after.tensors) == list(before.tensors)
    for key, expected in before.tensors.items():
        found = after.tensors[key]
        for name in TensorStatistics.__slots__:
            np.testing.assert_array_equal(
                getattr(found, name), getattr(expected, name), strict=True
            )


def test_an_empty_sensitivity_table_is_read_back(tmp_path: Path) -> None:
    with closing(ResultFolder.create(tmp_path)) as folder:
        table = SensitivityTable((), method="none", samples=0)
        folder.write(forms.SENSITIVITY, table)
    assert forms.SENSITIVITY.load(tmp_path).rows == ()


def test_the_plans_of_the_frontier_are_files_that_load_plan_reads(
    tmp_path: Path, findings: Findings
) -> None:
    with closing(ResultFolder.create(tmp_path)) as folder:
        folder.write_frontier(findings.frontier)
    for member in findings.frontier:
        assert load_plan(tmp_path / "plans" / f"{member.number}.json") == member.plan


def test_a_new_search_takes_nothing_over_from_one_without_candidates(tmp_path: Path) -> None:
    with closing(ResultFolder.create(tmp_path)) as folder:
        folder.write(forms.BASELINE, BASELINE)
        folder.write(forms.STATISTICS, statistics())
        (tmp_path / files.STUDY).touch()
        folder.asked(Ask(0, Plan.of({"conv": Scheme.INT8}), "tpe", round=1))
    with closing(ResultFolder.create(tmp_path)):
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {files.LOCK, files.HISTORY}
        assert not (tmp_path / files.HISTORY).read_text()


def test_a_new_search_does_not_overwrite_an_old_one(tmp_path: Path) -> None:
    with closing(ResultFolder.create(tmp_path / "digits")) as folder:
        for number in range(37):
            folder.candidate(make_candidate(number, {"conv": Scheme.INT8}))
    with pytest.raises(
        StorageError, match="digits already holds a search of 37 candidates"
    ) as told:
        ResultFolder.create(tmp_path / "digits")
    assert "--resume" in told.value.hint
    with closing(ResultFolder.resume(tmp_path / "digits")) as folder:
        assert len(folder.past().candidates) == 37


def test_a_folder_without_finished_candidates_can_be_taken_again(tmp_path: Path) -> None:
    ResultFolder.create(tmp_path).close()
    ResultFolder.create(tmp_path).close()


def test_resuming_needs_a_search(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no search to resume"):
        ResultFolder.resume(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def other_owner(tmp_path: Path) -> Iterator[int]:
    """Another process that holds the folder, by its id."""
    script = (
        "import pathlib, sys; from autoquant.results.folder import ResultFolder\n"
        f"folder = ResultFolder.create(pathlib.Path({str(tmp_path / 'out')!r}))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process.pid
    process.kill()
    process.communicate()


def test_two_controllers_cannot_share_a_folder(tmp_path: Path, other_owner: int) -> None:
    with pytest.raises(StorageError, match=f"is in use by process {other_owner}"):
        ResultFolder.create(tmp_path / "out")


def test_a_killed_controller_leaves_no_lock_behind(tmp_path: Path, other_owner: int) -> None:
    os.kill(other_owner, 9)
    os.waitpid(other_owner, 0)
    ResultFolder.create(tmp_path / "out").close()


def test_a_nearly_full_disk_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"MiB left; a search needs 1099511627776"):
        ResultFolder.create(tmp_path, free_bytes=2**60)


@pytest.mark.parametrize("path", ["/proc/autoquant", "/dev/null/out"], ids=["proc", "under-a-file"])
def test_a_place_that_cannot_be_written_is_named(path: str) -> None:
    with pytest.raises(StorageError, match=path):
        ResultFolder.create(Path(path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(folder: ResultFolder, candidates: list[Candidate]) -> None:
    for item in candidates:
        folder.candidate(item)


def test_a_full_disk_is_named_and_keeps_what_was_finished(small_disk: Path) -> None:
    plan = {f"block.{index}.conv": Scheme.INT8 for index in range(100)}
    with closing(ResultFolder.create(small_disk, free_bytes=0)) as folder:
        with pytest.raises(StorageError, match=r"history\.jsonl: No space left") as told:
            fill(folder, [make_candidate(number, plan) for number in range(1000)])
        finished = len(folder.past().candidates)
        with pytest.raises(StorageError, match=r"report\.html: No space left"):
            folder.write_report("x" * 100_000)
    assert "--resume" in told.value.hint
    assert finished > 3
    assert sorted(path.name for path in small_disk.iterdir()) == [".lock", "history.jsonl"]


def test_a_file_is_replaced_whole_or_not_at_all(small_disk: Path) -> None:
    with closing(ResultFolder.create(small_disk, free_bytes=0)) as folder:
        folder.write_report("old")
        with pytest.raises(StorageError):
            folder.write_report("x" * 100_000)
    assert (small_disk / "report.html").read_text() == "old"


LOADERS = {
    "search.json": forms.FACTS.load,
    "sites.json": forms.SITES.load,
    "space.json": forms.SPACE.load,
    "baseline.json": forms.BASELINE.load,
    "environment.json": forms.ENVIRONMENT.load,
    "statistics.safetensors": forms.STATISTICS.load,
    "build.json": forms.BUILD.load,
    "sensitivity.csv": forms.SENSITIVITY.load,
    "frontier.json": results.load_frontier,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match=f"holds no {name}"):
        LOADERS[name](tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense", b"[1, 2]", b"a,b\n1,2\n"])
@pytest.mark.parametrize("name", [name for name in LOADERS if name != "sensitivity.csv"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match=f"{name} is damaged"):
        LOADERS[name](tmp_path)


def test_a_damaged_spreadsheet_is_named(tmp_path: Path) -> None:
    (tmp_path / "sensitivity.csv").write_text("knob,scheme\nconv,int8\n")
    with pytest.raises(StorageError, match=r"sensitivity\.csv is damaged: no key 'part'"):
        forms.SENSITIVITY.load(tmp_path)


def test_a_file_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "sites.json").write_text('{"format": 2, "sites": []}')
    with pytest.raises(StorageError, match="has the format 2; this version reads 1"):
        forms.SITES.load(tmp_path)
