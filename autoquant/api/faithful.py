"""Refusal of models that torch's own fusion changes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoquant.analysis.structure.faithful import find_unfaithful
from autoquant.analysis.structure.torn import fused_differently
from autoquant.api.preparation import Preparation
from autoquant.errors import ModelError
from autoquant.model.torch_ao.tracing import trace_unfused

_SAMPLES = 2


def refuse_unfaithful(prepared: Preparation) -> None:
    """Refuse a model whose traced, fused graph computes something else than the model does.

    Torch's fusion writes what it fused back to a module's path, so that a module with another
    batch norm behind each of its calls takes the last one everywhere. Every number of a search
    would then be about another function. A model that changes from call to call is left to the
    evaluation, which names it.

    Raises:
        ModelError: The two differ on a few samples.
    """
    model, captured = prepared.subject.flat, prepared.captured
    inputs = prepared.subject.calibration[0].head(_SAMPLES).inputs
    with torch.no_grad():
        first, second = _tensors(model(*inputs)), _tensors(model(*inputs))
    if not all(map(torch.equal, first, second)):
        return
    torn: tuple[str, ...] = ()
    if captured.traced.how == "fx":
        torn = tuple(fused_differently(trace_unfused(model, captured.leaf_modules).module))
    for concern in find_unfaithful(model, captured.graph, inputs, torn):
        raise ModelError(f"{', '.join(concern.where)}: {concern.what}", hint=concern.mend)


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
