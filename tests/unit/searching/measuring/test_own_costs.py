"""Costs of the user's own: tables by hand, functions, and what they lack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import BackendError, JobError
from autoquant.job.own_cost import OwnCost
from autoquant.model.graph.capture import capture
from autoquant.searching.measuring.own_costs import own_baseline, own_costs, own_tables

SPACE = SearchSpace((Knob("0", ("0", "1"), (Scheme.INT8, Scheme.FP32)),))
CSV = """kind,scheme,cost,per
linear,int8,2,mac
linear,int8,10,weight_byte
*,int8,0.5,element
*,fp32,100,
"""
YAML = """
- {kind: linear, scheme: int8, cost: 2, per: mac}
- {kind: linear, scheme: int8, cost: 10, per: weight_byte}
- {kind: "*", scheme: int8, cost: 0.5, per: element}
- {kind: "*", scheme: fp32, cost: 100}
"""


@pytest.fixture(scope="module")
def sites() -> tuple[Site, ...]:
    return capture(nn.Sequential(nn.Linear(4, 3), nn.GELU()).eval(), (torch.zeros(2, 4),)).sites


def plan(scheme: Scheme) -> Plan:
    return Plan.of({"0": scheme, "1": scheme})


@pytest.mark.parametrize(("name", "text"), [("energy.csv", CSV), ("energy.yaml", YAML)])
def test_rows_of_an_ops_own_kind_win_and_several_add_up(
    tmp_path: Path, name: str, text: str, sites: tuple[Site, ...]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    tables = own_tables([OwnCost(name="energy", unit="mJ", table=path)], sites, SPACE)
    found = own_costs(plan(Scheme.INT8), tables)["energy"]
    # 12 MACs, 12 bytes of weights and 3 scales of 4; the GELU writes 3 elements for a sample
    assert (found.value, found.kind) == (2 * 12 + 10 * (12 + 12) + 0.5 * 3, Kind.ESTIMATED)
    assert own_baseline(sites, tables)["energy"].value == 200
    assert tables["energy"].unit == "mJ"


def test_a_function_is_called_with_site_and_scheme(sites: tuple[Site, ...]) -> None:
    def joules(site: Site, scheme: Scheme) -> float:
        return site.macs * scheme.weight.bits

    tables = own_tables([OwnCost(name="energy", function=joules)], sites, SPACE)
    assert own_costs(plan(Scheme.INT8), tables)["energy"].value == 12 * 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind,scheme,cost\nlinear,int8,1\n*,fp32,1\n", "says nothing of activation in int8"),
        ("kind,scheme,cost\nlinaer,int8,1\n", "row 1: kind 'linaer' is unknown"),
        ("kind,scheme,cost\n*,int3,1\n", "row 1: scheme 'int3' is unknown"),
        ("kind,scheme,cost\n*,int8,much\n", "row 1: cost 'much' is no number"),
        ("kind,scheme,cost,per\n*,int8,1,watt\n", "row 1: per 'watt' is unknown"),
        ("kind,scheme,price\n*,int8,1\n", "row 1: 'price' is wrong or missing"),
    ],
)
def test_what_a_table_lacks_or_mistakes_is_named(
    tmp_path: Path, text: str, message: str, sites: tuple[Site, ...]
) -> None:
    path = tmp_path / "energy.csv"
    path.write_text(text)
    with pytest.raises(JobError, match=message):
        own_tables([OwnCost(name="energy", table=path)], sites, SPACE)


def test_a_plan_beyond_the_table_is_refused(sites: tuple[Site, ...]) -> None:
    tables = own_tables([OwnCost(name="energy", function=lambda *_: 1.0)], sites, SPACE)
    with pytest.raises(BackendError, match="energy says nothing of '0' in bf16"):
        own_costs(plan(Scheme.BF16), tables)
    with pytest.raises(JobError, match="failed for '0' in int8: ZeroDivisionError"):
        own_tables([OwnCost(name="energy", function=lambda *_: 1 / 0)], sites, SPACE)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "energy"}, "give either table or function"),
        ({"name": "size", "table": "a.csv"}, "choose another"),
        ({"name": "sqnr_db", "table": "a.csv"}, "choose another"),
    ],
)
def test_an_entry_has_one_source_and_a_name_of_its_own(entry: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnCost.model_validate(entry)
