"""Does the traced, fused model still compute what the model computes?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from autoquant.core.concerns import Concern, Topic, attention

_SAME = 1e-3
"""Relative difference up to which the two count as one; folding batch norms rounds anew."""


def find_unfaithful(
    model: nn.Module, graph: GraphModule, inputs: Sequence[Tensor], torn: Sequence[str]
) -> Iterator[Concern]:
    """Find that the traced model gives other outputs than the model.

    Args:
        model: As the user gave it.
        graph: Traced and fused.
        inputs: One (small) batch.
        torn: Modules to split because torch fuses their calls differently; a known reason.
    """
    with torch.no_grad():
        given, traced = _floats(model(*inputs)), _floats(graph(*inputs))
    off = max(map(_difference, given, traced), default=0.0)
    if len(given) == len(traced) and off <= _SAME:
        return
    yield attention(
        Topic.FUSION,
        torn or ("the whole model",),
        f"the traced, fused model gives other outputs (off by {off:.1%} of the largest value)",
        "every number of a search would be about another function than the model's",
        f"model = aq.split_shared(model, batch, {list(torn)!r})"
        if torn
        else "remove state and control flow that depend on the call, or list the module that has "
        "them under leaf_modules",
    )


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest value; infinite for other shapes."""
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12))


def _floats(outputs: object) -> list[Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [item for item in leaves if isinstance(item, Tensor) and item.is_floating_point()]
