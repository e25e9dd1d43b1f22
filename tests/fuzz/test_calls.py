"""Whatever a public function is called with, it does its work or refuses in a sentence."""

from __future__ import annotations

import copy
import datetime
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoquant as aq
from autoquant.core.calls import fits, hints_of
from autoquant.errors import AutoquantError
from tests import faulty
from tests.integration.bad_inputs.stage import search

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = 60
"""Calls of a short run; `AUTOQUANT_FUZZ=1000` makes a thousand."""

NAN = float("nan")


class Strange:
    """Raises at whatever it is asked for."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("no items")


_PLAIN = (
    *(None, True, 0, -1, 1.5, 1e11, NAN, 3 + 4j, b"x", (1, 2)),
    *("", "\x00", "\ud800", "sys:exit", "jit", "../.."),
)
ODD: Mapping[str, Callable[[], object]] = {
    **{repr(value): partial(copy.copy, value) for value in _PLAIN},
    "10**400": lambda: 10**400,
    "minus infinity": lambda: -float("inf"),
    "long text": lambda: "x" * 5000,
    "long name": lambda: "x" * 300,
    "list": list,
    "list in a list": lambda: [[]],
    "list of None": lambda: [None],
    "list of NaN": lambda: [NAN],
    "dict": dict,
    "dict of a number": lambda: {"a": 1},
    "empty key": lambda: {"": None},
    "key that is a number": lambda: {1: 2},
    "set": lambda: {"int8"},
    "date": lambda: datetime.date(2026, 1, 1),
    "object": object,
    "strange": Strange,
    "function": lambda: len,
    "type": lambda: int,
    "generator": lambda: (number for number in range(3)),
    "sparse tensor": lambda: torch.ones(2, 2).to_sparse(),
    "meta tensor": lambda: torch.ones(2, device="meta"),
    "scalar tensor": lambda: torch.tensor(3),
    "array of objects": lambda: np.array([object()]),
    "path": lambda: Path("/dev/null/at/all"),
    "module": lambda: nn.Linear(1, 1),
}


class _Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise KeyError("x")


MODELS: Mapping[str, Callable[[], object]] = {
    "half": faulty.half_model,
    "bfloat16": lambda: faulty.good_model().bfloat16(),
    "double": lambda: faulty.good_model().double(),
    "meta": faulty.meta_model,
    "NaN": faulty.nan_weights,
    "scripted": faulty.scripted_model,
    "quantized": faulty.quantized_model,
    "parallel": lambda: nn.DataParallel(faulty.good_model()),
    "class": lambda: nn.Linear,
    "maker": lambda: faulty.good_model,
    "empty": nn.Sequential,
    "nothing to run": lambda: nn.ModuleList([nn.Linear(16, 4)]),
    "raises": _Raises,
    "complex": lambda: nn.Linear(16, 4, dtype=torch.complex64),
    "sparse weight": lambda: _with_weight(lambda weight: weight.to_sparse()),
    "infinite": lambda: _with_weight(lambda weight: weight * float("inf")),
    "training": lambda: faulty.dropout_model().train(),
    "branching": faulty.branching_model,
    "counts": faulty.count_model,
    "mean": faulty.mean_model,
    "logarithm": faulty.log_model,
    "other width": lambda: nn.Linear(12, 4),
    "no parameters": faulty.bare_model,
    "state": lambda: faulty.good_model().state_dict(),
}


def _with_weight(change: Callable[[Tensor], Tensor]) -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 4))
    weight = model[0].weight.detach()
    model[0].weight = nn.Parameter(change(weight))
    return model


def _rows(count: int = 32) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(3))


DATA: Mapping[str, Callable[[], object]] = {
    "no batches": faulty.no_batches,
    "empty loader": lambda: DataLoader(TensorDataset(_rows(0), _rows(0))),
    "empty batch": faulty.empty_batch,
    "NaN": faulty.nan_batch,
    "other shape": faulty.other_shape,
    "wrong shape": faulty.wrong_shape,
    "few targets": faulty.few_targets,
    "integers": faulty.integer_data,
    "names": faulty.named_inputs,
    "uneven": faulty.uneven_tensors,
    "no targets": faulty.no_targets,
    "paths": faulty.paths,
    "breaks": faulty.broken_loader,
    "overflowing": faulty.overflowing,
    "generator": lambda: (batch for batch in faulty.good_data()),
    "empty generator": lambda: (batch for batch in ()),
    "half": lambda: (_rows().half(), torch.zeros(32, dtype=torch.long)),
    "complex": lambda: (_rows().to(torch.complex64), torch.zeros(32)),
    "bools": lambda: (_rows() > 0, torch.zeros(32)),
    "sparse": lambda: (_rows().to_sparse(), torch.zeros(32)),
    "sparse batches": lambda: [(_rows().to_sparse_csr(), torch.zeros(32))],
    "meta": lambda: (torch.ones(32, 16, device="meta"), torch.zeros(32)),
    "meta targets": lambda: (_rows(), torch.zeros(32, device="meta")),
    "scalar": lambda: torch.tensor(1.0),
    "scalar batches": lambda: [torch.tensor(1.0), torch.tensor(2.0)],
    "one sample": lambda: (_rows(1), torch.zeros(1, dtype=torch.long)),
    "array": lambda: (_rows().numpy(), np.zeros(32, dtype=np.int64)),
    "object array": lambda: np.array([object()] * 3),
    "strings": lambda: (_rows(), ["x"] * 32),
    "nested": lambda: [[[_rows()]]],
    "None batches": lambda: [None, None],
    "None targets": lambda: [(_rows(), None)],
    "quantized": lambda: torch.quantize_per_tensor(_rows(), 0.1, 0, torch.quint8),
    "nested tensor": lambda: torch.nested.nested_tensor([_rows(2), _rows(3)]),
    "requires gradients": lambda: (_rows().requires_grad_(), torch.zeros(32, dtype=torch.long)),
    "infinite loader": lambda: DataLoader(_Endless(), batch_size=4),
    "data set": lambda: TensorDataset(_rows(), torch.zeros(32, dtype=torch.long)),
}


class _Endless(torch.utils.data.Dataset[Tensor]):
    """Says it has items, and has none."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        raise IndexError(index)


