"""Scales from what calibration sees: every channel to one range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

from autoquant.model.equalisation.groups import Groups
from autoquant.model.equalisation.ties import ONE, Channels
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.same_values import reshaped_sources
from autoquant.model.graph.watched import Watched

Scales = npt.NDArray[np.float64]
"""By number of a channel, what it is divided by; of number 0 it is one."""

_ROUNDS = 4
_BLOCK = 256
"""Rows of a weight that are looked at together."""

_QUIETEST = 256.0
"""How far below the median of its group a channel may lie and still be raised to it: what is
quieter hardly shows in eight bits, and may be much larger on other data."""


Ranges = Mapping[str, Scales]
"""By node, the largest absolute value of each of its channels, in the shape of its channels."""


def channel_ranges(
    captured: Capture, groups: Groups, batches: Iterable[tuple[Tensor, ...]]
) -> Ranges:
    """The largest absolute value of each channel of every tensor that schemes may round."""
    inner, moved = captured.inner_nodes, reshaped_sources(captured.graph)
    ranges: dict[str, Scales] = {
        name: np.zeros(channels.shape)
        for name, channels in groups.tensors.items()
        if name not in inner and name not in moved
    }

    def widen(node: Node, value: Any) -> None:
        known = ranges.get(node.name)
        if known is not None and value.numel():
            axes = [axis for axis, size in enumerate(known.shape) if size == 1]
            largest = torch.maximum(value.amax(axes, keepdim=True), -value.amin(axes, keepdim=True))
            np.maximum(known, _folded(largest.double().numpy(), known.shape), out=known)

    run = Watched(captured.graph, widen)
    with torch.no_grad():
        for inputs in batches:
            run.run(*inputs)
    return ranges


def even_ranges(groups: Groups, ranges: Ranges) -> Scales:
    """Bring the channels of every tensor to one range, as far as their groups allow.

    A channel is divided by its largest value in any tensor of its group, which undoes whatever
    scaled it before; then by its largest share of a tensor's range, over all these tensors, a few
    times, since shares change with the scales. Scales have the geometric mean one. Channels that
    are always zero stay as they are.
    """
    together = _side_by_side(groups)
    largest = np.zeros(groups.count)
    for name, own in ranges.items():
        np.maximum.at(largest, groups.tensors[name], own)
    scales = _evened(largest, together)
    for _ in range(_ROUNDS):
        shares = np.zeros(groups.count)
        for name, own in ranges.items():
            numbers = groups.tensors[name]
            scaled = own / scales[numbers]
            if scaled.max() > 0:
                np.maximum.at(shares, numbers, scaled / scaled.max())
        scales *= _evened(shares, together)
    return scales


def balanced(groups: Groups, scales: Scales, weights: Mapping[str, Tensor], share: float) -> Scales:
    """Give way to the weights: channels that are read by small weights are divided by more.

    Scaled as they are, a channel counts as much as the root mean square, over the rows of all
    weights that read it, of its largest weight over the row's. It is divided by that to the power
    of `-share` more. Where rows and ranges are even already, nothing changes.

    Args:
        groups: Of a graph.
        scales: From `even_ranges`.
        weights: By path, the graph's constants.
        share: From 0, the ranges alone, to 1, the weights alone.
    """
    energy, rows = np.zeros(groups.count), np.zeros(groups.count)
    for path, channels in groups.weights:
        weight = weights[path].detach().abs()
        weight = weight.reshape(*weight.shape[:2], -1).amax(2)
        every = np.broadcast_to(channels.reshape(*channels.shape[:2]), tuple(weight.shape))
        for start in range(0, len(weight), _BLOCK):  # float64 of a whole layer would be large
            numbers = every[start : start + _BLOCK]
            scaled = weight[start : start + _BLOCK].double().numpy() * scales[numbers]
            largest = scaled.max(1, keepdims=True)
            parts = (scaled / np.where(largest > 0, largest, 1.0)) ** 2
            np.add.at(energy, numbers, parts)
            np.add.at(rows, numbers, 1.0)
    means = np.sqrt(energy / np.maximum(rows, 1.0))
    return scales / _evened(means, _side_by_side(groups)) ** share


def _evened(values: Scales, together: Sequence[Channels]) -> Scales:
    """Values over the geometric mean of those that stand together; one where there is none."""
    found = np.ones(len(values))
    for numbers in together:
        own = numbers[values[numbers] > 0]
        if len(own):
            raised = np.maximum(values[own], np.median(values[own]) / _QUIETEST)
            found[own] = raised / np.exp(np.log(raised).mean())
    return found


def _side_by_side(groups: Groups) -> Sequence[Channels]:
    """Numbers of channels that stand in one tensor, directly or by way of others."""
    leaders = np.arange(groups.count)
    changed = True
    lines = [np.unique(item) for item in groups.tensors.values()]
    lines = [line[line != ONE] for line in lines]
    while changed:
        before = leaders.copy()
        for line in lines:
            leaders[line] = leaders[line].min()
        changed = bool((leaders != before).any())
    return [np.flatnonzero(leaders == item) for item in np.unique(leaders) if item != ONE]


def _folded(largest: Scales, shape: Sequence[int]) -> Scales:
    """The same for as many samples as the groups were found with.

    An axis may hold samples times channels (attention's heads): samples are the outer one.
    """
    for axis, size in enumerate(shape):
        if largest.shape[axis] != size:
            places = np.arange(largest.shape[axis]) % size
            found = np.zeros((*largest.shape[:axis], size, *largest.shape[axis + 1 :]))
            np.maximum.at(np.moveaxis(found, axis, 0), places, np.moveaxis(largest, axis, 0))
            largest = found
    return largest
