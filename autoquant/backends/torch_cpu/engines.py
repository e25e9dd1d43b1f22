"""The engines of this torch build, and what each does on this CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from autoquant.core.plan import Plan
from autoquant.core.quiet import no_warnings
from autoquant.errors import BackendError, first_line

POINTWISE = "pointwise"
"""The operators of `torch.ops.onednn` on plain integers, beside onednn's quantized kernels."""

ENGINES = ("x86", "onednn", "fbgemm", "qnnpack", POINTWISE)


def engines_here() -> tuple[str, ...]:
    """Engines that this torch build can run on this machine."""
    supported = torch.backends.quantized.supported_engines
    return tuple(engine for engine in ENGINES if packing_engine(engine) in supported)


def packing_engine(engine: str) -> str:
    """Torch's own engine whose kernels an engine takes for what it has none of itself."""
    return "onednn" if engine == POINTWISE else engine


@contextmanager
def using_engine(engine: str) -> Iterator[None]:
    """Make `engine` torch's quantized engine for a while."""
    if engine not in engines_here():
        raise BackendError(
            f"backend.engine: {engine!r} does not run here",
            hint=f"choose auto or one of {', '.join(engines_here())}",
        )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = packing_engine(engine)
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def building(
    plan: Plan, name: str, engine: str, refusals: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Use an engine for a plan of a backend, by its name; what torch raises is a refusal."""
    with using_engine(engine), no_warnings():
        try:
            yield
        except refusals as error:
            raise BackendError(
                f"{name} refuses plan {plan.digest}: {first_line(error)}",
                hint="pin the op that it names to fp32 in the search space",
            ) from error


@cache
def saturates(engine: str) -> bool:
    """Whether the engine's int8 kernel overflows its 16-bit intermediate sums on this CPU.

    Without VNNI, x86 kernels add pairs of u8 x s8 products in 16 bits, which saturate beyond
    32,767 (two products reach 64,770). Found out by running the kernel on the largest values,
    not from CPU flags.
    """
    depth = 64
    engine = packing_engine(engine)
    with using_engine(engine), no_warnings():
        inputs = torch.quantize_per_tensor(torch.full((1, depth), 255.0), 1.0, 0, torch.quint8)
        weight = torch.quantize_per_tensor(torch.full((8, depth), 127.0), 1.0, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        exact = 255.0 * 127.0 * depth
        output = torch.ops.quantized.linear(inputs, packed, exact / 200.0, 0)
    return bool((output.int_repr().float() - 200.0).abs().max() > 1.0)


@cache
def has_float_output_linear(engine: str) -> bool:
    """Whether the engine's int8 linear kernel can give its sums in float, unrounded."""
    with using_engine(engine), no_warnings():
        weight = torch.quantize_per_tensor(torch.ones(8, 8), 1.0, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        try:
            torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
                torch.ones(1, 8), 1.0, 0, packed
            )
        except RuntimeError:
            return False
    return True


@cache
def has_fp16_linear(engine: str) -> bool:
    """Whether the engine has a linear kernel with fp16 weights."""
    with using_engine(engine):
        try:
            packed = torch.ops.quantized.linear_prepack_fp16(torch.ones(8, 8), None)
            torch.ops.quantized.linear_dynamic_fp16(torch.ones(1, 8), packed)
        except RuntimeError:
            return False
    return True


@cache
def packs_floats(dtype: torch.dtype) -> bool:
    """Whether this torch build and CPU have kernels on packed weights of a float type."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
