"""Gaps in fusion are found with their reason, and nothing is found where all is fused."""

from __future__ import annotations

import pytest
from torch import nn

from autoquant.analysis.structure.fusion import find_gaps
from autoquant.analysis.structure.hidden import find_hidden
from autoquant.core.concerns import Severity
from autoquant.errors import ModelError
from autoquant.model.capture import Capture, capture
from tests import misbuilt as nets
from tests.networks import MixedNet, images, seeded


def captured(network: type[nn.Module], leaf_modules: tuple[str, ...] = ()) -> Capture:
    return capture(nets.misbuilt(network()), (images(2),), leaf_modules)


@pytest.mark.parametrize(
    ("network", "reason", "where"),
    [
        (nets.DropoutBetween, "Dropout 'drop' stands between", ("conv", "bn")),
        (nets.TwoReaders, "add reads the output of conv too", ("conv", "bn")),
        (nets.ReluBetween, "a relu stands between", ("conv", "bn")),
        (nets.FunctionalConv, "is a function", ("conv2d", "bn")),
        (nets.TorchRelu, "written as torch.relu", ("conv", "relu")),
        (nets.MethodRelu, "written as the method .relu()", ("conv", "relu")),
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
    assert "add reads the output of conv too" in gap.what


@pytest.mark.parametrize("network", [nets.Apart, nets.SharedBlock])
def test_a_network_that_torch_fuses_whole_has_no_gap(network: type[nn.Module]) -> None:
    assert list(find_gaps(captured(network))) == []
    assert list(find_hidden(captured(network))) == []


def test_functions_that_absorb_their_relu_are_no_gap() -> None:
    assert list(find_gaps(capture(seeded(MixedNet), (images(2),)))) == []


@pytest.mark.parametrize(
    ("network", "what", "mend"),
    [
        (nets.MethodAdd, "the method .add()", "a + b"),
        (nets.AtOperator, "matmul", "torch.matmul(a, b)"),
    ],
    ids=["add", "matmul"],
)
def test_an_op_in_a_spelling_that_torch_cannot_quantize_is_found(
    network: type[nn.Module], what: str, mend: str
) -> None:
    (hidden,) = find_hidden(captured(network))
    assert f"written as {what}" in hidden.what
    assert mend in hidden.mend


def test_modules_that_torch_does_not_trace_into_need_attention() -> None:
    (hidden,) = find_hidden(captured(nets.Attention))
    assert hidden.where == ("attend",)
    assert "out_proj" in hidden.what
    assert hidden.severity is Severity.ATTENTION


def test_modules_that_the_user_keeps_whole_are_only_a_note() -> None:
    (hidden,) = find_hidden(captured(nets.SharedBlock, ("block",)))
    assert hidden.where == ("block",)
    assert hidden.severity is Severity.NOTE


def test_a_wrapped_function_is_found() -> None:
    (hidden,) = find_hidden(captured(nets.Wrapped))
    assert "scaled" in hidden.what


def test_a_batch_norm_without_statistics_is_the_models_mistake() -> None:
    with pytest.raises(ModelError, match="running_mean"):
        captured(nets.NoStatistics)
