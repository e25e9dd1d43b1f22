"""The ResNet-20 experiment: its network, its data and its messages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoquant.errors import DataError
from autoquant.metrics import accuracy
from autoquant.model.data.entry_points import load_entry

FILE = Path(__file__).parents[3] / "experiments" / "resnet20.py"
FOLDER = os.environ.get("AUTOQUANT_TEST_DATA", "")
needs_data = pytest.mark.skipif(not FOLDER, reason="AUTOQUANT_TEST_DATA names no folder")


def entry(name: str) -> Callable[..., Any]:
    return load_entry(f"{FILE}:{name}")


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    save_file(entry("ResNet20")().state_dict(), tmp_path / "resnet20_cifar10.safetensors")
    arrays: dict[str, Any] = {}
    for split in ("calibration", "validation", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = random.integers(0, 10, 70, dtype=np.uint8)
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    return tmp_path


def test_images_are_normalised_channels_first_and_contiguous(small_folder: Path) -> None:
    inputs, targets = entry("evaluation")(str(small_folder))[0]
    with np.load(small_folder / "cifar10_jpeg.npz") as arrays:
        pixel = arrays["validation_images"][5, 3, 2, 1] / 255
    assert inputs.shape == (64, 3, 32, 32)
    assert inputs.is_contiguous()
    assert inputs[5, 1, 3, 2].item() == pytest.approx((pixel - 0.456) / 0.224, abs=1e-6)
    assert targets.dtype is torch.int64


def test_calibration_takes_as_many_samples_as_asked(small_folder: Path) -> None:
    batches = entry("calibration")(str(small_folder), samples=66)
    assert [len(targets) for _, targets in batches] == [64, 2]


def test_the_shortcut_subsamples_and_pads_with_zeros() -> None:
    block = entry("BasicBlock")(2, 4, 2)
    inputs = torch.rand(1, 2, 4, 4)
    shortcut = block._shortcut(inputs)
    assert torch.equal(shortcut[:, 1:3], inputs[:, :, ::2, ::2])
    assert not shortcut[:, 0].any()
    assert not shortcut[:, 3].any()


@pytest.mark.parametrize("name", ["model", "calibration", "evaluation", "heldout"])
def test_a_missing_folder_is_named_with_the_files_it_must_hold(name: str) -> None:
    with pytest.raises(DataError) as caught:
        entry(name)("no/such/folder")
    text = str(caught.value)
    assert "no/such/folder" in text
    assert "resnet20_cifar10.safetensors" in text
    assert "cifar10_jpeg.npz" in text


def test_a_file_without_the_split_is_a_data_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10_jpeg.npz", other=np.zeros(1))
    with pytest.raises(DataError, match="test_images"):
        entry("heldout")(str(tmp_path))


def test_torch_converts_the_network_to_int8(small_folder: Path) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    images = entry("calibration")(str(small_folder))[0][0][:4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = entry("model")(str(small_folder))
        prepared = prepare_fx(network, get_default_qconfig_mapping("x86"), (images,))
        prepared(images)
        converted = convert_fx(prepared)
    assert converted(images).shape == (4, 10)


@pytest.mark.data
@needs_data
def test_the_published_weights_reach_their_published_accuracy() -> None:
    network = entry("model")(FOLDER)
    with torch.no_grad():
        scores = torch.cat([accuracy(network(x), y) for x, y in entry("heldout")(FOLDER)])
    assert len(scores) == 3000
    assert float(scores.mean()) == pytest.approx(0.87, abs=0.002)  # kernels round differently


def test_training_images_come_with_the_networks_probabilities_anew_each_epoch(
    small_folder: Path,
) -> None:
    training = entry("training")(str(small_folder), batch_size=32)
    first, second = list(training), list(training)
    assert [len(images) for images, _ in first] == [32, 32, 6]
    assert not torch.equal(first[0][0], second[0][0])
    for images, targets in first:
        assert images.shape[1:] == (3, 32, 32)
        assert torch.allclose(targets.sum(1), torch.ones(len(images)))


def test_scaled_channels_change_no_output(small_folder: Path) -> None:
    images = entry("evaluation")(str(small_folder))[0][0]
    with torch.no_grad():
        plain = entry("model")(str(small_folder))(images)
        scaled = entry("model")(str(small_folder), outlier_scale=64.0)(images)
    assert torch.allclose(plain, scaled, atol=1e-5)  # powers of two: only the order of sums differs
