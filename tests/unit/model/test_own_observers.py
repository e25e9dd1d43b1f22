"""Observers of the user's own: functions and classes over what calibration saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import autoquant as aq
from autoquant.core.ranges import OwnRange, RangeRules
from autoquant.core.statistics import TensorStatistics
from autoquant.job.load import dump_job, load_job
from tests.networks import LinearNet, seeded

DATA = torch.randn(128, 16)


def whole(seen: TensorStatistics) -> tuple[float, float]:
    return seen.low, seen.high


class Share:
    """So much of what was seen."""

    def __init__(self, share: float = 0.25) -> None:
        self.share = share

    def __call__(self, seen: TensorStatistics) -> tuple[float, float]:
        return self.share * seen.low, self.share * seen.high


def sqnr(**ranges: Any) -> float:
    found = aq.compare(seeded(LinearNet), "int8", DATA, ranges=ranges, progress=False)
    assert found.output is not None
    return found.output.sqnr_db


def test_a_function_that_takes_all_is_minmax() -> None:
    assert sqnr(observer=whole) == sqnr(observer="minmax") != sqnr(observer="histogram")


def test_a_class_is_made_with_the_arguments_of_its_entry() -> None:
    entry = {"entry": f"{__file__}:Share", "arguments": {"share": 1.0}}
    assert sqnr(observer=entry) == sqnr(observer=whole)
    assert sqnr(observer=Share) < sqnr(observer=whole) - 10


def test_one_site_has_it() -> None:
    assert sqnr(observer="minmax", sites={"last": whole}) == sqnr(observer="minmax")
    assert sqnr(observer="minmax", sites={"second": Share}) < sqnr(observer="minmax") - 3


def test_check_says_so() -> None:
    report = aq.check(seeded(LinearNet), DATA, plan="int8", observer=whole, progress=False)
    assert {row.observer for row in report.ops} == {"your own"}


@pytest.mark.parametrize(
    ("observer", "told"),
    [
        (lambda seen: None, "failed: TypeError"),
        (lambda seen: (1.0, 0.0), "the smaller one first"),
        (5, "is none of"),
        ("gone.py:observer", "gone.py"),
    ],
    ids=["nothing", "reversed", "number", "no file"],
)
def test_what_gives_no_range_is_refused(observer: Any, told: str) -> None:
    with pytest.raises(aq.AutoquantError, match=told):
        sqnr(observer=observer)


def test_a_job_names_it_relative_to_itself_and_is_written_back(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def all_of(seen):\n    return seen.low, seen.high\n")
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: own\nmodel: torch:nn\nspace: {schemes: [int8, fp32]}\n"
        "data: {calibration: torch:rand, evaluation: torch:rand, metric: accuracy}\n"
        "calibration: {observer: 'own.py:all_of', sites: {'head*': mse}}\n"
    )
    read = load_job(job)
    (tmp_path / "again.yaml").write_text(dump_job(read))
    assert f"{tmp_path}/own.py:all_of" in dump_job(read)
    assert load_job(tmp_path / "again.yaml").calibration == read.calibration
    with pytest.raises(aq.AutoquantError, match="defines no 'none_of'"):
        load_job(job, ["calibration.observer=own.py:none_of"])


def test_found_ranges_travel_to_workers() -> None:
    rules = RangeRules(own=(OwnRange("x", -1.0, 2.0),))
    assert RangeRules.from_json(rules.to_json()) == rules
