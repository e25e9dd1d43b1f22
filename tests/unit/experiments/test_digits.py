"""The digits experiment: data, network, and what training reaches."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from autoquant.metrics import accuracy
from autoquant.model.data.entry_points import load_entry

FILE = Path(__file__).parents[3] / "experiments" / "digits.py"
Batches = list[tuple[Tensor, Tensor]]


def entry(name: str) -> Callable[..., Any]:
    return load_entry(f"{FILE}:{name}")


def score(network: nn.Module, batches: Batches) -> float:
    with torch.no_grad():
        return float(torch.cat([accuracy(network(x), y) for x, y in batches]).mean())


def as_rows(batches: Batches) -> set[bytes]:
    return {row.numpy().tobytes() for inputs, _ in batches for row in inputs}


@pytest.mark.parametrize(
    ("name", "count"), [("calibration", 256), ("evaluation", 448), ("heldout", 448)]
)
def test_a_split_holds_as_many_images_as_it_says(name: str, count: int) -> None:
    batches = entry(name)()
    assert sum(len(targets) for _, targets in batches) == count
    assert {tuple(inputs.shape[1:]) for inputs, _ in batches} == {(1, 16, 16)}


def test_no_image_is_in_two_splits() -> None:
    splits = [as_rows(entry(name)()) for name in ("calibration", "evaluation", "heldout")]
    assert len(set.union(*splits)) == sum(len(split) for split in splits)


def test_a_split_is_the_same_in_every_call() -> None:
    first, second = entry("evaluation")(), entry("evaluation")()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_the_network_has_the_ops_that_the_experiment_is_about() -> None:
    network = entry("DigitsNet")(16).eval()
    called = {node.target for node in fx.symbolic_trace(network).graph.nodes}
    assert {operator.add, operator.mul} <= called
    kinds = {type(item) for item in network.modules()}
    assert {nn.Hardswish, nn.Hardsigmoid, nn.AdaptiveAvgPool2d, nn.Linear} <= kinds
    assert any(isinstance(item, nn.Conv2d) and item.groups > 1 for item in network.modules())


def test_torch_converts_the_network_to_int8() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    images = entry("evaluation")()[0][0][:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = entry("DigitsNet")(16).eval()
        prepared = prepare_fx(network, get_default_qconfig_mapping("x86"), (images,))
        prepared(images)
        converted = convert_fx(prepared)
    targets = [str(node.target) for node in converted.graph.nodes]
    assert any("quantized.mul" in target for target in targets)
    assert any("quantized.add" in target for target in targets)
    assert converted(images).shape == (8, 10)


@pytest.mark.slow
def test_training_reaches_95_percent() -> None:
    assert score(entry("model")(), entry("heldout")()) >= 0.95


@pytest.mark.slow
def test_a_width_is_trained_once_to_weights_that_the_seed_alone_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed in (1, 2):
        monkeypatch.setenv("AUTOQUANT_CACHE", str(tmp_path / str(seed)))
        torch.manual_seed(seed)
        found.append(entry("model")(4))
    (weights,) = (tmp_path / "2").glob("*.safetensors")
    written = weights.stat().st_mtime_ns
    found.append(entry("model")(4))
    assert weights.stat().st_mtime_ns == written
    assert not any(network.training for network in found)
    for other in found[1:]:
        torch.testing.assert_close(other.state_dict(), found[0].state_dict(), rtol=0, atol=0)
    entry("model")(8)
    assert len(list((tmp_path / "2").glob("*.safetensors"))) == 2


def test_an_epoch_of_training_shows_every_image_once_in_another_order_each_time() -> None:
    training = entry("training")()
    first, second = (torch.cat([targets for _, targets in training]) for _ in range(2))
    assert len(first) == 901
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)