KINDS: Mapping[str, Mapping[str, Callable[[], object]]] = {
    "model": MODELS,
    "quantized": MODELS,
    **dict.fromkeys(("data", "calibration", "evaluation", "heldout", "train_loader"), DATA),
    "example": DATA,
}


@pytest.fixture(autouse=True, scope="module")
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Relative paths, `../..` among them, stay below the test's own folder."""
    inner = tmp_path_factory.mktemp("calls") / "a" / "b"
    inner.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inner)
        yield


@cache
def result() -> aq.SearchResult:
    return search(trials=2, progress=False)


@cache
def _table() -> object:
    return aq.sensitivity(**_given(*_SCORED), samples=16).table


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def _example() -> tuple[Tensor]:
    return (faulty.good_data()[0][0],)


def _given(*names: str) -> dict[str, Any]:
    """Good arguments by name."""
    good: dict[str, Any] = {
        "model": faulty.good_model(),
        "calibration": faulty.good_data(),
        "evaluation": faulty.good_data(),
        "data": faulty.good_data(),
        "metric": faulty.good_metric,
        "progress": False,
        "backend": {"engine": "fbgemm", "pairs": 3},
    }
    return {name: good[name] for name in names}


_SCORED = ("model", "calibration", "evaluation", "metric", "progress")

