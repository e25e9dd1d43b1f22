from __future__ import annotations

import pytest

import autoquant as aq
from autoquant.backends import targets
from autoquant.backends.targets import load_target
from autoquant.core.backends import Row, find_rows
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError, PlanError
from tests.networks import MixedNet, images, seeded


def test_an_unknown_backend_is_named_with_those_that_exist() -> None:
    with pytest.raises(BackendError, match="no backend 'tpu'") as caught:
        load_target("tpu")
    assert "torch" in str(caught.value.hint)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("autoquant.no_such", "a chip", extra="chip", packages=("no_such_package", "numpy"))
    monkeypatch.setattr(targets, "find_rows", lambda: {"chip": row})
    with pytest.raises(BackendError, match="chip needs no_such_package") as caught:
        load_target("chip")
    assert caught.value.hint == "pip install 'autoquant-search[chip]'"


@pytest.mark.parametrize("name", find_rows())
def test_every_backend_runs_something_of_every_op_that_it_knows(name: str) -> None:
    if find_rows()[name].missing:
        pytest.skip(f"{name} is not installed: {', '.join(find_rows()[name].missing)}")
    target = load_target(name)
    for settings in target.variants().values():
        runs = {
            kind
            for kind in OpKind
            for scheme in Scheme
            if target.kind_support(settings, kind, scheme) is not Support.UNSUPPORTED
        }
        assert {OpKind.CONV2D, OpKind.LINEAR, OpKind.ADD} <= runs


def test_what_a_backend_cannot_run_of_a_plan_is_listed_site_by_site() -> None:
    model, batch = seeded(MixedNet), images(4)
    found = aq.plan_support(_plan(Scheme.INT8_DYNAMIC), model, (batch,))
    table = next(sites for title, sites in found.items() if title.startswith("torch / fbgemm"))
    assert table
    assert all(item.scheme is Scheme.INT8_DYNAMIC for item in table)
    assert all(item.kind is not OpKind.LINEAR for item in table)
    assert all(Scheme.FP32 in item.instead for item in table)


@pytest.mark.slow
def test_a_plan_that_a_backend_runs_lists_nothing() -> None:
    found = aq.plan_support(_plan(Scheme.FP32), seeded(MixedNet), (images(4),))
    assert {title for title, sites in found.items() if not sites} >= {
        title for title in found if title.startswith("torch / ")
    }


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match="the plan lacks the site"):
        aq.plan_support(Plan.of({"nowhere": Scheme.INT8}), seeded(MixedNet), (images(4),))


def _plan(scheme: Scheme) -> Plan:
    from autoquant.model.graph.capture import capture

    sites = capture(seeded(MixedNet), (images(4),)).sites
    return Plan.of({site.name: scheme for site in sites})
