"""What an exported program writes in place, where the writes can be told apart from its views."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.model.graph.aten import op_name
from autoquant.model.graph.cells import CELLS
from autoquant.model.graph.composites import without_write


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
        None where the program has to be traced again to be free of writes: another view of a
        tensor that an op writes is read later, an op has no form without the write, or holds a
        graph of its own, or is a cell, which is written out.
    """
    signature = program.graph_signature
    given = {item.arg.name for item in signature.input_specs if item.kind is InputKind.USER_INPUT}
    nodes = list(program.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    sharing: dict[int, list[Node]] = defaultdict(list)
    renewed: dict[Node, tuple[Node, ...]] = {}
    writes_inputs = False
    for node in nodes:
        if isinstance(node.target, HigherOrderOperator) or node.target in CELLS:
            return None
        if op_name(node) == "batch_norm" and node.args[5]:
            return None  # in training it writes its statistics, of which its schema says nothing
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            if not _has_pure_form(node):
                return None
            same = sharing[_storage(node.args[0].meta["val"])]
            read = [item for item in same if any(place[user] > place[node] for user in item.users)]
            if not all(_is_same(item, node) for item in read):
                return None
            renewed[node] = tuple(same)
            writes_inputs |= any(item.op == "placeholder" and item.name in given for item in same)
        for item in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(item, Tensor):
                sharing[_storage(item)].append(node)
    return Writes(renewed, writes_inputs)


def _has_pure_form(node: Node) -> bool:
    """Whether an op writes its first argument alone, and one without the write gives the same."""
    target, value = node.target, node.meta.get("val")
    if not isinstance(target, OpOverload) or not isinstance(value, Tensor):
        return False
    pure = without_write(target)
    written = [item.is_write for item in target._schema.arguments]
    if pure is target or not written[0] or any(written[1:]) or not isinstance(node.args[0], Node):
        return False
    if torch.Tag.nondeterministic_seeded in target.tags:
        return False
    args, kwargs = map_arg((node.args, node.kwargs), lambda item: item.meta["val"])
    with torch.no_grad(), value.fake_mode:  # type: ignore[attr-defined]
        given = pure(*args, **kwargs)
    return isinstance(given, Tensor) and given.dtype == value.dtype


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_same(node: Node, written: Node) -> bool:
    """Whether a node that shares a storage is all of what is written, in the same order."""
    return _place(node.meta.get("val")) == _place(written.meta["val"])


def _place(value: object) -> str:
    """Where in its storage a tensor lies; in words, since sizes that are open compare as guards."""
    if not isinstance(value, Tensor):
        return "several"
    return f"{value.dtype} {value.shape} {value.stride()} {value.storage_offset()}"
