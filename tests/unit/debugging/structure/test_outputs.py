"""Ranked outputs are replaced by the tensor before them; what cannot be compared is said."""

from __future__ import annotations

import copy

import torch
from torch import nn

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.backends.torch_cpu.target import open_backend
from autoquant.core.build import BuildSettings
from autoquant.core.findings.concerns import Severity
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.statistics import ObserverName
from autoquant.debugging.structure.outputs import Comparable, with_comparable_outputs
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from tests import misbuilt as nets
from tests.networks import MixedNet, images, seeded


def comparable(model: nn.Module) -> Comparable:
    return with_comparable_outputs(capture(model, (images(4),), how="export"), (images(4),))


def test_logits_are_compared_as_they_are() -> None:
    found = comparable(seeded(MixedNet))
    assert [(item.path, item.compared) for item in found.outputs] == [("", "linear")]
    assert found.concerns == ()


def test_top_k_and_argmax_are_replaced_by_the_tensor_before_them() -> None:
    model, inputs = nets.misbuilt(nets.Ranked()), images(4)
    found = comparable(model)
    with torch.no_grad():
        given, compared = model(inputs), found.captured.graph(inputs)
    assert torch.equal(given["best"], given["logits"].argmax(1))
    assert torch.allclose(compared["logits"], given["logits"])
    assert torch.equal(compared["top"][0], compared["logits"])
    assert torch.equal(compared["top"][1], compared["logits"])
    assert torch.allclose(compared["best"], torch.softmax(compared["logits"], 1))


def test_each_replacement_is_told_once_and_is_no_fault() -> None:
    concerns = comparable(nets.misbuilt(nets.Ranked())).concerns
    assert [item.severity for item in concerns] == [Severity.NOTE] * 3
    assert "topk is part of this output; linear" in concerns[0].what
    assert "argmax is part of this output; softmax" in concerns[1].what
    assert "sort is part of this output; linear" in concerns[2].what


def test_the_capture_that_was_given_still_returns_what_the_model_returns() -> None:
    captured = capture(nets.misbuilt(nets.Ranked()), (images(4),), how="export")
    code = copy.copy(captured.graph.code)
    found = with_comparable_outputs(captured, (images(4),))
    assert captured.graph.code == code
    assert found.captured.graph.code != code
    assert found.captured.sites == captured.sites


def test_a_plan_built_from_the_new_capture_returns_the_same_tensors() -> None:
    captured = comparable(nets.misbuilt(nets.Ranked())).captured
    inputs = images(32)
    statistics = calibrate(captured, [(inputs,)])
    settings = BuildSettings(
        options={"engine": engines_here()[0]}, capture="export", observer=ObserverName.MINMAX
    )
    model = nets.misbuilt(nets.Ranked())
    backend = open_backend(
        BuildRequest(model, captured, statistics, settings, (inputs,), (inputs,))
    )
    built = backend.build(Plan.of({site.name: Scheme.INT8 for site in captured.sites}))
    outputs = backend.run(built.module, (inputs,))
    assert outputs["top"][0].shape == outputs["logits"].shape
    with torch.no_grad():
        error = outputs["top"][1] - captured.graph(inputs)["top"][1]
    assert 0 < float(error.abs().max()) < 0.5


def test_what_cannot_be_compared_is_told_with_the_reason() -> None:
    found = comparable(nets.misbuilt(nets.Uncomparable()))
    assert {item.compared for item in found.outputs} == {None}
    told = {item.where[0]: item.what for item in found.concerns}
    assert "does not start with the 4 samples" in told["['mean']"]
    assert "it is a int" in told["['size']"]
    assert "it holds int64" in told["['ids']"]
    assert told["output"] == "no output can be compared"
    assert all(item.severity is Severity.ATTENTION for item in found.concerns)
