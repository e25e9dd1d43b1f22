"""What layers and norms ask of channels: their parameters take scales up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.fx import Node

from autoquant.model.equalisation.parameters import Term, along
from autoquant.model.equalisation.ties import ONE, Channels
from autoquant.model.equalisation.walk import Call, Rule, Walk
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.folding import UNFOLDED, Unfolded


def convolution(walk: Walk, call: Call) -> Any:
    """A convolution of any kind."""
    name = op_name(call.node)
    groups = int(call.given(6, "groups", 1))
    form = _Transposed(groups) if "transpose" in name else _Direct(groups)
    return _layer(walk, call, -1 - int(name[-2]), form)


def linear(walk: Walk, call: Call) -> Any:
    """A linear layer."""
    return _layer(walk, call, -1, _Direct(1))


def embedding(walk: Walk, call: Call) -> Any:
    """Written by the columns of its table."""
    table = walk.parameters.stored(call.read(0))
    if table is None:
        return None
    written = walk.ties.new(call.value.shape[-1])
    walk.parameters.ask(call.node, call.read(0), table, Term(along(1, 2, written), -1))
    return along(-1, call.rank, written)


def batch_norm(walk: Walk, call: Call) -> Any:
    """Read by its running statistics, written by its gain and shift."""
    known = walk.parameters
    constants = [call.read(place) for place in range(1, 5)]
    stored = [item for item in map(known.stored, constants) if item is not None]
    if len(stored) < len(constants):
        return None
    read, written = walk.line(call.read(0), 1), walk.ties.new(call.value.shape[1])
    asked = (
        (Term(read, 1, stored[3].name, float(call.args[7])), Term(written, -1)),
        (Term(written, -1),),
        (Term(read, -1),),
        (Term(read, -2),),
    )
    for constant, item, terms in zip(constants, stored, asked, strict=True):
        known.ask(call.node, constant, item, *terms)
    return along(1, call.rank, written)


def normed(weight: int, bias: int | None, axis: int) -> Rule:
    """A norm that mixes what it reads: it keeps its input, and writes by its gain and shift.

    Args:
        weight: Place of the gain among its arguments.
        bias: Place of the shift; None: it has none.
        axis: Of the channels.
    """

    def rule(walk: Walk, call: Call) -> Any:
        walk.fix(call.read(0))
        places = (weight,) if bias is None else (weight, bias)
        constants = [item for item in map(call.read, places) if item is not None]
        stored = [item for item in map(walk.parameters.stored, constants) if item is not None]
        if call.read(weight) is None or len(stored) < len(constants):
            return None
        if len(stored[0].shape) != 1:
            return None
        written = walk.ties.new(call.value.shape[axis])
        for constant, item in zip(constants, stored, strict=True):
            walk.parameters.ask(call.node, constant, item, Term(written, -1))
        return along(axis, call.rank, written)

    return rule


@dataclass(frozen=True, slots=True)
class _Direct:
    """Weights of shape (outputs, inputs / groups, ...)."""

    groups: int

    def inputs(self, channels: Channels, rank: int, outputs: int) -> Channels:
        """Channels that a weight reads, of its rank."""
        if self.groups == 1:
            return along(1, rank, channels)
        by_group = channels.reshape(self.groups, 1, -1)
        rows = np.repeat(by_group, outputs // self.groups, 1).reshape(outputs, -1)
        return rows.reshape(*rows.shape, *[1] * (rank - 2))

    def outputs(self, channels: Channels, rank: int, inputs: int) -> Channels:  # noqa: ARG002
        """Channels that a weight writes, of its rank."""
        return along(0, rank, channels)


@dataclass(frozen=True, slots=True)
class _Transposed:
    """Weights of shape (inputs, outputs / groups, ...)."""

    groups: int

    def inputs(self, channels: Channels, rank: int, outputs: int) -> Channels:  # noqa: ARG002
        """Channels that a weight reads, of its rank."""
        return along(0, rank, channels)

    def outputs(self, channels: Channels, rank: int, inputs: int) -> Channels:
        """Channels that a weight writes, of its rank."""
        return _Direct(self.groups).inputs(channels, rank, inputs)


def _layer(walk: Walk, call: Call, axis: int, form: _Direct | _Transposed) -> Any:
    """A layer reads channels by its weight, and writes new ones by weight and bias."""
    weight, known = call.read(1), walk.parameters
    unfolded: Unfolded | None = call.node.meta.get(UNFOLDED)
    stored = known.at(unfolded.weight) if unfolded else known.stored(weight)
    if stored is None or not isinstance(weight, Node):
        return None
    count, rank = call.value.shape[axis], len(walk.shape(weight))
    read = walk.line(call.read(0), axis)
    reading = Term(form.inputs(read, rank, count), 1)
    walk.weights.append((str(weight.target), reading.channels))
    if unfolded:
        written = _write_folded(walk, call, unfolded, count)
        known.ask(call.node, None, stored, reading)
    else:
        written = _write_bias(walk, call, count)
        known.ask(
            call.node, weight, stored, reading, Term(form.outputs(written, rank, len(read)), -1)
        )
    return along(axis, call.rank, written)


def _write_bias(walk: Walk, call: Call, count: int) -> Channels:
    """Channels that a layer writes with its bias."""
    bias = call.node.args[2] if len(call.node.args) > 2 else call.node.kwargs.get("bias")
    if bias is None:
        return walk.ties.new(count)
    stored = walk.parameters.stored(bias)
    if stored is None:
        return np.full(count, ONE)
    written = walk.ties.new(count)
    walk.parameters.ask(call.node, bias, stored, Term(written, -1))  # type: ignore[arg-type]
    return written


def _write_folded(walk: Walk, call: Call, unfolded: Unfolded, count: int) -> Channels:
    """Channels that a layer writes by the batch norm that was folded into it."""
    known = walk.parameters
    for constant in (call.read(1), call.read(2)):
        if isinstance(constant, Node):
            known.keep(constant, (unfolded.weight, unfolded.gamma, unfolded.beta))
            known.know(call.node, constant)
    gain, shift = known.at(unfolded.gamma), known.at(unfolded.beta)
    can_write = gain is not None and shift is not None
    written = walk.ties.new(count) if can_write else np.full(count, ONE)
    for item in (gain, shift):
        if item is not None:
            known.ask(call.node, None, item, Term(written, -1))
    return written
