"""What travels to the nodes of a cluster: our code, the user's, and the files that a job names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoquant.errors import ExecutionError, JobError
from autoquant.job import Execution, TargetNode
from autoquant.model.data.entry_points import FILES, TRAVELLED, load_entry
from autoquant.searching.measuring.workers.travelling import gather


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An entry point that has a helper and a file beside it, and was imported."""
    folder = tmp_path / "job"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "helper_beside.py").write_text("def answer():\n    return 42\n")
    (folder / "classes.txt").write_text("cat\n")
    (folder / "travelling_entry.py").write_text(
        "from pathlib import Path\n"
        "from helper_beside import answer\n"
        "def model():\n"
        "    return answer(), (Path(__file__).parent / 'classes.txt').read_text()\n"
    )
    name = f"{folder / 'travelling_entry.py'}:model"
    assert load_entry(name)() == (42, "cat\n")
    return name


def test_another_machine_runs_the_job_from_what_travelled(entry: str, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    gather(folder, [Path(entry.partition(":")[0]).with_name("classes.txt")])
    (tmp_path / "job").rename(tmp_path / "gone")
    script = (
        "import autoquant\n"
        "from autoquant.job.section import shipped_folders\n"
        "from autoquant.model.data.entry_points import load_entry\n"
        f"assert autoquant.__file__.startswith({str(folder)!r})\n"
        "assert any(place.is_dir() for place in shipped_folders('search_spaces'))\n"
        f"print(load_entry({entry!r})())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": str(folder), TRAVELLED: str(folder / FILES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(42, 'cat\\n')\n", done.stderr
    assert not (folder / "torch").exists(), "what pip installed stays"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"execution\.files: no file or folder /nowhere"):
        gather(tmp_path / "there", [Path("/nowhere")])


@pytest.mark.parametrize(
    ("key", "value"),
    [("files", ("a",)), ("packages", ("a",)), ("target", TargetNode(resource="a"))],
    ids=["files", "packages", "target"],
)
def test_without_a_cluster_nothing_travels(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{key}: is for the nodes of a cluster"):
        Execution.model_validate({key: value})


@pytest.mark.parametrize("named", [{}, {"resource": "a", "label": {"b": "c"}}], ids=str)
def test_a_target_is_named_once(named: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        TargetNode.model_validate(named)


def test_an_entry_point_that_did_not_travel_is_looked_for_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no file"):
        load_entry(f"{tmp_path / 'missing.py'}:model")


def test_what_another_python_has_installed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "other" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "installed_elsewhere.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed)])
    __import__("installed_elsewhere")
    try:
        gather(tmp_path / "there")
    finally:
        del sys.modules["installed_elsewhere"]
    assert not (tmp_path / "there" / "installed_elsewhere.py").exists()
