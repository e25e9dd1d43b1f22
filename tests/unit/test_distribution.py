"""The package that shares our import name is noticed where it is installed too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoquant.distribution import install_command

ROOT = Path(__file__).parents[2]


def said_on_import(site: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", "import autoquant"],
        env={"PYTHONPATH": f"{ROOT}:{site}"},
        check=True,
        capture_output=True,
        text=True,
    ).stderr


@pytest.mark.parametrize(
    ("file", "told"),
    [("autoquant/__init__.py", True), ("_editable_impl_autoquant.pth", False)],
    ids=["somebody else's package", "an editable install of ours under its old name"],
)
def test_a_stranger_of_the_same_name_is_explained(file: str, told: bool, tmp_path: Path) -> None:
    info = tmp_path / "autoquant-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: autoquant\nVersion: 9.9\n")
    (info / "RECORD").write_text(f"{file},,\n")
    said = said_on_import(tmp_path)
    assert ("pip uninstall autoquant" in said) == told
    assert ("another project with the same import name" in said) == told


def test_nothing_is_said_where_nobody_else_is(tmp_path: Path) -> None:
    assert said_on_import(tmp_path) == ""


def test_extras_are_installed_from_our_own_package() -> None:
    assert install_command("openvino") == "pip install 'autoquant-search[openvino]'"
