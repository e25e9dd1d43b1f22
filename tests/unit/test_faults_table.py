"""Every row of docs/faults.md names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "faults.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "---" not in line]
NAMED = [re.search(r"`([\w/]+\.py)::(\w+)` \|$", line) for line in ROWS if "| Test |" not in line]


def test_there_are_at_least_forty_five_rows_and_each_names_a_test() -> None:
    assert len(NAMED) >= 45
    assert None not in NAMED


@pytest.mark.parametrize(
    ("file", "name"), sorted({(found[1], found[2]) for found in NAMED if found}), ids=str
)
def test_a_row_of_the_table_names_a_test_that_is_there(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}
