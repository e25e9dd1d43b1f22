"""What a reader sees: the report in headless Chromium, where there is one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from autoquant.results.findings import Findings
from autoquant.results.report import render_report
from tests.browser import dom_of, needs_chromium

pytestmark = needs_chromium

SAYS = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("load", () => {
  const box = (node) => node.getBoundingClientRect();
  const before = document.querySelector("#detail h2").textContent;
  document.querySelector("#rivals button").click();
  const text = [...document.querySelectorAll("#trade :is(text.label, .limit-text)")].map(box);
  const drawn = box(document.querySelector("#trade svg"));
  const isWithin = (at) => at.left >= drawn.left && at.right <= drawn.right
    && at.bottom <= drawn.bottom;
  const cut = [...document.querySelectorAll("#trade text")].filter((node) => !isWithin(box(node)));
  const overlaps = text.flatMap((a, i) => text.slice(i + 1).filter((b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
  const marked = [...document.querySelectorAll("#trade [tabindex='0']")];
  const last = marked.at(-1);
  document.querySelector("#rivals button").click();
  const after = document.querySelector("#detail h2").textContent;
  const rows = [...document.querySelectorAll("#ops tbody tr")];
  const other = document.querySelector("#trade [data-point='2']");
  other.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  const said = document.createElement("pre");
  said.id = "said";
  said.textContent = JSON.stringify({
    errors, before, after, cut: cut.map((node) => node.textContent),
    overlaps: overlaps.length, reached: marked.length,
    names: marked.map((node) => node.getAttribute("aria-label").length),
    ops: rows.map((row) => row.cells[0].textContent),
    byKey: document.querySelector("#detail h2").textContent,
    focus: document.activeElement.dataset.point,
    differences: document.querySelectorAll("#differences tbody tr").length,
    code: [...document.querySelectorAll("#detail pre")].map((node) => node.textContent),
    wide: document.documentElement.scrollWidth, view: document.documentElement.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
  });
  document.body.append(said);
});
</script>"""


def look(page: Path, *options: str) -> Any:
    """What the page says of itself in a browser that reaches no network."""
    offline = "--proxy-server=127.0.0.1:9"
    dom = dom_of(page.as_uri(), page.parent / "chromium", offline, *options)
    found = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    return json.loads(unescape(found[1]))


@pytest.fixture(scope="module")
def page(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    html = render_report(findings, Path("out/digits"))
    path.write_text(html.replace("<head>", f"<head>{SAYS}", 1))
    return path


def test_a_reader_sees_the_plan_that_they_choose(page: Path, findings: Findings) -> None:
    said = look(page, "--window-size=1200,900")
    chosen = findings.chosen
    assert chosen is not None
    assert said["errors"] == []
    assert said["before"].startswith(f"#{chosen.number} ")
    assert said["after"].startswith("#0 ")
    assert said["byKey"].startswith("#2 "), "a point answers to the keyboard"
    assert said["focus"] == "2"
    assert said["ops"] == [site.name for site in findings.sites][: len(said["ops"])]
    assert said["differences"] > 0
    assert said["code"][0] == "autoquant export out/digits --number 2 --output model"
    assert said["paper"] == "rgb(255, 255, 255)"


def test_every_named_point_can_be_reached_and_says_what_it_is(
    page: Path, findings: Findings
) -> None:
    said = look(page, "--window-size=1200,900")
    assert said["reached"] >= len(findings.frontier)
    assert min(said["names"]) > 20


@pytest.mark.parametrize("width", [500, 1200], ids=["narrow", "wide"])
def test_nothing_overlaps_or_sticks_out(page: Path, width: int) -> None:
    said = look(page, f"--window-size={width},800")
    assert said["overlaps"] == 0
    assert said["cut"] == []
    assert said["wide"] <= said["view"]


def test_long_names_and_a_limit_beside_the_float_model_fit_a_narrow_page(
    findings: Findings, tmp_path: Path
) -> None:
    """Nothing but the names tells this page from the one that fits above."""
    facts = replace(
        findings.facts,
        metric="mean_absolute_deviation_" * 5 + " (s, lower is better)",
        rival="all fp32 on an engine that a colleague described at some length in a file",
        max_drop=0.0005,
    )
    path = tmp_path / "report.html"
    html = render_report(replace(findings, facts=facts), Path("out") / ("long_name_" * 15))
    path.write_text(html.replace("<head>", f"<head>{SAYS}", 1))
    said = look(path, "--window-size=500,800")
    assert said["overlaps"] == 0
    assert said["cut"] == []
    assert said["wide"] <= said["view"]


def test_a_dark_desktop_gets_a_dark_page(page: Path) -> None:
    said = look(page, "--blink-settings=preferredColorScheme=0")
    assert said["paper"] == "rgb(21, 25, 30)"