CALLS: Mapping[str, tuple[Callable[..., object], Callable[[], dict[str, Any]]]] = {
    "search": (
        aq.search,
        lambda: {
            **_given(*_SCORED, "backend"),
            "trials": 2,
            "space": {"schemes": ["int8", "fp32"]},
            "max_drop": None,
            "objectives": ("output_error", "bops"),
            "sensitivity": {"samples": 16},
        },
    ),
    "check": (aq.check, lambda: _given("model", "calibration", "backend", "progress")),
    "compare": (
        aq.compare,
        lambda: {**_given("model", "data", "backend", "progress"), "quantized": "int8"},
    ),
    "diagnose": (
        aq.diagnose,
        lambda: _given("model", "calibration", "evaluation", "backend", "progress"),
    ),
    "compare_observers": (
        aq.compare_observers,
        lambda: {**_given(*_SCORED), "observers": ["minmax"], "engine": "fbgemm", "samples": 16},
    ),
    "sensitivity": (
        aq.sensitivity,
        lambda: {**_given(*_SCORED, "backend"), "samples": 16, "space": "server_cpu"},
    ),
    "tune": (
        aq.tune,
        lambda: {**_given(*_SCORED), "trials": 1, "max_drop": 0.5},
    ),
    "finetune": (
        aq.finetune,
        lambda: {
            **_given(*_SCORED, "backend"),
            "plan": "int8",
            "train_loader": faulty.good_data(),
            "loss": _squares,
            "float_steps": 40,
            "steps": 4,
            "learning_rates": [0.001],
        },
    ),
    "find_bad_cases": (
        aq.find_bad_cases,
        lambda: {**_given("model", "data", "progress"), "quantized": faulty.good_model()},
    ),
    "load_result": (aq.load_result, lambda: {"folder": result().folder}),
    "load_plan": (
        aq.load_plan,
        lambda: {"path": next(result().folder.glob("plans/*.json"))},
    ),
    "export": (
        aq.export,
        lambda: {
            "candidate": result().frontier[0],
            "model": faulty.good_model(),
            "path": result().folder / "exported",
        },
    ),
    "confirm": (
        aq.confirm,
        lambda: {"folder": result().folder, "backend": "fbgemm", "progress": False},
    ),
    "plan_support": (
        aq.plan_support,
        lambda: {
            "plan": result().frontier[0].plan,
            "model": faulty.good_model(),
            "example": _example(),
        },
    ),
    "raise_most_sensitive": (
        aq.raise_most_sensitive,
        lambda: {"table": _table(), "count": 1, "scheme": "fp32"},
    ),
    "split_shared": (
        aq.split_shared,
        lambda: {"model": faulty.good_model(), "example": _example()},
    ),
}


def _arguments(name: str) -> list[str]:
    """What a function takes, each section of a job that it takes beside them too."""
    function, _ = CALLS[name]
    taken = inspect.signature(function).parameters
    named = [key for key in taken if key not in ("settings", "workers")]
    return [*named, *(("sensitivity", "budget", "constraints") if "settings" in taken else ())]


def values(function: str, argument: str, *, near: bool) -> list[str]:
    """Names of what an argument may be given; near: what is of a kind that it says it takes."""
    of_kind = KINDS.get(argument, {})
    hint = hints_of(inspect.unwrap(CALLS[function][0])).get(argument, object)
    plausible = [name for name, make in ODD.items() if fits(make(), hint)]
    return sorted({*of_kind, *(plausible if near and not of_kind else () if near else ODD)} or ODD)


@st.composite
def changed_calls(draw: st.DrawFn) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The name of a function, and by argument the name of what it is given."""
    name = draw(st.sampled_from(sorted(CALLS)))
    chosen = draw(st.lists(st.sampled_from(_arguments(name)), min_size=1, max_size=2, unique=True))
    return name, tuple(
        (key, draw(st.sampled_from(values(name, key, near=draw(st.integers(0, 3)) > 0))))
        for key in chosen
    )


def call(name: str, changes: Mapping[str, str]) -> None:
    function, make = CALLS[name]
    odd = {key: {**ODD, **KINDS.get(key, {})}[value]() for key, value in changes.items()}
    function(**{**copy.copy(make()), **odd})


@settings(max_examples=int(os.environ.get("AUTOQUANT_FUZZ", "0")) or SHORT)
@example(changed=("diagnose", (("evaluation", "strange"),)))
@example(changed=("compare", (("data", "array of objects"),)))
@example(changed=("check", (("observer", "'sys:exit'"),)))
@example(changed=("check", (("mapping", "dict of a number"),)))
@example(changed=("check", (("calibration", "function"),)))
@example(changed=("export", (("path", "''"),)))
@example(changed=("compare", (("quantized", "state"),)))
@example(changed=("compare", (("quantized", "sparse weight"),)))
@example(changed=("finetune", (("output", "long name"),)))
@example(changed=("load_result", (("folder", "long name"),)))
@example(changed=("compare", (("quantized", "long name"),)))
@example(changed=("finetune", (("float_steps", "10**400"),)))
@example(changed=("diagnose", (("evaluation", "nested tensor"),)))
@given(changed=changed_calls())
def test_a_call_does_its_work_or_is_refused_in_a_sentence(
    changed: tuple[str, tuple[tuple[str, str], ...]],
) -> None:
    name, changes = changed
    refused = ""
    try:
        call(name, dict(changes))
    except AutoquantError as error:
        refused = str(error)
    assert not refused or len(refused.split()) > 3, "a sentence"
    assert len(refused) < 3000
