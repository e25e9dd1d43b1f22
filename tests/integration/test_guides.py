"""The guides' Python runs as it stands in the text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_docs import ROOT, blocks

GUIDES = sorted(
    path
    for folder in ("guides", "deploy")
    for path in (ROOT / "docs" / folder).glob("*.md")
    if blocks(path, "python")
)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_block_of_a_guide_runs_in_its_order(path: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(path, "python")):
        script = tmp_path / f"block{number}.py"
        script.write_text(block, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, script.name],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{path.name}, block {number}:\n{ran.stderr[-3000:]}"
