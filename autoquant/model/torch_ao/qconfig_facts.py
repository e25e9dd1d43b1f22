"""Torch's QConfigs and prepared graphs, as plain facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
from torch.fx import GraphModule

from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.core.sites import CallType
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.conversion import quiet_torch
from autoquant.model.torch_ao.qconfig import resolve_function


def qconfigs_by_node(prepared: GraphModule) -> Mapping[str, QConfigFacts | None]:
    """What torch configured for each call of a prepared graph, by the float node's name."""
    attributes = prepared.meta["_observed_graph_module_attrs"]
    with quiet_torch():
        return {
            name: None if qconfig is None else describe(qconfig)
            for name, qconfig in attributes.node_name_to_qconfig.items()
        }


def describe(qconfig: QConfig) -> QConfigFacts:
    """Say what a QConfig's observers are."""
    return QConfigFacts(_observer(qconfig.activation), _observer(qconfig.weight))


def _observer(constructor: Callable[[], Any]) -> ObserverFacts:
    made = constructor()
    observer = made.activation_post_process if isinstance(made, FakeQuantizeBase) else made
    dtype = getattr(observer, "dtype", torch.float32)
    scale, zero_point = getattr(observer, "scale", None), getattr(observer, "zero_point", None)
    is_fixed = type(observer).__name__.startswith("FixedQParams")
    return ObserverFacts(
        name=type(observer).__name__,
        dtype=str(dtype).removeprefix("torch."),
        axis=getattr(observer, "ch_axis", None),
        low=getattr(observer, "quant_min", None),
        high=getattr(observer, "quant_max", None),
        is_dynamic=bool(getattr(observer, "is_dynamic", False)),
        fixed=(float(scale), int(zero_point)) if is_fixed else None,  # type: ignore[arg-type]
    )


def unmatched_entries(mapping: QConfigMapping, captured: Capture) -> Iterator[str]:
    """Entries of a mapping that name a module or a call and reach nothing, in words.

    A fused model has no batch norm or relu left to reach. Object types are not looked at: a
    mapping for many models lists types that one model lacks.
    """
    reached = {address.scope for address in captured.addresses}
    for path in mapping.module_name_qconfigs:
        if not any(item == path or item.startswith(f"{path}.") for item in reached):
            yield f"module name {path!r}"
    for pattern in mapping.module_name_regex_qconfigs:
        if not any(re.match(pattern, item) for item in reached):
            yield f"module names like {pattern!r}"
    calls = {
        (address.scope, resolve_function(address.target), address.index)
        for address in captured.addresses
        if address.call is CallType.FUNCTION
    }
    for path, function, index in mapping.module_name_object_type_order_qconfigs:
        modules = any(item.scope == path and not item.target for item in captured.addresses)
        if (path, function, index) not in calls and not modules:
            name = getattr(function, "__name__", str(function))
            yield f"call {index} of {name} in module {path!r}"
