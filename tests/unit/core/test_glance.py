"""Values say a few lines of themselves."""

from __future__ import annotations

import pytest

from autoquant.core.glance import MOST_ROWS, Glance
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.results.findings import Findings
from tests.unit.results.conftest import findings

__all__ = ["findings"]


def test_what_a_user_named_is_escaped_in_html() -> None:
    glance = Glance("<b>", ("head",), [("<script>",)], "a < b")
    assert "<script>" not in glance.html
    assert "&lt;script&gt;" in glance.html
    assert "a &lt; b" in glance.html


def test_rows_beyond_the_first_few_are_counted() -> None:
    rows = [(str(place), "x" * 500) for place in range(1000)]
    glance = Glance("many", ("#", "text"), rows)
    assert f"and {1000 - MOST_ROWS} more" in glance.text
    assert len(glance.text.splitlines()) == MOST_ROWS + 3
    assert max(map(len, glance.text.splitlines())) <= 80


@pytest.mark.parametrize("sites", [1, 5000])
def test_a_plan_and_a_table_of_any_size_are_short(sites: int) -> None:
    names = [f"layer{place}" for place in range(sites)]
    plan = Plan.of(dict.fromkeys(names, Scheme.INT8))
    row = (Scheme.INT8, Part.BOTH, 30.0, 0.9, 0.1, 0.1, 0.1, 0.001, 0.0)
    table = SensitivityTable(tuple(SensitivityRow(name, *row) for name in names), "exact", 8)
    assert len(repr(plan)) < 80
    assert len(repr(table)) < 2000
    assert f"{sites} int8" in repr(plan)
    assert "layer0" in repr(table)
    assert "<table>" in table._repr_html_()
    assert "<table>" in plan._repr_html_()


def test_a_frontier_is_a_line_for_each_member(findings: Findings) -> None:
    frontier = findings.frontier
    lines = repr(frontier).splitlines()
    assert len(lines) == len(frontier) + 2
    assert lines[2].startswith(str(frontier[0].number))
