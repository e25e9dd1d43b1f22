"""Which channels of a graph can be scaled together, and what takes their scales up.

A channel may be divided by a scale where something linear writes it (a convolution, a linear
layer, a norm's gain, an embedding) and something linear reads it, whose weights are multiplied
(Nagel et al., arXiv 1906.04721; Xiao et al., arXiv 2211.10438). What lies between hands scales on:
sums and concatenations, pools, activations with f(s x) = s f(x) for positive s, and whatever
only moves values. All channels that must then share one scale are one group, a whole residual
stream for example. Any other op, and the outputs of the model, keep their tensors as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoquant.model.equalisation.parameters import Term
from autoquant.model.equalisation.rules import rule_of
from autoquant.model.equalisation.ties import ONE, Channels
from autoquant.model.equalisation.walk import Walk
from autoquant.model.graph.captured import Capture


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Channels of a graph that share scales, numbered from 1; number 0 has scale one.

    Attributes:
        tensors: By node that gives a float tensor with scalable channels, its channels.
        terms: What takes up the scales, by path of a parameter or buffer.
        weights: By path of a weight in the graph, the channels that it reads, of its rank.
        count: Of numbers, 0 among them.
    """

    tensors: Mapping[str, Channels]
    terms: Sequence[tuple[str, Term]]
    weights: Sequence[tuple[str, Channels]]
    count: int


def find_groups(
    captured: Capture,
    model: nn.Module,
    example: Sequence[Tensor],
    fixed: Collection[str] = (),
) -> Groups:
    """Find the channels that share scales; those of `fixed` nodes stay as they are."""
    walk = Walk(captured, model, fixed, rule_of)
    with torch.no_grad():
        walk.run(*(item.clone() for item in example))
    return _numbered(walk)


def _numbered(walk: Walk) -> Groups:
    """Number what shares scales."""
    terms = list(walk.parameters.settle())
    tensors = {
        node.name: walk.ties.roots(channels)
        for node, channels in walk.channels.items()
        if isinstance(channels, np.ndarray) and node.op == "call_function"
    }
    tensors = {name: channels for name, channels in tensors.items() if channels.any()}
    numbers = np.unique(np.concatenate([[ONE], *(np.ravel(c) for c in tensors.values())]))

    def numbered(channels: Channels) -> Channels:
        roots = walk.ties.roots(channels)
        places = np.minimum(np.searchsorted(numbers, roots), len(numbers) - 1)
        return np.where(numbers[places] == roots, places, ONE)

    return Groups(
        tensors={name: numbered(channels) for name, channels in tensors.items()},
        terms=[
            (name, Term(numbered(t.channels), t.power, t.variance, t.epsilon)) for name, t in terms
        ],
        weights=[(path, found) for path, c in walk.weights if (found := numbered(c)).any()],
        count=len(numbers),
    )
