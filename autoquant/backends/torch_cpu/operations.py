"""What a kernel computes: a site's nodes and the activation that runs within it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

from torch.fx import Node

from autoquant.backends.torch_cpu.emission import Emitter
from autoquant.backends.torch_cpu.forms import Form
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site
from autoquant.model.graph.aten import op_name


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """Nodes that run as one: a root, and what follows in it.

    Attributes:
        site: That they belong to.
        nodes: Root first; the last one is what is written.
        fused: Sites whose ops run within it.
    """

    site: Site
    nodes: tuple[Node, ...]
    fused: tuple[str, ...] = ()

    @property
    def root(self) -> Node:
        """The op proper."""
        return self.nodes[0]

    @property
    def last(self) -> Node:
        """What it writes."""
        return self.nodes[-1]

    @property
    def name(self) -> str:
        """Of the root's op."""
        return op_name(self.root)

    @property
    def has_relu(self) -> bool:
        """Whether a relu follows the root."""
        return any(op_name(node) == "relu" for node in self.nodes[1:])

    @property
    def addend(self) -> Node | None:
        """What is added to the root's result, where a sum follows it."""
        for before, node in pairwise(self.nodes):
            if op_name(node) == "add":
                left, right = node.args[:2]
                return cast("Node", right if left is before else left)
        return None

    def argument(self, name: str) -> Any:
        """Argument of the root by its name in the op's schema, or its default."""
        return argument(self.root, name)

    def followed_by(self, nodes: tuple[Node, ...], site: str) -> Operation:
        """The same with the nodes of another site behind it."""
        return replace(self, nodes=(*self.nodes, *nodes), fused=(*self.fused, site))


def argument(node: Node, name: str) -> Any:
    """Argument of a call by its name in the op's schema; its default where it is not given."""
    schema = node.target._schema  # type: ignore[union-attr]
    for place, item in enumerate(schema.arguments):
        if item.name != name:
            continue
        if name in node.kwargs:
            return node.kwargs[name]
        if place < len(node.args) and not item.kwarg_only:
            return node.args[place]
        return item.default_value if item.has_default_value() else None
    raise KeyError(name)


Emit = Callable[[Emitter, Operation, Form], None]


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """How an operation runs.

    Attributes:
        reads: Form in which it takes its float tensors.
        writes: Forms that it can give, the one that it prefers first.
        emit: Writes it, in a form of `writes`.
        runs: The scheme that it really computes in.
        support: Whether a real kernel does.
    """

    reads: Form
    writes: tuple[Form, ...]
    emit: Emit
    runs: Scheme
    support: Support = Support.NATIVE
