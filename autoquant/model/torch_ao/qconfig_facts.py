"""Torch's QConfigs and prepared graphs, as plain facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
from torch.fx import GraphModule

from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.model.capture import Capture


def qconfigs_by_node(prepared: GraphModule) -> Mapping[str, QConfigFacts | None]:
    """What torch configured for each call of a prepared graph, by the float node's name."""
    attributes = prepared.meta["_observed_graph_module_attrs"]
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
    """Entries of a mapping that reach nothing of the traced model, in words."""
    modules = dict(captured.graph.named_modules())
    called = {node.target for node in captured.graph.graph.nodes}
    types = {type(modules[str(item)]) for item in called if str(item) in modules}
    inner = {
        type(part)
        for item in called
        if str(item) in modules
        for part in modules[str(item)].children()
    }
    scopes = {path for path, _ in captured.traced.scopes.values()}
    reached = {str(item) for item in called if isinstance(item, str)} | scopes
    reached |= {path.rpartition(".")[0] for path in reached}
    for path in mapping.module_name_qconfigs:
        if not any(item == path or item.startswith(f"{path}.") for item in reached):
            yield f"module name {path!r}"
    for kind in mapping.object_type_qconfigs:
        if kind not in called and kind not in types and kind not in inner:
            yield f"object type {getattr(kind, '__name__', kind)}"
    known = {(item.scope, item.target, item.index) for item in captured.addresses}
    for path, function, index in mapping.module_name_object_type_order_qconfigs:
        home = getattr(function, "__module__", "")
        name = getattr(function, "__name__", "")
        same = [item for item in known if item[0] == path and item[2] == index]
        if not any(item[1].rpartition(".")[2] == name for item in same):
            yield f"call {index} of {home}.{name} in module {path!r}"
