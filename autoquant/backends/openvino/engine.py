"""What OpenVINO's CPU plugin is asked for, and what it says that it does on this CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from autoquant.errors import BackendError

BF16 = "bf16"
F16 = "f16"
F32 = "f32"
DEVICE = "CPU"
GROUP_SIZE = 32
"""Input features that share a scale in dynamic quantization; OpenVINO's own default."""


@lru_cache(maxsize=1)
def core() -> ov.Core:
    """The engine of this process."""
    return ov.Core()


@lru_cache(maxsize=1)
def core_capabilities() -> frozenset[str]:
    """Number formats that the plugin says it has kernels for on this CPU."""
    return frozenset(core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


@dataclass(frozen=True, slots=True)
class Options:
    """What a model must be compiled with to compute as its plan says.

    Attributes:
        hint: Precision of the ops that carry no mark: `BF16` or `F32`.
        subgraphs: Whether the plugin may make one kernel of several matmuls and small ops.
    """

    hint: str = F32
    subgraphs: bool = True

    @property
    def properties(self) -> dict[str, str]:
        """As the plugin takes them."""
        return {
            "INFERENCE_PRECISION_HINT": self.hint,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP_SIZE),
            "SNIPPETS_MODE": "ENABLE" if self.subgraphs else "DISABLE",
        }

    def with_threads(self, threads: int) -> dict[str, str | int | bool]:
        """The same for one stream of calls."""
        return {
            **self.properties,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # processes beside this one would share its cores
        }


def compile_graph(
    model: ov.Model, options: Options, threads: int, *, counting: bool = False
) -> ov.CompiledModel:
    """Compile a model for one stream of calls; `counting` times every node of every call."""
    return core().compile_model(
        model, DEVICE, {**options.with_threads(threads), "PERF_COUNT": counting}
    )


def to_bytes(model: ov.Model) -> tuple[bytes, bytes]:
    """A model as its file has it, and the file of its weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.serialize(model, path)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def from_bytes(text: bytes, weights: bytes) -> ov.Model:
    """The model of such files; it reads the weights where they are."""
    return core().read_model(text, ov.Tensor(np.frombuffer(weights, np.uint8)))


def infer(request: ov.InferRequest, arrays: Sequence[object]) -> tuple[Any, ...]:
    """Call a compiled model; outputs are the engine's own until its next call."""
    try:
        found: tuple[Any, ...] = request.infer(arrays, share_inputs=True).to_tuple()
    except RuntimeError as error:
        raise BackendError(
            f"openvino fails to run the plan: {str(error).strip().splitlines()[-1]}",
            hint="pin the op that it names, or those beside it, to one scheme",
        ) from error
    return found


@lru_cache
def precision_for(hint: str) -> str:
    """Precision that this CPU really takes for a precision hint: `f32` for `bf16` on older ones."""
    values = np.zeros((1, 1), np.float32)
    parameter = ops.parameter([1, 1], ov.Type.f32)
    model = ov.Model([ops.add(parameter, ops.constant(values))], [parameter])
    compiled = core().compile_model(model, DEVICE, {"INFERENCE_PRECISION_HINT": hint})
    found: ov.Type = compiled.get_property("INFERENCE_PRECISION_HINT")
    return str(found.to_string())


@lru_cache
def quantizes_dynamically(features: int) -> bool:
    """Whether a linear layer of so many input features gets its inputs rounded on the fly here.

    Neither the runtime graph nor a property tells. So a layer is run with and without dynamic
    quantization: where the outputs are equal, there is none.
    """
    draw = np.random.default_rng(0)
    parameter = ops.parameter([-1, features], ov.Type.f32)
    weight = ops.convert(
        ops.constant(draw.integers(-127, 127, (16, features), dtype=np.int8)), "f32"
    )
    scaled = ops.multiply(weight, ops.constant(np.full((16, 1), 0.01, np.float32)))
    model = ov.Model([ops.matmul(parameter, scaled, False, True)], [parameter])
    inputs = draw.standard_normal((4, features)).astype(np.float32)
    outputs = []
    for size in (0, GROUP_SIZE):
        compiled = core().compile_model(
            model,
            DEVICE,
            {"INFERENCE_PRECISION_HINT": F32, "DYNAMIC_QUANTIZATION_GROUP_SIZE": size},
        )
        outputs.append(np.array(compiled([inputs])[0]))
    return not np.array_equal(outputs[0], outputs[1])
