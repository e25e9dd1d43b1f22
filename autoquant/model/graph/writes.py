"""What an exported program writes in place, where the writes can be told apart from its views."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.model.graph.aten import op_name
from autoquant.model.graph.cells import CELLS
from autoquant.model.graph.composites import without_write

_DROPOUTS = frozenset({"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"})
"""In eval mode they hand on what they read, which torch.export takes for another tensor."""

_NUMBERS = frozenset({"item", "sym_numel", "sym_stride", "sym_storage_offset"})


@dataclass(frozen=True, slots=True, eq=False)
class Writes:
    """Writes in place that only change what later ops read.

    Attributes:
        renewed: By op in place, the earlier nodes that are the tensor that it writes.
        inputs: Whether one of them is an input of the model.
    """

    renewed: Mapping[Node, tuple[Node, ...]]
    inputs: bool


def find_writes(program: ExportedProgram) -> Writes | None:
    """Tell what a program writes, from the storages of its tensors.

    Returns:
        None where the program has to be traced again: another view of a tensor that an op writes
        is read later, an op has no form without the write, or is one that only tracing mends.
    """
    signature = program.graph_signature
    given = {item.arg.name for item in signature.input_specs if item.kind is InputKind.USER_INPUT}
    place = {node: index for index, node in enumerate(program.graph.nodes)}
    storages = _Storages()
    renewed: dict[Node, tuple[Node, ...]] = {}
    for node, index in place.items():
        if _is_traced_again(node):
            return None
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            if not _has_pure_form(node):
                return None
            renewed[node] = storages.sharing(node.args[0])
            for item in renewed[node]:
                is_read = any(place[user] > index for user in item.users)
                if is_read and not _is_same(item, node):
                    return None
        storages.take(node)
    written = (item for nodes in renewed.values() for item in nodes)
    return Writes(renewed, any(item.op == "placeholder" and item.name in given for item in written))


class _Storages:
    """The nodes of a program by the storages of what they give."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._nodes: dict[int, list[Node]] = defaultdict(list)

    def take(self, node: Node) -> None:
        """Note a node."""
        for item in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(item, Tensor):
                handed: Any = node.args[0] if op_name(node) in _DROPOUTS else None
                source = storage_of(item if handed is None else handed.meta["val"])
                found = self._of.setdefault(storage_of(item), self._of.get(source, source))
                self._nodes[found].append(node)

    def sharing(self, node: Any) -> tuple[Node, ...]:
        """The nodes so far that share the storage of what a node gives."""
        return tuple(self._nodes[self._of[storage_of(node.meta["val"])]])


def _is_traced_again(node: Node) -> bool:
    """Whether an op holds a graph, is a cell or in a `vmap`, writes beside its schema or counts.

    Tracing makes a number of what is known, and an expression in sizes of what depends on them.
    """
    if isinstance(node.target, HigherOrderOperator) or node.target in CELLS:
        return True
    value = node.meta.get("val")
    if isinstance(value, Tensor) and not isinstance(value, FakeTensor):  # a row of a batch
        return True
    name = op_name(node)
    return name in _NUMBERS or (name == "batch_norm" and bool(node.args[5]))


def _has_pure_form(node: Node) -> bool:
    """Whether an op writes its first argument alone, and one without the write gives the same."""
    target, value = node.target, node.meta.get("val")
    if not isinstance(target, OpOverload) or not isinstance(value, FakeTensor):
        return False
    pure = without_write(target)
    written = [item.is_write for item in target._schema.arguments]
    if pure is target or not written[0] or any(written[1:]) or not isinstance(node.args[0], Node):
        return False
    if torch.Tag.nondeterministic_seeded in target.tags:
        return False
    args, kwargs = map_arg((node.args, node.kwargs), lambda item: item.meta["val"])
    with torch.no_grad(), value.fake_mode:
        given = pure(*args, **kwargs)
    return isinstance(given, Tensor) and given.dtype == value.dtype


def storage_of(tensor: Tensor) -> int:
    """Which memory a tensor lies in; a number that holds as long as the tensor."""
    return int(tensor.untyped_storage()._cdata)


def _is_same(node: Node, written: Node) -> bool:
    """Whether a node that shares a storage is all of what is written, in the same order."""
    return _place(node.meta.get("val")) == _place(written.meta["val"])


def _place(value: object) -> str:
    """Where in its storage a tensor lies; in words, since sizes that are open compare as guards."""
    if not isinstance(value, Tensor):
        return "several"
    return f"{value.dtype} {value.shape} {value.stride()} {value.storage_offset()}"
