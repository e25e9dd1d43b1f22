"""Which parameters and buffers of a model take the scales of channels up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from torch.fx import Node

from autoquant.model.equalisation.ties import Channels, Ties
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.float_model import named_tensors

Key = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""What tells stored tensors apart: storage, offset, shape, strides."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One factor of a parameter: the scales of some channels, to a power.

    Attributes:
        channels: Of the parameter's rank, broadcast to its shape.
        power: 1 where the scaled tensor is read, -1 where it is written.
        variance: For the gain of a batch norm that reads scaled channels, the path of the running
            variance: the factor is then s sqrt(var / s^2 + eps) / sqrt(var + eps), which differs
            from 1 by what eps does.
        epsilon: Of that batch norm.
    """

    channels: Channels
    power: int
    variance: str | None = None
    epsilon: float = 0.0

    @property
    def kind(self) -> tuple[object, ...]:
        """What two uses of a parameter must agree in."""
        return self.channels.shape, self.power, self.variance, self.epsilon


@dataclass(frozen=True, slots=True)
class Stored:
    """A constant of the graph that the model stores.

    Attributes:
        name: Path in the model.
        shape: There.
        is_turned: Whether the graph reads its transpose.
    """

    name: str
    shape: tuple[int, ...]
    is_turned: bool = False


class Parameters:
    """Collects, for each stored tensor, what every op that reads it asks for."""

    def __init__(self, captured: Capture, model: nn.Module, ties: Ties) -> None:
        self._graph = captured.graph.graph
        self._ties = ties
        self._held = named_tensors(model)
        self._leaves = tuple(f"{path}." for path in captured.leaf_modules)
        self._made = _made(captured)
        self._asked: dict[Key, list[tuple[Term, ...]]] = {}
        self._names: dict[Key, str] = {}
        self._known: set[tuple[Node, Node]] = set()

    def stored(self, constant: object) -> Stored | None:
        """The stored tensor behind a node; None for one that is computed, or in a leaf module."""
        if not isinstance(constant, Node) or constant.op != "get_attr":
            return None
        path, is_turned = str(constant.target), False
        made = self._made.get(path)
        if made is not None and op_name(made) == "t":
            made, is_turned = made.all_input_nodes[0], True
            path = str(made.target) if made.op == "get_attr" else ""
        found = self.at(path)
        return None if found is None else replace(found, is_turned=is_turned)

    def at(self, path: str | None) -> Stored | None:
        """The tensor that the model stores at a path."""
        held = self._held.get(path or "")
        if path is None or held is None or path.startswith(self._leaves):
            return None
        return Stored(path, tuple(held.shape))

    def ask(self, reader: Node, constant: Node | None, stored: Stored, *terms: Term) -> None:
        """Let an op's use of a stored tensor take up some scales.

        Args:
            reader: The op.
            constant: What it reads; None: a tensor that was folded into one.
            stored: The stored tensor.
            terms: Their channels as the reader sees the tensor; none: it must stay as it is.
        """
        if stored.is_turned:
            terms = tuple(replace(term, channels=term.channels.T) for term in terms)
        key = self._key(stored.name)
        self._asked.setdefault(key, []).append(terms)
        self._names.setdefault(key, stored.name)
        if constant is not None:
            self.know(reader, constant)

    def know(self, reader: Node, constant: Node) -> None:
        """Note that all is said of what a reader does with a constant."""
        self._known.add((constant, reader))

    def keep(self, constant: Node, but: Collection[str | None]) -> None:
        """Let all stay as it is that a constant is computed from, but for some paths."""
        for path in self.behind(constant):
            if path not in but:
                self._asked.setdefault(self._key(path), []).append(())

    def settle(self) -> Iterator[tuple[str, Term]]:
        """Tie what several uses of a tensor ask for; give all terms by the tensor's path.

        What is read in a way that nothing was said of stays as it is, and so does what two uses
        would scale differently (tied weights).
        """
        for constant in self._graph.find_nodes(op="get_attr"):
            if any((constant, user) not in self._known for user in constant.users):
                self.keep(constant, but=())
        storages = [key[0] for key in self._asked]
        for key, asked in self._asked.items():
            first, overlaps = asked[0], storages.count(key[0]) > 1
            agree = all([t.kind for t in uses] == [t.kind for t in first] for uses in asked)
            if overlaps or not agree:
                for term in (term for uses in asked for term in uses):
                    self._ties.fix(term.channels)
                continue
            for uses in asked[1:]:
                for term, other in zip(first, uses, strict=True):
                    self._ties.tie(term.channels, other.channels)
            for term in first:
                yield self._names[key], term

    def behind(self, constant: Node) -> Iterator[str]:
        """Paths of the stored tensors that a constant is, or is computed from."""
        pending = [self._made.get(str(constant.target), constant)]
        while pending:
            node = pending.pop()
            if node.op == "get_attr" and str(node.target) in self._held:
                yield str(node.target)
            pending.extend(node.all_input_nodes)

    def _key(self, path: str) -> Key:
        held = self._held[path]
        place = held.untyped_storage().data_ptr(), int(held.storage_offset())
        return *place, tuple(held.shape), tuple(held.stride())


def _made(captured: Capture) -> Mapping[str, Node]:
    """By path of a constant that is computed from stored tensors, the node that gives it."""
    if captured.weights is None:
        return {}
    found: Mapping[str, Node] = captured.weights.graph.output_node().args[0]  # type: ignore[assignment]
    return found


def along(axis: int, rank: int, channels: Channels) -> Channels:
    """Channels of one axis, of the rank of a tensor."""
    shape = [1] * rank
    shape[axis] = -1
    return np.ascontiguousarray(channels).reshape(shape)
