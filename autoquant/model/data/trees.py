"""Nested inputs and outputs as torch's pytree sees them: paths, structure, classes to know."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Path = tuple[Any, ...]


def flatten_with_paths(tree: Any) -> tuple[list[tuple[Path, Any]], pytree.TreeSpec]:
    """The leaves of a tree, each with the keys that lead to it, and the tree's structure.

    Libraries register classes without a function that names their parts (diffusers' outputs):
    their keys are those that the structure keeps, or else places.
    """
    try:
        return pytree.tree_flatten_with_path(tree)
    except ValueError:
        leaves, structure = pytree.tree_flatten(tree)
        return list(zip(_paths(structure, ()), leaves, strict=True)), structure


def _paths(structure: pytree.TreeSpec, before: Path) -> Iterator[Path]:
    if structure.is_leaf():
        yield before
        return
    kept = structure.context
    names = getattr(kept, "_fields", kept if isinstance(kept, list | tuple) else ())
    is_named = len(names) == structure.num_children and all(isinstance(name, str) for name in names)
    for place, child in enumerate(structure.children()):
        key: pytree.KeyEntry = (
            pytree.MappingKey(names[place]) if is_named else pytree.SequenceKey(place)
        )
        yield from _paths(child, (*before, key))


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors among the leaves of a tree."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def copied(tree: Any) -> Any:
    """The same with tensors of its own, so that what is written into them does no harm."""
    register_dataclasses(tree)
    return pytree.tree_map_only(Tensor, lambda item: item.detach().clone(), tree)


def is_same(first: Any, second: Any) -> bool:
    """Whether two trees hold the same: tensors of the same values, NaN included."""
    ones, others = pytree.tree_leaves(first), pytree.tree_leaves(second)
    return len(ones) == len(others) and all(map(_is_same_leaf, ones, others))


def _is_same_leaf(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return one is other or (
        type(one) is type(other) and (not isinstance(one, (bool, int, float, str)) or one == other)
    )


def register_dataclasses(tree: Any) -> None:
    """Tell torch's pytree about the dataclasses in a tree, so that it looks into them."""
    while True:
        kinds: set[type] = {type(leaf) for leaf in pytree.tree_leaves(tree)}
        found = {kind for kind in kinds if dataclasses.is_dataclass(kind)}
        if not found:
            return
        for kind in found:
            register_class(kind)


def register_class(kind: type) -> None:
    """Tell torch's pytree about one dataclass."""
    if kind not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(
            kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}"
        )


def register_by_name(name: str) -> None:
    """Register a dataclass that was imported already."""
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    if isinstance(found, type) and dataclasses.is_dataclass(found):
        register_class(found)


class _Leaf(pytree.TreeSpec):
    """A leaf that can be copied and pickled in silence; torch's own class warns."""

    def __init__(self) -> None:
        super().__init__(None, None, [])

    def __repr__(self, indent: int = 0) -> str:
        return "*"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Leaf, ())


def plain_structure(structure: pytree.TreeSpec) -> pytree.TreeSpec:
    """The same with leaves of our own class."""
    if structure.is_leaf():
        return _Leaf()
    children = [plain_structure(child) for child in structure.children()]
    return pytree.TreeSpec(structure.type, structure.context, children)


def key_name(key: Any) -> str:
    """A step of a pytree's path in words: an index, a key or a field."""
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
