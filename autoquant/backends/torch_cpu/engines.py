"""The engines of this torch build, and what each does on this CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.torch_ao.conversion import quiet_torch
from autoquant.model.torch_ao.eager_modules import transposed_convolution_error

TRANSPOSED = {
    OpKind.CONV_TRANSPOSE1D: 1,
    OpKind.CONV_TRANSPOSE2D: 2,
    OpKind.CONV_TRANSPOSE3D: 3,
}
"""Transposed convolutions, and their dimensions."""

ENGINES = ("x86", "onednn", "fbgemm", "qnnpack")


def engines_here() -> tuple[str, ...]:
    """Engines that this torch build can run on this machine."""
    supported = torch.backends.quantized.supported_engines
    return tuple(engine for engine in ENGINES if engine in supported)


@contextmanager
def using_engine(engine: str) -> Iterator[None]:
    """Make `engine` torch's quantized engine for a while.

    Raises:
        BackendError: This torch build lacks the engine.
    """
    if engine not in engines_here():
        raise BackendError(
            f"backend.engine: {engine!r} does not run here",
            hint=f"choose auto or one of {', '.join(engines_here())}",
        )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@cache
def saturates(engine: str) -> bool:
    """Whether the engine's int8 kernel overflows its 16-bit intermediate sums on this CPU.

    Without VNNI, x86 kernels add pairs of u8 x s8 products in 16 bits, which saturate beyond
    32,767 (two products reach 64,770). Found out by running the kernel on the largest values,
    not from CPU flags.
    """
    depth = 64
    with using_engine(engine), quiet_torch():
        inputs = torch.quantize_per_tensor(torch.full((1, depth), 255.0), 1.0, 0, torch.quint8)
        weight = torch.quantize_per_tensor(torch.full((8, depth), 127.0), 1.0, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        exact = 255.0 * 127.0 * depth
        output = torch.ops.quantized.linear(inputs, packed, exact / 200.0, 0)
    return bool((output.int_repr().float() - 200.0).abs().max() > 1.0)


@cache
def transposes_rightly(engine: str, kind: OpKind) -> bool:
    """Whether the engine's int8 transposed convolution gives what its float one does.

    Where the number of channels changes, onednn's (and so x86's) gives other values in torch
    2.13, and qnnpack's for volumes too. Found out by running the kernel.
    """
    with using_engine(engine):
        return transposed_convolution_error(TRANSPOSED[kind]) < 1.0


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
