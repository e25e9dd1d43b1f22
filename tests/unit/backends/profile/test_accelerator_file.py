"""The YAML file of an accelerator: what is wrong with it is said, all at once and by key."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from autoquant.backends.profile.reading import read_accelerator, shipped_profiles
from autoquant.core.precision import Precision, Scheme
from autoquant.core.sites import OpKind
from autoquant.errors import JobError

CONVERSION = {"elements_per_second": 1e9, "fixed_us": 1}


def document() -> dict[str, Any]:
    return {
        "name": "chip",
        "source": "a test",
        "launch_us": 2,
        "bandwidth": {"weights": 1e9, "activations": 2e9},
        "throughput": {
            "int8": {"linear": 1e9, "activation": "fused"},
            "fp16": {"linear": "1e8", "activation": 1e6},
        },
        "conversions": {"int8": {"fp16": CONVERSION}, "fp16": {"int8": CONVERSION}},
    }


def mistakes(changed: dict[str, Any]) -> list[str]:
    with pytest.raises(JobError) as caught:
        read_accelerator(yaml.safe_dump(changed))
    first, *lines = caught.value.message.splitlines()
    assert first.startswith("backend.profile: ")
    return [line.removeprefix("  - ") for line in lines]


def put(path: str, value: object) -> dict[str, Any]:
    changed = document()
    *parents, last = path.split(".")
    inner = changed
    for part in parents:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return changed


def test_a_file_is_read_with_rates_in_any_notation() -> None:
    chip = read_accelerator(yaml.safe_dump(document()))
    assert chip.rate(OpKind.LINEAR, Scheme.FP16) == 1e8  # YAML 1.1 reads 1e8 as text
    assert chip.rate(OpKind.ACTIVATION, Scheme.INT8) == math.inf
    assert chip.rate(OpKind.ADD, Scheme.INT8) is None
    assert chip.schemes == (Scheme.INT8, Scheme.FP16)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("launch", 2, "launch: unknown key; did you mean 'launch_us'?"),
        ("launch_us", -1, "launch_us: -1 is below 0.0"),
        ("bandwidth.weights", 0, "bandwidth.weights: 0 is not above 0.0"),
        ("throughput.int8.linear", -3, "throughput.int8.linear: -3 is wrong"),
        ("throughput.int8.linear", "fused", "runs inside no other one"),
        ("throughput.int8.conv", 3, "throughput.int8.conv: 'conv' is none of 'conv1d'"),
        ("throughput.int9", {"add": 1}, "throughput.int9: 'int9' is wrong: write one of int8"),
        ("throughput.int8_dynamic", {"linear": 1}, "throughput.int8_dynamic: 'int8_dynamic' is"),
        ("throughput.int16", {"linear": 1e9}, "conversions.int8.int16: is missing"),
        ("functions.gelu.range", [1, 0], "range: 1.0 is not below 0.0"),
        ("functions.gelu.schemes", ["int9"], "write one of int8"),
        ("functions.gelu.fused_into", ["conv"], "'conv' is none of 'conv1d'"),
        ("functions.tanh.range", [-2, 2], "functions.tanh.range: its definition says"),
        ("outside", "fp32", "conversions.fp32.int8: is missing"),
        ("conversions.int8.fp16.fixed_us", -1, "conversions.int8.fp16.fixed_us: -1 is below"),
        ("measured", {"batch": 1, "ops": []}, "measured.ops: holds nothing"),
        (
            "measured",
            {"batch": 1, "ops": [{"scheme": "int8", "ms": 1}]},
            "it needs site or kind",
        ),
    ],
)
def test_a_mistake_is_named_by_its_key(path: str, value: object, said: str) -> None:
    assert any(said in line for line in mistakes(put(path, value)))


@pytest.mark.parametrize("key", ["name", "source", "launch_us", "bandwidth"])
def test_what_must_stand_in_the_file_is_asked_for(key: str) -> None:
    changed = document()
    del changed[key]
    assert any(line.startswith(f"{key}: is missing") for line in mistakes(changed))


def test_a_file_without_any_op_is_refused() -> None:
    changed = document()
    del changed["throughput"]
    assert any(line.startswith("throughput: is missing") for line in mistakes(changed))


def test_all_mistakes_come_together() -> None:
    changed = put("launch_us", -1)
    changed["nonsense"] = 1
    changed["throughput"]["bf16"] = {"linear": 1e9}
    said = "\n".join(mistakes(changed))
    for part in ("launch_us: -1", "nonsense: unknown key", "conversions.bf16.int8: is missing"):
        assert part in said


@pytest.mark.parametrize("text", ["", "- a", "a: [", "launch_us: 1\nlaunch_us: 2"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"backend\.profile"):
        read_accelerator(text)


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_files_are_right(name: str) -> None:
    chip = read_accelerator(shipped_profiles()[name])
    assert chip.name == name
    formats = {scheme.activation for scheme in chip.schemes}
    assert formats == {Precision.INT8, Precision.INT16, Precision.FP16}
