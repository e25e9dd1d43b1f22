"""Recurrent layers as the engine's own sequences, of any number of steps.

The front end writes out as many steps as the example has. So each layer is taken out of the graph
before it is translated, and put back by an extension of the front end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend.pytorch import ConversionExtension
from torch.fx import GraphModule, Node

from autoquant.backends.openvino.named import Named

_ATEN = torch.ops.aten
_GATES: dict[Any, tuple[int, ...]] = {
    _ATEN.lstm.input: (1, 0, 2, 3),
    _ATEN.gru.input: (1, 0, 2),
    _ATEN.rnn_tanh.input: (0,),
    _ATEN.rnn_relu.input: (0,),
}
"""By op, torch's gates in the engine's order: forget, input, cell, output; update, reset, new."""

RECURRENT = tuple(_GATES)


def take_out(graph: GraphModule) -> list[ConversionExtension]:
    """Let the front end build the recurrent layers of a graph by extensions, in place.

    Each result of a layer becomes a node of its own, since the front end knows of no op with
    several.
    """
    found: list[ConversionExtension] = []
    for node in [item for item in graph.graph.nodes if item.target in _GATES]:
        build = _Layer.of(node).builder()
        for user in tuple(node.users):
            with graph.graph.inserting_before(node):
                own = graph.graph.call_function(Named(f"autoquant.{user.name}"), _tensors(node))
            own.meta = dict(user.meta)
            user.replace_all_uses_with(own)
            graph.graph.erase_node(user)
            make = partial(build, result=int(user.args[1]), name=own.name)
            found.append(ConversionExtension(str(own.target), make))
        graph.graph.erase_node(node)
    return found


def _tensors(node: Node) -> tuple[Any, ...]:
    """All that a layer reads, in a row: its input, its states, its weights."""
    source, states, weights, *_ = node.args
    assert isinstance(weights, (list, tuple))
    return (source, *(states if isinstance(states, (list, tuple)) else (states,)), *weights)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A call of a recurrent layer of torch: several of one or two directions above each other."""

    name: str
    target: Any
    states: int
    weights: int
    weights_each: int
    depth: int
    directions: int
    batch_first: bool

    @classmethod
    def of(cls, node: Node) -> _Layer:
        """Read the arguments of a call."""
        _, states, weights, biased, depth, _, _, bidirectional, batch_first = node.args
        assert isinstance(weights, (list, tuple))
        assert isinstance(depth, int)
        return cls(
            node.name,
            node.target,
            len(states) if isinstance(states, (list, tuple)) else 1,
            len(weights),
            4 if biased else 2,
            depth,
            2 if bidirectional else 1,
            bool(batch_first),
        )

    def builder(self) -> Callable[..., list[ov.Output]]:
        """What makes its results for the front end, all of them when it asks for the first.

        Ops are named as the front end does: the node before the first slash.
        """
        made: list[ov.Output] = []

        def build(context: Any, result: int, name: str) -> list[ov.Output]:
            if not made:
                given = [context.get_input(place) for place in range(context.get_input_size())]
                made.extend(self._results(given))
                known = {item.get_node().get_friendly_name() for item in given}
                for place, op in enumerate(_ops_between(made, known)):
                    op.set_friendly_name(f"{self.name}/{op.get_type_name()}_{place}")
            made[result].get_node().set_friendly_name(f"{name}/{result}")
            return [made[result]]

        return build

    def _results(self, given: list[ov.Output]) -> list[ov.Output]:
        """The steps of the last layer, and the last states of all, in torch's axes."""
        source, states = given[0], given[1 : 1 + self.states]
        weights = given[1 + self.states :]
        steps = source if self.batch_first else _permuted(source, 1, 0, 2)
        lengths = _lengths(steps)
        last: list[list[ov.Output]] = [[] for _ in range(self.states)]
        for depth in range(self.depth):
            sides = []
            for side in range(self.directions):
                index = depth * self.directions + side
                held = [_picked(item, index) for item in states]
                mine = weights[index * self.weights_each : (index + 1) * self.weights_each]
                sequence = self._sequence(steps, held, lengths, mine, reverse=side == 1)
                sides.append(ops.squeeze(sequence.output(0), np.array([1], np.int64)).output(0))
                for place, output in enumerate(sequence.outputs()[1:]):
                    last[place].append(_permuted(output, 1, 0, 2))
            steps = sides[0] if len(sides) == 1 else ops.concat(sides, -1).output(0)
        joined = [item[0] if len(item) == 1 else ops.concat(item, 0).output(0) for item in last]
        return [steps if self.batch_first else _permuted(steps, 1, 0, 2), *joined]

    def _sequence(
        self,
        steps: ov.Output,
        held: list[ov.Output],
        lengths: ov.Output,
        weights: list[ov.Output],
        *,
        reverse: bool,
    ) -> ov.Node:
        """All steps of one direction of one layer.

        Of a GRU the product of the state is reset behind its bias, as in torch, which is why the
        bias of the new value comes in two.
        """
        direction = "reverse" if reverse else "forward"
        size = int(weights[1].get_shape()[1])
        order = _GATES[self.target]
        read, keep = (_one_direction(_ordered(item, order)) for item in weights[:2])
        zeros = ops.constant(np.zeros(size * len(order), np.float32)).output(0)
        first, second = (_ordered(item, order) for item in (weights[2:] or [zeros, zeros]))
        if self.target is _ATEN.gru.input:
            split = [size * 2, size]
            gates, new = ops.variadic_split(first, 0, split).outputs()
            more, kept = ops.variadic_split(second, 0, split).outputs()
            bias = ops.concat([ops.add(gates, more), new, kept], 0).output(0)
            return ops.gru_sequence(
                steps,
                held[0],
                lengths,
                read,
                keep,
                _one_direction(bias),
                size,
                direction,
                linear_before_reset=True,
            )
        both = _one_direction(ops.add(first, second).output(0))
        if self.target is _ATEN.lstm.input:
            return ops.lstm_sequence(steps, *held, lengths, read, keep, both, size, direction)
        activation = "relu" if self.target is _ATEN.rnn_relu.input else "tanh"
        return ops.rnn_sequence(
            steps, held[0], lengths, read, keep, both, size, direction, [activation]
        )


