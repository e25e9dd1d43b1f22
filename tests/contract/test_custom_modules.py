"""Modules that their user quantizes as a whole, by the example of the docs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.backends.targets import load_target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError, ModelError
from docs.extending.own_module import SquaredLinear
from tests.contract.test_torch_modules import open_backend
from tests.networks import seeded

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
INT8 = {"first": Scheme.INT8, "squared": Scheme.INT8, "head": Scheme.FP32}


class Network(nn.Module):
    """A custom module between two layers."""

    def __init__(self, custom: Callable[[int, int], nn.Module] = SquaredLinear) -> None:
        super().__init__()
        self.first, self.squared = nn.Linear(16, 24), custom(24, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.squared(self.first(x)))


def test_it_is_one_site_and_runs_as_its_user_says() -> None:
    model = seeded(Network)
    captured, backend, _ = open_backend(model, (ROWS,), "fbgemm")
    assert [(site.name, site.kind) for site in captured.sites] == [
        ("first", OpKind.LINEAR),
        ("squared", OpKind.CUSTOM),
        ("head", OpKind.LINEAR),
    ]
    built = backend.build(Plan.of(INT8))
    assert str(built.executed["squared"]) == "int8 native"
    assert built.executed["squared"].kernel == "SquaredLinearInt8"
    found = backend.run(built.module, (ROWS,))
    with torch.no_grad():
        exact = model(ROWS)
    assert 0.0 < float((found - exact).norm()) < 0.05 * float(exact.norm())
    assert torch.equal(pickle.loads(pickle.dumps(built.module))(ROWS), found)
    in_float = backend.build(Plan.of(dict.fromkeys(INT8, Scheme.FP32)))
    assert str(in_float.executed["squared"]) == "fp32 native"


def test_an_exported_file_gives_the_same(tmp_path: Path) -> None:
    _, backend, _ = open_backend(seeded(Network), (ROWS,), "fbgemm")
    path = backend.export(Plan.of(INT8), tmp_path / "model.ts", {})
    built = backend.build(Plan.of(INT8)).module
    assert torch.allclose(torch.jit.load(str(path))(ROWS), built(ROWS), atol=1e-6)


def test_a_search_weighs_it_like_any_other_op() -> None:
    model = seeded(Network)
    with torch.no_grad():
        classes = model(ROWS).argmax(1)
    result = aq.search(
        model,
        [(ROWS, classes)],
        metric="accuracy",
        backend={"engine": "fbgemm"},
        space={"schemes": ["int8", "fp32"]},
        budget={"trials": 8},
        max_drop=0.5,
        cache=False,
    )
    chosen = {candidate.plan["squared"] for candidate in result.candidates}
    assert chosen == {Scheme.INT8, Scheme.FP32}


def test_it_is_checked_and_ranked_with_what_really_runs() -> None:
    model, engine = seeded(Network), {"engine": "fbgemm"}
    report = aq.check(model, ROWS, plan=Plan.of(INT8), backend=engine).to_json()
    assert "captured module by module, for the custom modules squared" in str(report["concerns"])
    (row,) = [row for row in report["ops"] if row["name"] == "squared"]
    assert (row["kind"], row["runs"]) == ("custom", "int8 native")
    space = {"schemes": ["int8", "fp32"]}
    ranked = aq.sensitivity(
        model,
        calibration=ROWS,
        evaluation=[(ROWS, model(ROWS).argmax(1))],
        space=space,
        backend=engine,
    )
    assert "squared" in {row.knob for row in ranked.table.rows}


def own(made: Callable[[nn.Module], object]) -> type[nn.Module]:
    """A class whose quantized form is what a function makes."""

    class Own(SquaredLinear):
        autoquant = aq.CustomModule(int8=lambda module, _: made(module))

    return Own


class Narrow(nn.Module):
    """Gives half of what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :8]


WRONG = {
    "raises": (lambda _: 1 / 0, r"site squared: Own.autoquant.int8 raised ZeroDivisionError"),
    "no module": (lambda _: "int8", "site squared: Own.autoquant.int8 gave 'int8'"),
    "the same": (lambda module: module, "site squared: Own.autoquant.int8 gave a Own"),
    "another shape": (
        lambda _: Narrow(),
        r"site squared: the module in int8 gives float32 of shape \(2, 8\), the float one "
        r"float32 of shape \(2, 16\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_quantized_form_is_refused_by_its_site(name: str) -> None:
    made, said = WRONG[name]
    model = nn.Sequential()
    model.squared = own(made)(24, 16)
    _, backend, _ = open_backend(model.eval(), (torch.randn(8, 24),), "fbgemm")
    with pytest.raises(BackendError, match=said):
        backend.build(Plan.of({"squared": Scheme.INT8}))


def test_a_graph_of_the_whole_model_is_refused() -> None:
    with pytest.raises(ModelError, match="looks into every module, and squared is quantized whole"):
        aq.check(seeded(Network), ROWS, plan="int8", capture="export")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "litert", "inductor"])
def test_no_other_backend_has_one_in_integers(name: str) -> None:
    if find_rows()[name].missing:
        pytest.skip(f"{name} is not installed")
    target = load_target(name)
    for scheme in set(Scheme) - {Scheme.FP32}:
        support = target.kind_support(BuildSettings(name), OpKind.CUSTOM, scheme)
        assert support is Support.UNSUPPORTED, scheme
