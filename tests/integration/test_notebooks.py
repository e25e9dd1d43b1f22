"""The notebooks of `examples/` run from top to bottom, in their order, and show what they say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.unit.test_docs import LINK, ROOT

FOLDER = ROOT / "examples"
SHORT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.kept_programs import keep_programs
from tests.time_slices import time_briefly
time_briefly()
keep_programs()
"""
NAMES = ("first_search.ipynb", "review.ipynb", "guide.ipynb")


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What the cells show as values, of one kind."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [str(item["data"][kind]) for item in found if kind in item.get("data", {})]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nbformat.NotebookNode]:
    """All notebooks after running, the review on what the first search left.

    In one kernel, where each finds no name of the one before.
    """
    folder = tmp_path_factory.mktemp("examples")
    found = {name: nbformat.read(FOLDER / name, as_version=4) for name in NAMES}
    whole = nbformat.v4.new_notebook(metadata=found[NAMES[0]].metadata)
    whole.cells.append(nbformat.v4.new_code_cell(SHORT))
    for notebook in found.values():
        whole.cells += [nbformat.v4.new_code_cell("%reset -f"), *notebook.cells]
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(whole, timeout=600, resources=resources).execute()
    assert (folder / "best.ts").stat().st_size > 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_the_frontier_as_a_table(
    ran: dict[str, nbformat.NotebookNode], name: str
) -> None:
    tables = [text for text in shown(ran[name], "text/html") if "<table" in text]
    assert any("held-out drop" in text for text in tables)


@pytest.mark.slow
def test_the_review_draws_the_frontier_and_opens_the_report(
    ran: dict[str, nbformat.NotebookNode],
) -> None:
    review = ran["review.ipynb"]
    assert len(shown(review, "application/vnd.plotly.v1+json")) == 1
    assert any("out/first/report.html" in text for text in shown(review, "text/html"))


@pytest.mark.slow
def test_the_guide_names_the_fault_and_training_gains(
    ran: dict[str, nbformat.NotebookNode],
) -> None:
    told = "\n".join(shown(ran["guide.ipynb"], "text/plain"))
    assert "outlier channels" in told
    assert "met, chosen" in told
    gain = float(told.split("gain ")[-1].split()[0])
    assert gain > 0.1


def test_every_notebook_is_run_here_and_none_keeps_what_it_showed() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        nbformat.validate(notebook)
        assert shown(notebook, "text/plain") == []


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_notebook_leads_to_a_file(name: str) -> None:
    cells = nbformat.read(FOLDER / name, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    places = [link for link in LINK.findall(text) if "://" not in link]
    assert [place for place in places if not (FOLDER / Path(place)).exists()] == []
