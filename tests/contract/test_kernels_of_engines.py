"""`diagnose` compares every engine's kernels with their references through its own protocol."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, nn

import autoquant as aq
from autoquant.backends import targets
from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.core.findings.diagnosis import Cause, Diagnosis, Pattern
from tests.networks import MixedNet, TextNet, images, seeded
from tests.seeded_faults import ResidualNet
from tests.unit.debugging.test_kernels_against_references import TOKENS

ENGINES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "litert": "ai_edge_litert"}
engines = pytest.mark.parametrize("engine", ENGINES)


def diagnose(engine: str, model: nn.Module, inputs: Tensor) -> Diagnosis:
    pytest.importorskip(ENGINES[engine])
    return aq.diagnose(model, "int8", calibration=inputs, evaluation=inputs, backend=engine)


@engines
@pytest.mark.slow
@pytest.mark.parametrize("network", [MixedNet, ResidualNet, TextNet])
def test_no_kernel_of_a_healthy_network_is_wrong(engine: str, network: type[nn.Module]) -> None:
    if (engine, network) == ("openvino", TextNet):
        pytest.skip("OpenVINO hands out zeros for a mean that int8 reads too")
    found = diagnose(engine, seeded(network), TOKENS if network is TextNet else images(64))
    assert (found.pattern, found.findings, found.notes) == (Pattern.HEALTHY, (), ())


@engines
@pytest.mark.slow
def test_the_one_wrong_kernel_is_found_and_no_other(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that computes one layer with other weights than the model's."""
    pytest.importorskip(ENGINES[engine])
    module = importlib.import_module(f"autoquant.backends.{engine}.target")
    opened = module.TARGET.open_backend
    monkeypatch.setattr(module, "TARGET", replace(module.TARGET, open_backend=spoiling(opened)))
    assert targets.load_target(engine) is module.TARGET
    found = diagnose(engine, seeded(ResidualNet), images(64))
    (finding,) = found.findings
    assert (found.pattern, finding.cause) == (Pattern.IMPLEMENTATION, Cause.KERNEL)
    assert finding.sites == ("block1.conv2",)


def spoiling(opened: Callable[[BuildRequest], Backend]) -> Callable[[BuildRequest], Backend]:
    """What opens a backend on a model in which one layer is wrong."""

    def spoilt(request: BuildRequest) -> Backend:
        graph: Any = copy.deepcopy(request.captured.graph)
        graph.block1.conv2.folded_weight.neg_()
        return opened(replace(request, captured=replace(request.captured, graph=graph)))

    return spoilt
