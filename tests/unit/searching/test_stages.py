"""A search answers first, and ends where nothing is left to gain."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.core.frontier import NOISE_Z
from autoquant.core.history import StopReason
from autoquant.core.progress import Advance, Silent
from autoquant.results import files
from autoquant.searching.result import SearchResult
from tests.unit.searching.test_rivals import Heard

pytestmark = pytest.mark.filterwarnings("ignore")

UNIFORM = {"seed:uniform-fp32", "seed:uniform-int8", "seed:uniform-bf16"}
SCHEMES = {"schemes": ["int8", "bf16", "fp32"]}
WIDTH = 24


def network(outlier: float = 1.0) -> nn.Sequential:
    """Layers in a row; behind some of them one channel is large, which the next takes back."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for place in range(6):
        first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        if place % 2:
            with torch.no_grad():
                first.weight[0] *= outlier
                first.bias[0] *= outlier
                second.weight[:, 0] /= outlier
        layers += [first, nn.ReLU(), second, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 8)).eval()


def closeness(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the relative error of each sample."""
    return 1.0 - (outputs - targets).norm(dim=1) / targets.norm(dim=1)


def search(output: Path, outlier: float = 1.0, **settings: Any) -> SearchResult:
    model = network(outlier)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(192, WIDTH, generator=generator)
    with torch.no_grad():
        targets = model(rows)
    arguments: dict[str, Any] = {
        "calibration": rows[:64],
        "evaluation": (rows[64:], targets[64:]),
        "metric": closeness,
        "backend": {"engine": "fbgemm", "pairs": 3},
        "space": SCHEMES,
        "objectives": ("output_error", "bops"),
        "max_drop": 0.2,
        "equalise": "never",  # which mends this network by itself
        "output": output,
        "progress": Silent(),
    }
    return aq.search(model, **{**arguments, **settings})


def origins(result: SearchResult) -> set[str]:
    return {item.origin for item in result.candidates}


class Onlooker(Silent):
    """Reads the written frontier when a stage begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, Any] = {}

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        path = self.folder / "frontier.json"
        self.seen[title] = json.loads(path.read_text()) if path.exists() else None
        return super().stage(title, total)


@pytest.mark.slow
def test_a_frontier_of_the_uniform_plans_is_written_before_anything_is_ranked(
    tmp_path: Path,
) -> None:
    onlooker = Onlooker(tmp_path / "out")
    result = search(tmp_path / "out", progress=onlooker, trials=6)
    found = onlooker.seen["measuring sensitivity"]
    assert {member["origin"] for member in found["members"]} <= UNIFORM
    assert len(found["members"]) >= 2
    assert found["stopped"] is None
    last = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert last["stopped"] == result.stopped.word  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("trials", [1, 2, 4])
def test_a_search_makes_no_more_candidates_than_trials(tmp_path: Path, trials: int) -> None:
    result = search(tmp_path / "out", outlier=500.0, trials=trials)
    assert len(result.candidates) == trials
    assert result.stopped is StopReason.BUDGET


@pytest.mark.slow
def test_a_quick_search_ends_at_once_where_the_cheapest_uniform_plan_is_good_enough(
    tmp_path: Path,
) -> None:
    result = search(tmp_path / "out", effort="quick")
    assert origins(result) == UNIFORM
    assert result.stopped is StopReason.NOTHING_TO_GAIN


@pytest.mark.slow
def test_a_quick_search_looks_for_a_few_plans_under_the_limit(tmp_path: Path) -> None:
    result = search(tmp_path / "out", outlier=500.0, effort="quick", max_drop=0.01)
    assert origins(result) > UNIFORM
    assert len(result.candidates) <= len(UNIFORM) + 4
    assert result.stopped is StopReason.QUICK
    best = result.best()
    assert best.origin.startswith("seed:program")
    program = [item for item in result.candidates if item.origin.startswith("seed:program")]
    drops = [item.measurements["accuracy_drop"] for item in program]
    surely = [drop.value + NOISE_Z * (drop.stderr or 0.0) <= 0.01 for drop in drops]
    assert not any(surely[:-1])  # they are measured one by one, until one is


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outlier", "limit"), [(1.0, 0.2), (500.0, 0.01)], ids=["uniform", "of the program"]
)
def test_a_quick_search_scores_on_heldout_data_what_data_chose(
    tmp_path: Path, outlier: float, limit: float
) -> None:
    rows = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        heldout = rows, network(outlier)(rows)
    result = search(tmp_path / "out", outlier, effort="quick", max_drop=limit, heldout=heldout)
    best = result.best()
    scored = [item for item in result.candidates if "heldout_accuracy" in item.measurements]
    assert [item.number for item in scored] == ([] if best.origin in UNIFORM else [best.number])
    assert (best.origin in UNIFORM) == (outlier == 1.0)
    assert ("heldout_accuracy" in result.findings.frontier.baseline) == bool(scored)


