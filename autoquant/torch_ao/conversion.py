"""torch's own `prepare_fx` and `convert_fx`, with the scales of a search between them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import QConfigMapping
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx import GraphModule

from autoquant.core.quiet import no_warnings
from autoquant.torch_ao.backend_config import backend_config
from autoquant.torch_ao.readback import mark_float_nodes


def prepare(
    model: nn.Module,
    mapping: QConfigMapping,
    inputs: Sequence[Any],
    leaf_modules: Sequence[str] = (),
) -> GraphModule:
    """Prepare a copy of a model."""
    custom = PrepareCustomConfig().set_non_traceable_module_names(list(leaf_modules))
    with no_warnings():
        prepared: GraphModule = prepare_fx(
            copy.deepcopy(model).eval(),
            mapping,
            tuple(inputs),
            prepare_custom_config=custom,
            backend_config=backend_config(),
        )
    return prepared


def convert(prepared: GraphModule, engine: str) -> GraphModule:
    """Convert a prepared model for an engine; its nodes remember the float nodes they compute."""
    mark_float_nodes(prepared)
    with using_engine(engine), no_warnings():
        converted: GraphModule = convert_fx(prepared, backend_config=backend_config())
    return converted


@contextmanager
def using_engine(engine: str) -> Iterator[None]:
    """Make `engine` torch's quantized engine for a while."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def engines_to_try(name: str) -> tuple[str, ...]:
    """Engines to convert for: the one that a search ran on if it is torch's, then the others.

    Their kernels differ: fbgemm's depthwise convolution saturates on CPUs whose other kernels do
    not, onednn's transposed convolution gives other values where channels change.
    """
    supported = [item for item in torch.backends.quantized.supported_engines if item != "none"]
    order = (name, "x86", "onednn", "fbgemm", "qnnpack")
    return tuple(dict.fromkeys(item for item in order if item in supported))
