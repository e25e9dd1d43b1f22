"""What every backend promises, held by each that is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from tests.backend_contract import Opened, check_all

BACKENDS = {
    "torch": BuildSettings(options={"engine": "fbgemm"}),
    "openvino": BuildSettings(backend="openvino"),
    "onnxruntime": BuildSettings(backend="onnxruntime"),
    "litert": BuildSettings(backend="litert"),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_keeps_what_all_promise(name: str, tmp_path: Path) -> None:
    row = find_rows()[name]
    if row.missing:
        pytest.skip(f"{name} is not installed: {', '.join(row.missing)}")
    check_all(Opened(BACKENDS[name]), tmp_path)


@pytest.mark.parametrize("name", BACKENDS)
def test_int8_sums_of_the_largest_values_do_not_overflow(name: str) -> None:
    row = find_rows()[name]
    if row.missing:
        pytest.skip(f"{name} is not installed: {', '.join(row.missing)}")
    model = nn.Linear(64, 16).eval()
    nn.init.ones_(model.weight)
    inputs = (torch.linspace(0.9, 1.0, 32 * 64).reshape(32, 64),)
    captured = capture(model, inputs)
    statistics = calibrate(captured, [inputs])
    settings = load_target(name).settle(BACKENDS[name], None)
    request = BuildRequest(model, captured, statistics, settings, inputs, inputs)
    backend = load_target(name).open_backend(request)
    (site,) = captured.sites
    built = backend.build(Plan.of({site.name: Scheme.INT8}))
    with torch.no_grad():
        expected = model(*inputs)
    torch.testing.assert_close(backend.run(built.module, inputs), expected, rtol=0.02, atol=0.0)


CALLS: dict[str, Callable[[Any, str, Tensor], Any]] = {
    "torch": lambda run, _, tensor: run(tensor),
    "openvino": lambda run, _, tensor: run([tensor.numpy()])[0],
    "onnxruntime": lambda run, name, tensor: run({name: tensor.numpy()})[0],
    "litert": lambda run, name, tensor: next(iter(run(**{name: tensor.numpy()}).values())),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_line_that_export_prints_runs_the_file(name: str, tmp_path: Path) -> None:
    row = find_rows()[name]
    if row.missing:
        pytest.skip(f"{name} is not installed: {', '.join(row.missing)}")
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
