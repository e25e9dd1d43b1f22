"""What every backend promises, held by each that is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoquant.backends.targets import load_target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
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
