"""Torch's QConfigs, as plain facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
from torch.fx import GraphModule

from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.torch_ao.calls import list_calls
from autoquant.torch_ao.tracing import FxModel, quiet_torch


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


def unmatched_entries(mapping: QConfigMapping, traced: FxModel) -> Iterator[str]:
    """Entries of a mapping that name a module or a call and reach nothing, in words.

    A fused model has no batch norm or relu left to reach. Object types are not looked at: a
    mapping for many models lists types that one model lacks.
    """
    calls = list(list_calls(traced))
    reached = {path for call in calls for path in (call.scope, call.module) if path is not None}
    for path in mapping.module_name_qconfigs:
        if not any(item == path or item.startswith(f"{path}.") for item in reached):
            yield f"module name {path!r}"
    for pattern in mapping.module_name_regex_qconfigs:
        if not any(re.match(pattern, item) for item in reached):
            yield f"module names like {pattern!r}"
    orders = {(call.scope, call.target, call.index) for call in calls}
    for entry in mapping.module_name_object_type_order_qconfigs:
        if entry not in orders:
            path, target, index = entry
            name = getattr(target, "__name__", str(target))
            yield f"call {index} of {name} in module {path!r}"
