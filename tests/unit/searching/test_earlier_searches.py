"""A search takes over what an earlier one found out about the same model, and says so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import autoquant as aq
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.progress import Advance, Silent
from autoquant.job import SearchSettings, SpaceRules
from autoquant.results.environment import describe_machine
from autoquant.results.kept import cache_folder
from autoquant.searching.measuring.evaluator import MeasurementSettings
from autoquant.searching.preparing import earlier
from autoquant.searching.preparing.earlier import open_kept, timing_of
from tests.networks import LinearNet, seeded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FOUND_ONCE = ["calibrating", "measuring sensitivity", "timing ops and boundaries"]


class Stages(Silent):
    """Notes which of the stages that are found once were gone through."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        if title in FOUND_ONCE:
            self.seen.append(title)
        yield lambda steps: None


def searched(
    *, weight: float = 1.0, first: float = 0.0, **settings: Any
) -> tuple[list[str], aq.SearchResult]:
    model = seeded(LinearNet)
    inputs = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
    inputs[0, 0] += first
    with torch.no_grad():
        labels = model(inputs).argmax(1)
        model.get_submodule("last").weight.mul_(weight)
    stages = Stages()
    given: dict[str, Any] = {
        "calibration": inputs,
        "evaluation": (inputs, labels),
        "backend": {"engine": "fbgemm", "pairs": 3},
        "space": {"schemes": ["int8", "fp32"]},
        "max_drop": None,
        "trials": 4,
        "progress": stages,
        **settings,
    }
    result = aq.search(model, **given)
    return stages.seen, result


@pytest.fixture(scope="module")
def first() -> tuple[list[str], Path]:
    """What the first search found, and where it left that."""
    seen, _ = searched()
    return seen, cache_folder()


@pytest.fixture
def left(first: tuple[list[str], Path]) -> None:
    """A cache folder as the first search left it."""
    shutil.copytree(first[1], cache_folder())


def test_another_limit_and_another_budget_find_nothing_anew(
    first: tuple[list[str], Path],
    left: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    assert first[0] == FOUND_ONCE
    seen, result = searched(max_drop=0.5, trials=5, output=tmp_path / "out")
    assert seen == []
    assert len(result.candidates) == 5
    seen, resumed = searched(max_drop=0.5, trials=6, output=tmp_path / "out", resume=True)
    assert seen == []
    for found in (result, resumed):
        (notice,) = [item for item in found.findings.facts.notices if "earlier searches" in item]
        assert all(name in notice for name in ("calibration (", "sensitivity (", "costs of ops ("))


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"weight": 2.0}, FOUND_ONCE[:2]),
        ({"first": 0.5}, FOUND_ONCE[:2]),
        ({"batch_size": 7}, FOUND_ONCE[2:]),
        ({"cache": False}, FOUND_ONCE),
    ],
    ids=["weights", "data", "batch", "switched off"],
)
def test_what_depends_on_a_change_is_found_anew(change: dict[str, Any], again: list[str]) -> None:
    assert searched(**change)[0] == again


def test_a_search_that_is_switched_off_leaves_nothing() -> None:
    searched(cache=False)
    assert not cache_folder().exists()


@pytest.mark.parametrize("version", ["torch", "autoquant"])
def test_other_code_finds_anew(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    job = SearchSettings(
        name="versions", space=SpaceRules(schemes=(Scheme.INT8,)), output=Path("out")
    )
    here = describe_machine()
    before = open_kept(job, here, print).context
    assert open_kept(job, {**here, "load": 99.0}, print).context == before
    if version == "torch":
        monkeypatch.setattr(earlier, "version_of", lambda name: f"another {name}")
    else:
        monkeypatch.setattr(earlier, "_own_code", lambda: "another")
    assert open_kept(job, here, print).context != before


def test_times_on_other_threads_and_shapes_are_other_times() -> None:
    settings, inputs = MeasurementSettings(BuildSettings()), (torch.zeros(4, 16),)
    here = timing_of(settings, inputs)
    assert timing_of(settings, (torch.ones(4, 16),)) == here
    assert timing_of(replace(settings, latency_threads=2), inputs) != here
    assert timing_of(settings, (torch.zeros(5, 16),)) != here
