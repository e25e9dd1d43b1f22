"""A result folder that somebody else wrote runs nothing; what signs in is in no file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import autoquant as aq
from autoquant.cli import main
from autoquant.errors import StorageError
from autoquant.results import files
from tests.integration.bad_inputs.stage import write_job

REFUSED = "names functions to call, and was not written by you"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a search."""
    folder = tmp_path_factory.mktemp("searched")
    assert main(["search", str(write_job(folder))]) == 0
    return folder / "out"


@pytest.fixture
def folder(searched: Path, tmp_path: Path) -> Path:
    """A copy of it, whose job then is made to name another function."""
    return shutil.copytree(searched, tmp_path / "out")


def of_a_stranger(folder: Path) -> Path:
    """Have the folder's job leave a mark when its model is made; gives the mark."""
    mark = folder.parent / "ran"
    source = "from pathlib import Path\nfrom tests.faulty import good_model\n"
    source += f"def build():\n    Path({str(mark)!r}).touch()\n    return good_model()\n"
    (folder / "theirs.py").write_text(source)
    job = yaml.safe_load((folder / files.JOB).read_text())
    job["model"]["entry"] = f"{folder / 'theirs.py'}:build"
    (folder / files.JOB).write_text(yaml.safe_dump(job))
    (folder / files.MANIFEST).unlink()
    return mark


def test_what_this_user_wrote_is_exported_without_a_question(
    searched: Path, tmp_path: Path
) -> None:
    assert main(["export", str(searched), "-o", str(tmp_path / "m.ts")]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["export", "out", "-o", "m.ts"],
        ["confirm", "out", "-b", "onednn"],
        ["search", "out/job.yaml", "--resume"],
        ["check", "out/job.yaml"],
    ],
    ids=lambda words: words[0],
)
def test_a_strangers_folder_runs_nothing(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mark = of_a_stranger(folder)
    os.chdir(folder.parent)
    assert main(words) == 2
    assert REFUSED in capsys.readouterr().err
    assert not mark.exists()


def test_trust_lets_a_strangers_folder_be_exported(folder: Path, tmp_path: Path) -> None:
    mark = of_a_stranger(folder)
    assert main(["export", str(folder), "-o", str(tmp_path / "m.ts"), "--trust"]) == 0
    assert mark.exists()


def test_from_python_a_strangers_model_is_made_with_trust_alone(folder: Path) -> None:
    mark = of_a_stranger(folder)
    with pytest.raises(StorageError, match=REFUSED):
        aq.load_result(folder).best().qconfig_mapping()
    assert not mark.exists()
    aq.load_result(folder, trust=True).best().qconfig_mapping()
    assert mark.exists()


@pytest.mark.parametrize("number", ['"../../../mine"', "-1", "1.5", "true"])
def test_a_candidates_number_cannot_leave_the_folder(folder: Path, number: str) -> None:
    (folder / files.MANIFEST).unlink()
    history = folder / files.HISTORY
    history.write_text(history.read_text().replace('{"number":0,', f'{{"number":{number},'))
    with pytest.raises(StorageError, match=r"history\.jsonl is damaged: line [12]: "):
        aq.load_result(folder)


@pytest.fixture
def private() -> Iterator[None]:
    """Have what is written be the user's alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("private")
def test_no_file_of_a_search_holds_what_signs_in(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}?password=hunter22"
    uri = {"enabled": True, "uri": store, "tags": {"repository": "https://s3cr3t@git.example/x"}}
    (tmp_path / "job").mkdir()
    job = write_job(tmp_path / "job", {"tracking": uri})
    assert main(["search", str(job)]) == 0
    printed = "".join(capfd.readouterr())
    out = tmp_path / "job" / "out"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != job]
    for secret in (b"hunter22", b"s3cr3t"):
        assert not [path for path in written if secret in path.read_bytes() + bytes(path)]
        assert secret.decode() not in printed
    assert not [path for path in (out, *out.rglob("*")) if path.stat().st_mode & 0o077]