@pytest.mark.slow
def test_a_network_that_loses_nothing_ends_after_a_handful(tmp_path: Path) -> None:
    result = search(tmp_path / "out")
    assert result.stopped is StopReason.NOTHING_TO_GAIN
    assert len(result.candidates) <= len(UNIFORM) + 8
    assert result.best().origin == "seed:uniform-int8"
    again = search(tmp_path / "out", resume=True)
    assert [item.digest for item in again.candidates] == [i.digest for i in result.candidates]
    assert again.stopped is StopReason.NOTHING_TO_GAIN


@pytest.mark.slow
def test_a_search_does_not_end_where_much_is_left(tmp_path: Path) -> None:
    """What it gives up is little beside what three times as many candidates find."""

    def best_cost(result: SearchResult) -> float:
        return result.best().value("bops_ratio")

    result = search(tmp_path / "out", outlier=500.0, max_drop=0.01)
    heard = Heard()
    longer = search(
        tmp_path / "long",
        outlier=500.0,
        max_drop=0.01,
        effort="thorough",
        sampler="guided",
        progress=heard,
    )
    assert any("sensitivity around the best plan so far" in note for note in heard.notes)
    assert result.stopped in (StopReason.NOTHING_TO_GAIN, StopReason.BUDGET)
    assert len(longer.candidates) > len(result.candidates)
    assert best_cost(result) <= 1.1 * best_cost(longer)
    assert best_cost(result) < 0.9 * next(
        item.value("bops_ratio") for item in result.candidates if item.origin.endswith("bf16")
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search that nobody cuts off."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return search(folder, outlier=500.0, max_drop=0.01, trials=24)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_search_that_is_cut_off_ends_where_the_whole_one_does(
    whole: SearchResult, tmp_path: Path, share: float
) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    history = folder / "history.jsonl"
    content = history.read_bytes()
    history.write_bytes(content[: int(share * len(content))])
    history.with_name(files.MANIFEST).unlink()  # written when a search ends
    again = search(folder, outlier=500.0, max_drop=0.01, trials=24, resume=True)
    assert again.stopped is whole.stopped
    assert [item.digest for item in again.candidates] == [i.digest for i in whole.candidates]


@pytest.mark.slow
def test_time_that_is_up_leaves_the_uniform_plans(tmp_path: Path) -> None:
    result = search(tmp_path / "out", outlier=500.0, budget={"minutes": 1e-9})
    assert origins(result) == UNIFORM
    assert result.stopped is StopReason.TIME


@pytest.mark.slow
def test_a_search_from_python_shows_its_answer_unless_it_is_silenced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path / "out", effort="quick", progress=None)
    said = capsys.readouterr().err
    assert "1 of 3: uniform plans ...\n" in said
    assert "\n3 candidates: best within the limit #" in said
    search(tmp_path / "silent", effort="quick", progress=False)
    assert "uniform" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_result_shows_itself_in_a_few_lines(tmp_path: Path) -> None:
    result = search(tmp_path / "out", effort="quick")
    lines = repr(result).splitlines()
    assert len(lines) <= 20
    assert lines[-1].startswith("next: result.best()")
    assert len(result._repr_html_()) < 20_000
    assert len(result.frontier._repr_html_()) < 20_000
    assert len(result.best()._repr_html_()) < 20_000
    assert len(repr(result.frontier).splitlines()) == len(result.frontier)