def _ops_between(ends: list[ov.Output], known: set[str]) -> list[ov.Node]:
    """The ops that lead from known ones to some ends, the last ones first."""
    found: list[ov.Node] = []
    waiting, seen = [item.get_node() for item in ends], set(known)
    while waiting:
        op = waiting.pop()
        if op.get_friendly_name() not in seen:
            seen.add(op.get_friendly_name())
            found.append(op)
            waiting += [value.get_node() for value in op.input_values()]
    return found


def _lengths(steps: ov.Output) -> ov.Output:
    """For each sample, how many steps there are: all, in the form that the engine sees it by."""
    sizes = ops.shape_of(steps, "i64")
    samples, count = (ops.gather(sizes, np.array([axis], np.int64), np.int64(0)) for axis in (0, 1))
    return ops.broadcast(count, samples).output(0)


def _permuted(output: ov.Output, *axes: int) -> ov.Output:
    return ops.transpose(output, np.array(axes, np.int64)).output(0)


def _picked(states: ov.Output, index: int) -> ov.Output:
    """The state of one direction of one layer, of shape (batch, 1, size)."""
    one = ops.gather(states, np.array([index], np.int64), np.int64(0))
    return _permuted(one.output(0), 1, 0, 2)


def _one_direction(weight: ov.Output) -> ov.Output:
    return ops.unsqueeze(weight, np.array([0], np.int64)).output(0)


def _ordered(weight: ov.Output, order: tuple[int, ...]) -> ov.Output:
    """A weight with its gates in the engine's order."""
    if len(order) == 1:
        return weight
    gates = ops.split(weight, np.int64(0), len(order)).outputs()
    return ops.concat([gates[place] for place in order], 0).output(0)
