"""Tensors that torch's converter observes together."""

from __future__ import annotations

from torch import Tensor

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind
from autoquant.model.captured import Capture
from autoquant.model.torch_ao.conversion import prepare
from autoquant.model.torch_ao.observers import observers_of
from autoquant.model.torch_ao.qconfig import QuantizationSettings, build_qconfig_mapping

_NO_STATIC_INT8 = frozenset({OpKind.EMBEDDING, OpKind.EMBEDDING_BAG, OpKind.LSTM, OpKind.GRU})


def tensors_observed_together(
    captured: Capture, example: tuple[Tensor, ...]
) -> list[tuple[str, ...]]:
    """Names of the tensors that share an observer when every site is int8, in execution order."""
    sites = {site.name: site for site in captured.sites}
    plan = Plan.of(
        {
            name: Scheme.FP32 if site.kind in _NO_STATIC_INT8 else Scheme.INT8
            for name, site in sites.items()
        }
    )
    mapping = build_qconfig_mapping(captured.addresses, sites, plan, QuantizationSettings())
    prepared = prepare(captured.traced, mapping, example)
    observed = [tuple(node.name for node in nodes) for nodes in observers_of(prepared).values()]
    return [tuple(dict.fromkeys(names)) for names in observed if len(set(names)) > 1]
