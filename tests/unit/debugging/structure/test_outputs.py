"""What is compared in the place of whole numbers, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoquant.core.findings.concerns import Concern, Severity
from autoquant.core.findings.structure import OutputFacts
from autoquant.debugging.structure.outputs import find_uncompared, list_outputs
from autoquant.model.building import build_subject
from tests import misbuilt as nets
from tests.networks import MixedNet, images, seeded


def outputs_of(model: nn.Module) -> tuple[Sequence[OutputFacts], list[Concern]]:
    subject = build_subject(model, calibration=images(4))
    facts = list_outputs(subject.find_sites(), subject.example)
    return facts, list(find_uncompared(facts, 4))


def test_logits_are_compared_as_they_are() -> None:
    facts, concerns = outputs_of(seeded(MixedNet))
    assert [(item.path, item.compared) for item in facts] == [("", "linear")]
    assert concerns == []


def test_whole_numbers_are_compared_by_the_tensor_that_they_are_computed_from() -> None:
    facts, concerns = outputs_of(nets.misbuilt(nets.Ranked()))
    compared = {item.path: item.compared for item in facts}
    assert compared["['top'][1]"] == "linear", compared
    assert compared["['best']"] == "softmax"
    assert all(item.severity is Severity.NOTE for item in concerns)
    assert "holds int64; softmax, from which it is computed" in concerns[1].what


def test_what_cannot_be_compared_is_told_with_the_reason() -> None:
    facts, concerns = outputs_of(nets.misbuilt(nets.Uncomparable()))
    assert {item.compared for item in facts} == {None}
    told = {item.where[0]: item.what for item in concerns}
    assert "does not start with the 4 samples" in told["['mean']"]
    assert "it is a int" in told["['size']"]
    assert "it holds int64" in told["['ids']"]
    assert told["output"] == "no output can be compared"
    assert all(item.severity is Severity.ATTENTION for item in concerns)
