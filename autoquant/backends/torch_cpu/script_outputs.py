"""What a model returns, as an expression of TorchScript."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils import _pytree as pytree

from autoquant.model.data.trees import flatten_with_paths

_CONSTANTS = (bool, int, float, str, type(None))


def output_expression(
    structure: pytree.TreeSpec, leaves: Sequence[tuple[int | None, Any]], names: Sequence[str]
) -> str:
    """Nest the results of a graph as the model does, as far as TorchScript has types for it.

    What has keys or fields (a dict, a dataclass) becomes a dict without its constants. Where its
    values, or those of a list, are of several types, it becomes a tuple.

    >>> tree = pytree.tree_structure({"boxes": 0, "scores": [0, 0], "task": 0})
    >>> leaves = [(0, None), (1, None), (2, None), (None, "text")]
    >>> output_expression(tree, leaves, ["a", "b", "c"])
    "(a, [b, c], 'text',)"
    """
    return _write(structure, iter(leaves), names)[0]


def _write(
    structure: pytree.TreeSpec, leaves: Iterator[tuple[int | None, Any]], names: Sequence[str]
) -> tuple[str, str]:
    """An expression, and its type; the type of a constant is empty."""
    if structure.is_leaf():
        place, constant = next(leaves)
        if place is not None:
            return names[place], "Tensor"
        return (repr(constant) if isinstance(constant, _CONSTANTS) else "None"), ""
    children = [_write(child, leaves, names) for child in structure.children()]
    keys = _keys_of(structure)
    kept = [item for item in zip(keys, children, strict=False) if item[1][1]]
    if kept and _are_alike([child for _, child in kept]):
        items = ", ".join(f"{key!r}: {text}" for key, (text, _) in kept)
        return f"{{{items}}}", f"Dict[str, {kept[0][1][1]}]"
    texts = [text for text, _ in children]
    if structure.type is list and _are_alike(children):
        return f"[{', '.join(texts)}]", f"List[{children[0][1]}]"
    kinds = [kind or "constant" for _, kind in children]
    return f"({' '.join(f'{text},' for text in texts)})", f"Tuple[{', '.join(kinds)}]"


def _are_alike(children: Sequence[tuple[str, str]]) -> bool:
    kinds = {kind for _, kind in children}
    return len(kinds) == 1 and "" not in kinds


def _keys_of(structure: pytree.TreeSpec) -> tuple[str, ...]:
    """Keys or fields of what has them; none for tuples and lists."""
    if structure.type in (tuple, list, namedtuple):
        return ()
    places = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    paths, _ = flatten_with_paths(places)
    found = dict.fromkeys(getattr(path[0], "key", getattr(path[0], "name", 0)) for path, _ in paths)
    names = tuple(key for key in found if isinstance(key, str))
    return names if len(names) == structure.num_children else ()
