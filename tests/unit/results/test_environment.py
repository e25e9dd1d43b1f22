from __future__ import annotations

import json
import subprocess
from pathlib import Path

from autoquant.results.environment import describe_environment


def test_the_environment_is_json_and_names_versions_and_cpu(tmp_path: Path) -> None:
    found = describe_environment(tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"].startswith("2.")
    assert found["cpu"]["cores"] >= found["cpu"]["cores_usable"] >= 1
    assert found["cpu"]["model"]


def test_outside_a_repository_there_is_no_revision(tmp_path: Path) -> None:
    assert describe_environment(tmp_path)["git"] is None


def test_uncommitted_changes_make_the_revision_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    git("init")
    (tmp_path / "job.yaml").write_text("a")
    git("add", "job.yaml")
    git("commit", "-m", "first")
    clean = {"revision": git("rev-parse", "HEAD"), "dirty": False}
    assert describe_environment(tmp_path)["git"] == clean
    (tmp_path / "job.yaml").write_text("b")
    assert describe_environment(tmp_path)["git"] == clean | {"dirty": True}
