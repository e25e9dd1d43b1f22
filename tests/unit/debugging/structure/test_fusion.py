"""Gaps in fusion are found with their reason, and nothing is found where all is fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoquant.core.findings.concerns import Concern, Severity
from autoquant.debugging.structure.fusion import find_gaps
from autoquant.debugging.structure.hidden import find_hidden
from autoquant.model.graph.capture import Capture, capture
from tests import misbuilt as nets
from tests.networks import MixedNet, images, seeded


def captured(network: type[nn.Module], leaf_modules: tuple[str, ...] = ()) -> Capture:
    return capture(nets.misbuilt(network()), (images(2),), leaf_modules, how="export")


def hidden(network: type[nn.Module], leaf_modules: tuple[str, ...] = ()) -> list[Concern]:
    return list(find_hidden(captured(network, leaf_modules), nets.misbuilt(network())))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "reason", "where"),
    [
        (nets.TwoReaders, ":add:0 reads the output of conv too", ("conv", "bn")),
        (nets.ReluBetween, "a relu stands between", ("conv", "bn")),
        (nets.FlattenBetween, "a reshape stands between", ("grow", "act")),
        (nets.WideLinear, "channels of another axis of a tensor of 3 dimensions", ("grow", "bn")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_could_be_fused_and_is_not_is_found_with_the_reason(
    network: type[nn.Module], reason: str, where: tuple[str, ...]
) -> None:
    (gap,) = find_gaps(captured(network))
    assert gap.severity is Severity.ATTENTION
    assert reason in gap.what
    assert gap.where == where


def test_a_relu_whose_input_has_another_reader_on_purpose_is_only_a_note() -> None:
    (gap,) = find_gaps(captured(nets.ReadBeforeRelu))
    assert gap.severity is Severity.NOTE
    assert ":add:0 reads the output of conv too" in gap.what


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        *(nets.Apart, nets.SharedBlock, nets.DropoutBetween, nets.FunctionalConv),
        *(nets.TorchRelu, nets.MethodRelu, nets.MethodAdd, nets.AtOperator, nets.Attention),
        nets.Wrapped,
    ],
    ids=lambda value: value.__name__,
)
def test_no_spelling_keeps_ops_apart_or_out_of_reach(network: type[nn.Module]) -> None:
    found = captured(network)
    assert list(find_gaps(found)) == []
    assert hidden(network) == []
    assert found.reach is not None
    assert found.reach.weights == 1.0


def test_functions_that_absorb_their_relu_are_no_gap() -> None:
    assert list(find_gaps(capture(seeded(MixedNet), (images(2),), how="export"))) == []


def test_modules_that_the_user_keeps_whole_are_a_note() -> None:
    (kept,) = [item for item in hidden(nets.SharedBlock, ("block",)) if item.where == ("block",)]
    assert kept.severity is Severity.NOTE
    assert "1 quantizable modules in it stay fp32 (conv)" in kept.what


def test_weights_that_no_site_holds_are_told() -> None:
    (unseen,) = [item for item in hidden(nets.SharedBlock, ("block",)) if "sites hold" in item.what]
    assert any("block.conv" in place for place in unseen.where)


def test_an_op_of_another_library_is_found() -> None:
    with torch.library._scoped_library("checked", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: 2 * x, "CompositeExplicitAutograd")
        (found,) = hidden(nets.OtherLibrary)
    assert "checked::double is an op of another library" in found.what
    assert found.severity is Severity.ATTENTION
