"""What every backend promises, held by each that is installed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.targets import load_target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError
from tests.backend_contract import Opened, check_all
from tests.networks import seeded

BACKENDS = {
    "torch": BuildSettings(options={"engine": "fbgemm"}),
    "openvino": BuildSettings(backend="openvino"),
    "onnxruntime": BuildSettings(backend="onnxruntime"),
    "litert": BuildSettings(backend="litert"),
}


@pytest.fixture(autouse=True)
def _is_installed(name: str) -> None:
    if missing := find_rows()[name].missing:
        pytest.skip(f"{name} is not installed: {', '.join(missing)}")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_keeps_what_all_promise(name: str, tmp_path: Path) -> None:
    check_all(Opened(BACKENDS[name]), tmp_path)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_built_model_is_kept_by_pickle(name: str) -> None:
    opened = Opened(BACKENDS[name])
    built = opened.backend.build(
        Plan.of({site.name: Scheme.INT8 for site in opened.captured.sites})
    )
    kept = pickle.loads(pickle.dumps(built.module))
    found = opened.backend.run(kept, opened.inputs)
    assert torch.equal(found, opened.backend.run(built.module, opened.inputs))


class Handed(nn.Module):
    """What it reads is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


@pytest.mark.parametrize("name", BACKENDS)
def test_an_input_that_is_an_output_comes_out_as_it_went_in(name: str) -> None:
    opened = Opened(BACKENDS[name], Handed().eval())
    plan = Plan.of({site.name: Scheme.INT8 for site in opened.captured.sites})
    assert torch.equal(opened.outputs(plan)[1], opened.inputs[0])


@pytest.mark.parametrize("name", BACKENDS)
def test_the_largest_int8_products_do_not_overflow_on_this_cpu(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(64, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.fill_(0.5)
            layer.bias.zero_()
    largest = torch.full((4, 64, 4, 4), 3.0)
    opened = Opened(BACKENDS[name], model.eval(), (largest,))
    plan = Plan.of({site.name: Scheme.INT8 for site in opened.captured.sites})
    torch.testing.assert_close(opened.outputs(plan), model(largest), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("name", ["torch", "openvino", "onnxruntime"])
def test_a_reduced_range_leaves_out_a_bit_of_the_weights(name: str) -> None:
    target = load_target(name)
    settings = BACKENDS[name]
    plain, reduced = (
        target.settle(settings.with_options(reduce_range=item), None) for item in (False, True)
    )
    assert (plain.ranges.weight_bits, reduced.ranges.weight_bits) == (8, 7)
    auto = target.settle(settings, None)
    assert auto.ranges == (reduced if target.overflows(settings) else plain).ranges
    opened = Opened(reduced)
    plan = Plan.of({site.name: Scheme.INT8 for site in opened.captured.sites})
    with torch.no_grad():
        exact = opened.model(*opened.inputs)
    assert (opened.outputs(plan) - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_what_fails_when_it_is_called_is_a_refusal(name: str) -> None:
    opened = Opened(BACKENDS[name])
    plan = Plan.of({site.name: Scheme.FP32 for site in opened.captured.sites})
    module = opened.backend.build(plan).module
    with pytest.raises(BackendError, match=f"{name} fails to run the plan"):
        opened.backend.run(module, (torch.zeros(4, 5),))  # of 16 features


class Squashing(nn.Module):
    """As a capsule network does, with a term that keeps it from dividing by nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        power = x.square().sum(-1, keepdim=True)
        return self.linear(x / (power + 1e-8).sqrt() * 1.000005)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "litert"])
def test_a_term_that_is_next_to_nothing_is_kept(name: str) -> None:
    rows = torch.randn(4, 8)
    rows[1] = 0.0
    opened = Opened(BACKENDS[name], Squashing().eval(), (rows,))
    plan = Plan.of({site.name: Scheme.FP32 for site in opened.captured.sites})
    with torch.no_grad():
        torch.testing.assert_close(opened.outputs(plan), opened.model(rows), rtol=1e-5, atol=1e-5)


class PaddedPool(nn.Module):
    """A pool as `same` padding has it: -inf around what it selects from."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(self.first(x).relu(), (0, 1, 0, 1), value=-torch.inf)
        return self.last(nn.functional.max_pool2d(padded, 3, 2))


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_pool_never_selects_has_no_part_in_a_range(name: str) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    opened = Opened(BACKENDS[name], seeded(PaddedPool), (images,))
    plan = Plan.of({site.name: Scheme.INT8 for site in opened.captured.sites})
    with torch.no_grad():
        exact = opened.model(images)
    assert (opened.outputs(plan) - exact).norm() < 0.05 * exact.norm()


CALLS: dict[str, Callable[[Any, str, Tensor], Any]] = {
    "torch": lambda run, _, tensor: run(tensor),
    "openvino": lambda run, _, tensor: run([tensor.numpy()])[0],
    "onnxruntime": lambda run, name, tensor: run({name: tensor.numpy()})[0],
    "litert": lambda run, name, tensor: next(iter(run(**{name: tensor.numpy()}).values())),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_line_that_export_prints_runs_the_file(name: str, tmp_path: Path) -> None:
    opened, recipe = Opened(BACKENDS[name]), load_target(name).recipe
    plan = Plan.of({site.name: Scheme.FP32 for site in opened.captured.sites})
    path = tmp_path / f"model{opened.backend.suffix}"
    opened.backend.export(plan, path, {"threads": 1, "batch_size": 16})
    assert recipe is not None
    made: dict[str, Any] = {}
    exec(recipe(BACKENDS[name], path, 1), made)
    (tensor,) = opened.inputs
    found = CALLS[name](made["run"], opened.captured.calling.names[0], tensor)
    torch.testing.assert_close(torch.as_tensor(found), opened.outputs(plan), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_file_is_read_back_before_it_is_written_once_for_each_plan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(BACKENDS[name])
    built, other = (
        Plan.of({site.name: scheme for site in opened.captured.sites})
        for scheme in (Scheme.FP32, Scheme.INT8)
    )
    opened.backend.build(built)

    def refuse(*_: object, **__: object) -> None:
        raise BackendError("nothing is opened")

    opens = {"openvino": "compile_graph", "onnxruntime": "open_and_dump"}[name]
    monkeypatch.setattr(f"autoquant.backends.{name}.backend.{opens}", refuse)
    path = tmp_path / f"model{opened.backend.suffix}"
    assert opened.backend.export(built, path, {}).exists()
    with pytest.raises(BackendError, match="nothing is opened"):
        opened.backend.export(other, path, {})
