"""Plan -> converted model, by torch's own prepare and convert, without calibrating again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import reference as nnqr
from torch.ao.quantization import (
    FixedQParamsObserver,
    ObserverBase,
    QConfig,
    QConfigMapping,
)
from torch.ao.quantization.fx.lower_to_fbgemm import lower_to_fbgemm
from torch.ao.quantization.fx.prepare import prepare as insert_observers
from torch.ao.quantization.observer import UniformQuantizationObserverBase
from torch.ao.quantization.quantize_fx import convert_to_reference_fx
from torch.fx import GraphModule

from autoquant.core.precision import Precision
from autoquant.model.float_graph import FloatGraph
from autoquant.model.numerics import FixedFakeQuantize
from autoquant.model.torch_ao.backend_config import shared_backend_config
from autoquant.model.torch_ao.bfloat16 import cast_to_bfloat16
from autoquant.model.torch_ao.observers import KnownScale, ScaleCache, fill_observers
from autoquant.model.torch_ao.rounding import round_weight

FLOAT_NODE = "float_node"
"""Key of a converted node's meta: the name of the float node that it computes.

Lowering makes new nodes and copies nothing to them but the stack trace, so that is what carries
the name through it.
"""


def prepare(
    traced: FloatGraph, mapping: QConfigMapping, example_inputs: tuple[Tensor, ...]
) -> GraphModule:
    """Insert observers into a copy of a traced, fused graph, as torch's `prepare_fx` would.

    `prepare_fx` traces and fuses first, and gives the same for every plan; here that was done
    once. The copy shares the float weights, which conversion never changes in place.
    """
    shared = (*traced.module.parameters(), *traced.module.buffers())
    with quiet_torch():
        prepared: GraphModule = insert_observers(
            copy.deepcopy(traced.module, {id(tensor): tensor for tensor in shared}),
            mapping,
            False,
            traced.scopes,
            example_inputs=example_inputs,
            backend_config=shared_backend_config(),
        )
    return prepared


@dataclass(frozen=True, slots=True)
class Conversion:
    """What conversion must know beside the prepared graph.

    Attributes:
        emulated: Names of the nodes whose weights are rounded in float.
        bfloat16: Groups of nodes that compute in bf16.
        no_tensors: Names of the nodes of the float graph that give no floating tensor.
    """

    emulated: frozenset[str]
    bfloat16: tuple[tuple[str, ...], ...]
    no_tensors: frozenset[str]


def convert(prepared: GraphModule, cache: ScaleCache, conversion: Conversion) -> GraphModule:
    """Fill a prepared model's observers from the cache and convert it.

    int8 ops become the engine's kernels, exactly as `convert_fx` makes them. What torch has no
    kernel for stays in float with its numerics made explicit: weights rounded once, activations
    through a fake-quantize (int16) or a cast (fp16).

    Args:
        prepared: From `prepare`; consumed.
        cache: Scales by tensor.
        conversion: What is not lowered to the engine.

    Returns:
        The converted model; `node.meta["float_node"]` names the float node of each op.
    """
    with quiet_torch():
        fill_observers(prepared, cache)
    return convert_observed(prepared, conversion)


def convert_observed(prepared: GraphModule, conversion: Conversion) -> GraphModule:
    """Convert a prepared model whose observers have seen what they must, or know their scale.

    Args:
        prepared: From `prepare`, with any observers; consumed.
        conversion: What is not lowered to the engine.

    Returns:
        As `convert`.
    """
    with quiet_torch():
        attributes = prepared.meta["_observed_graph_module_attrs"]
        qconfigs, scopes = attributes.node_name_to_qconfig, attributes.node_name_to_scope
        reference = convert_to_reference_fx(
            prepared, backend_config=shared_backend_config(), _remove_qconfig=False
        )
        for node in reference.graph.nodes:
            node.stack_trace = node.name
            if node.op == "call_module" and node.name in conversion.emulated:
                _round_weights(reference, str(node.target), qconfigs[node.name])
        _freeze_observers(reference)
        cast_to_bfloat16(reference, conversion.bfloat16, conversion.no_tensors)
        lowered: GraphModule = lower_to_fbgemm(reference, qconfigs, scopes)
    for node in lowered.graph.nodes:
        node.meta[FLOAT_NODE] = node.meta.pop("stack_trace", "")
    for module in lowered.modules():
        if hasattr(module, "qconfig"):
            del module.qconfig
    lowered.delete_all_unused_submodules()
    return lowered


def _round_weights(model: GraphModule, path: str, qconfig: QConfig) -> None:
    """Turn a reference module into its float module with weights on the scheme's grid."""
    module = model.get_submodule(path)
    inner = module[0] if isinstance(module, nn.Sequential) else module
    if not isinstance(inner, _REFERENCE_MODULES):
        return
    rounded = _float_twin(inner, qconfig)
    if isinstance(module, nn.Sequential):
        module[0] = rounded
    else:
        model.set_submodule(path, rounded)


_FLOAT_TWINS: Mapping[type[nn.Module], type[nn.Module]] = {
    nnqr.Linear: nn.Linear,
    nnqr.Conv1d: nn.Conv1d,
    nnqr.Conv2d: nn.Conv2d,
    nnqr.Conv3d: nn.Conv3d,
    nnqr.ConvTranspose1d: nn.ConvTranspose1d,
    nnqr.ConvTranspose2d: nn.ConvTranspose2d,
    nnqr.ConvTranspose3d: nn.ConvTranspose3d,
}
_REFERENCE_MODULES = tuple(_FLOAT_TWINS)
_WEIGHT_PRECISIONS = {
    torch.qint8: Precision.INT8,
    torch.int16: Precision.INT16,
    torch.float16: Precision.FP16,
}


def _float_twin(reference: nn.Module, qconfig: QConfig) -> nn.Module:
    """A float module of the same shape that holds the rounded weight."""
    source: Any = reference
    twin: Any = copy.copy(reference)
    twin.__class__ = _FLOAT_TWINS[type(reference)]
    twin._parameters = dict(reference._parameters)
    twin.weight_precision = _WEIGHT_PRECISIONS[source.weight_dtype]
    weight = source.weight.detach()
    twin.weight = nn.Parameter(round_weight(weight, qconfig), requires_grad=False)
    float_module: nn.Module = twin
    return float_module


_WITH_SCALE = (KnownScale, FixedQParamsObserver, UniformQuantizationObserverBase)


def _freeze_observers(model: GraphModule) -> None:
    """Replace the int16 observers that convert leaves in the graph by their fake-quantize."""
    for node in list(model.graph.nodes):
        if node.op != "call_module":
            continue
        observer = model.get_submodule(str(node.target))
        if isinstance(
            observer, (KnownScale, FixedQParamsObserver, UniformQuantizationObserverBase)
        ):
            scale, zero_point = observer.calculate_qparams()
            model.set_submodule(
                str(node.target),
                FixedFakeQuantize(scale, zero_point, observer.quant_min, observer.quant_max),
            )
        elif isinstance(observer, ObserverBase):
            raise ValueError(f"convert left the observer {node.target} in the graph")


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Hide torch's warnings about its own deprecated quantization API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
