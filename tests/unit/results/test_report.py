from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, Failure
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.readback import Ran
from autoquant.results.findings import Findings
from autoquant.results.report import render_report
from tests.unit.results.synthetic import make_candidate, make_site

VOID = {"meta", "link", "br", "img", "hr", "input"}
FOLDER = Path("out/digits")
HOSTILE = "<img src=x onerror=alert(1)>&\"'</script>"


class Page(HTMLParser):
    """The tables, the text and the open elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.mistakes: list[str] = []
        self.scripts = 0
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._table = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.scripts += tag == "script"
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            self._table = dict(attrs).get("id") or ""
            self.rows[self._table] = []
        if tag == "tr":
            self.rows[self._table].append([])
        if tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(tag)

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[self._table][-1][-1] += data


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page


@pytest.fixture(scope="module")
def html(findings: Findings) -> str:
    return render_report(findings, FOLDER)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return parse(html)


def test_the_report_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert page.mistakes == []


def test_every_member_of_the_frontier_is_a_row(page: Page, findings: Findings) -> None:
    rows = page.rows["frontier"]
    assert [row[0] for row in rows[2:]] == [str(item.number) for item in findings.frontier]
    assert rows[1][0] == "fp32"


def test_the_report_needs_no_network(html: str, page: Page) -> None:
    assert page.sources == []
    assert "cdn." not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_the_report_is_small_and_draws_without_plotly(html: str) -> None:
    assert len(html) < 1_500_000
    assert "plotly" not in html.lower()


def test_kinds_are_shown_and_explained(html: str) -> None:
    assert '<span class="kind">estimated</span>' in html
    assert "measured: the real kernels ran on this machine." in html


def drawn(html: str) -> Any:
    """What the page's script draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_every_plan_that_compares_can_be_looked_at(html: str, findings: Findings) -> None:
    data = drawn(html)
    titles = [scheme["title"] for scheme in data["schemes"]]
    for point in data["points"]:
        plan = findings.candidates[point["number"]].plan
        for site, letter in zip(data["sites"], point["plan"], strict=True):
            assert titles[ord(letter) - ord("A")] == plan[site["name"]].title
    assert len(data["points"]) == len(findings.comparable)


def test_plans_of_a_huge_search_are_left_out_after_those_of_the_frontier(
    findings: Findings,
) -> None:
    sites = tuple(make_site(f"op{place}") for place in range(12_000))
    html = render_report(replace(findings, sites=sites), FOLDER)
    points = drawn(html)["points"]
    members = {item.number for item in findings.frontier}
    assert len(html) < 3_500_000
    assert {point["number"] for point in points if "plan" in point} >= members
    assert not all("plan" in point for point in points)


def test_an_op_that_ran_otherwise_than_planned_is_said(findings: Findings) -> None:
    chosen = findings.chosen
    assert chosen is not None
    changed = replace(chosen, executed={**chosen.executed, "head.fc": Ran(Scheme.FP32)})
    rest = tuple(item for item in findings.candidates if item.number != chosen.number)
    data = drawn(render_report(replace(findings, candidates=(*rest, changed)), FOLDER))
    (point,) = [item for item in data["points"] if item["number"] == chosen.number]
    assert {data["sites"][int(place)]["name"]: ran for place, ran in point["ran"].items()} == {
        "head.fc": ["fp32 native", True]
    }


def test_times_by_op_add_up_to_what_the_costs_predict(findings: Findings) -> None:
    names = [site.name for site in findings.sites]
    ops = {(name, item): 1.0 + place for place, name in enumerate(names) for item in Scheme}
    edges = {(names[0], names[1]): {(Scheme.INT8, Scheme.INT8): 0.25}}
    table = CostTable(0.5, ops, edges)
    data = drawn(render_report(replace(findings, costs=table), FOLDER))
    plan = data["points"][0]["plan"]
    codes = [ord(letter) - ord("A") for letter in plan]
    total = sum(data["costs"]["ops"][site][code] for site, code in enumerate(codes))
    total += sum(e[4] for e in data["costs"]["edges"] if [codes[e[0]], codes[e[1]]] == e[2:4])
    number = data["points"][0]["number"]
    assert total + 0.5 == pytest.approx(table.predict(findings.candidates[number].plan), rel=1e-4)


def test_what_people_run_without_a_search_is_always_listed(page: Page) -> None:
    assert {"all fp32 0", "all int8 1", "all bf16 2"} <= {row[0] for row in page.rows["rivals"]}


def test_failures_are_listed_with_their_reasons(page: Page) -> None:
    (row,) = page.rows["failures"][1:]
    assert row[0] == "11"
    assert row[3] == "outputs hold NaN or infinity on batch 2"


def test_the_job_and_the_environment_are_there(html: str) -> None:
    assert "name: digits" in html
    assert "<dt>versions.torch</dt><dd>2.13.0</dd>" in html


def test_nothing_that_a_user_named_becomes_markup(findings: Findings, page: Page) -> None:
    site = make_site(HOSTILE)
    item = make_candidate(0, {HOSTILE: Scheme.INT8}, origin=HOSTILE)
    item = replace(item, executed={HOSTILE: Ran(None, kernel=HOSTILE)})
    failed = Candidate(1, Plan.of({HOSTILE: Scheme.FP32}), HOSTILE, failure=Failure(HOSTILE))
    hostile = replace(
        findings,
        facts=replace(
            findings.facts,
            name=HOSTILE,
            target=HOSTILE,
            metric=HOSTILE,
            settings={HOSTILE: HOSTILE},
            notices=(HOSTILE,),
        ),
        job_text=HOSTILE,
        environment={"cpu": {"model": HOSTILE}},
        sites=(site,),
        candidates=(item, failed),
        frontier=replace(findings.frontier, members=(item,)),
        sensitivity=None,
    )
    found = parse(render_report(hostile, Path(HOSTILE)))
    assert found.mistakes == []
    assert "img" not in found.tags
    assert found.scripts == page.scripts
    assert found.rows["failures"][1][3] == HOSTILE


def test_a_search_that_found_nothing_has_a_report(findings: Findings) -> None:
    empty = replace(
        findings,
        candidates=(),
        frontier=replace(findings.frontier, members=()),
        sensitivity=None,
        environment={},
    )
    html = render_report(empty, FOLDER)
    assert "None of 0 candidates is within the constraints" in html
    assert parse(html).mistakes == []


def test_a_stopped_candidate_stands_in_a_table_of_its_own(findings: Findings) -> None:
    why = "SQNR 20.1 dB, at most 21.0 dB, and candidate 1 has 27.4 dB (after 125 samples)"
    stopped = replace(findings.candidates[30], stopped=why)
    candidates = (*findings.candidates[:30], stopped, *findings.candidates[31:])
    page = parse(render_report(replace(findings, candidates=candidates), FOLDER))
    assert [(row[0], row[3]) for row in page.rows["stopped"][1:]] == [("30", why)]
    assert "30" not in [row[0] for row in page.rows["candidates"]]


def test_without_stopped_candidates_there_is_no_such_table(page: Page) -> None:
    assert "stopped" not in page.rows


def test_progress_never_falls_and_ends_at_all(html: str) -> None:
    shares = [share for _, share in drawn(html)["progress"]]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
