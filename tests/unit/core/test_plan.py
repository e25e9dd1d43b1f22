"""Plans are values: equal plans share a digest, and files give back what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.plan import Plan, load_plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError

plans = st.dictionaries(st.text(min_size=1, max_size=8), st.sampled_from(Scheme), min_size=1)
SPACE = SearchSpace(
    (
        Knob("a", ("a", "b"), (Scheme.INT8, Scheme.FP32)),
        Knob("c", ("c",), (Scheme.INT8, Scheme.INT16, Scheme.FP32)),
        Knob("d", ("d",), (Scheme.FP32,)),
    )
)


@given(plans)
def test_json_gives_the_plan_back(schemes: dict[str, Scheme]) -> None:
    plan = Plan.of(schemes)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(plans)
def test_the_digest_does_not_depend_on_the_order_of_sites(schemes: dict[str, Scheme]) -> None:
    turned = dict(reversed(list(schemes.items())))
    assert Plan.of(turned).digest == Plan.of(schemes).digest


def test_a_saved_plan_loads(tmp_path: Path) -> None:
    plan = Plan.of({"conv": Scheme.INT8, "fc": Scheme.BF16})
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


def test_an_edited_plan_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    Plan.of({"conv": Scheme.INT8}).save(path)
    path.write_text(path.read_text().replace("int8", "fp32"))
    with pytest.raises(PlanError, match="digest"):
        load_plan(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("nonsense", "is not a plan"), ("{}", "no key 'plan'"), ('{"plan": {"a": "int3"}}', "int3")],
    ids=["no json", "no plan", "unknown scheme"],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(PlanError, match=message):
        load_plan(tmp_path / "plan.json")


def test_a_space_spreads_choices_over_the_sites_of_a_knob() -> None:
    plan = SPACE.plan({"a": Scheme.INT8, "c": Scheme.INT16, "d": Scheme.FP32})
    assert plan.to_json() == {"a": "int8", "b": "int8", "c": "int16", "d": "fp32"}
    assert SPACE.choices(plan)["c"] is Scheme.INT16
    assert SPACE.plan_count == 6


def test_a_plan_that_splits_a_knob_is_refused() -> None:
    split = {"a": Scheme.INT8, "b": Scheme.FP32, "c": Scheme.INT8, "d": Scheme.FP32}
    with pytest.raises(PlanError, match="does not fit knob 'a'"):
        SPACE.choices(Plan.of(split))


def test_a_uniform_plan_takes_the_most_precise_scheme_where_its_own_is_not_allowed() -> None:
    assert SPACE.uniform(Scheme.INT16).to_json() == {
        "a": "fp32",
        "b": "fp32",
        "c": "int16",
        "d": "fp32",
    }
