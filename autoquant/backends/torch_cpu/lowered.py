"""A lowered plan as a module: frozen TorchScript where it can be, and the graph it is made of."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.jit import ScriptModule
from torch.utils import _pytree as pytree

from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.backends.torch_cpu.lowering import LoweredGraph
from autoquant.backends.torch_cpu.packed_weights import PackedWeight
from autoquant.backends.torch_cpu.script import UnscriptableError, freeze_graph, script_graph
from autoquant.core.quiet import no_warnings
from autoquant.errors import BackendError
from autoquant.model.data.trees import flatten_with_paths


class LoweredModel(nn.Module):
    """Takes the flat tensors of the model's inputs and gives the model's outputs.

    It can be pickled and copied: integer weights are kept as plain tensors and packed anew.

    Args:
        graph: Gives the tuple of the output tensors.
        leaves: Of the outputs: a place in that tuple, or a constant.
        structure: Of the outputs.
        engine: Whose kernels it runs.

    Attributes:
        graph: Runs op by op.
        frozen: The same as frozen TorchScript, which is what a call runs; None where it cannot be.
        eager_because: Why it cannot be frozen; empty where it is.
    """

    def __init__(
        self,
        graph: GraphModule,
        leaves: Sequence[tuple[int | None, Any]],
        structure: pytree.TreeSpec,
        engine: str,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.engine = engine
        self.eager_because = ""
        self._leaves = tuple(leaves)
        self._structure = structure
        self._is_single = structure.is_leaf() and self._leaves[0][0] == 0
        self.frozen: ScriptModule | None = None
        self._run: Callable[..., Any] = graph.forward
        try:
            with no_warnings():
                self.run_script(freeze_graph(graph))
        except UnscriptableError as error:
            self.run_eagerly(str(error))
        self.eval()

    @classmethod
    def of(cls, lowered: LoweredGraph, engine: str) -> LoweredModel:
        """Make the module of a lowered graph."""
        return cls(lowered.module, lowered.leaves, lowered.structure, engine)

    def forward(self, *tensors: Tensor) -> Any:
        """Compute the outputs."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.forward(*tensors)
        if self.engine == "qnnpack":  # the packed weights of others know their kernels
            with using_engine(self.engine):
                return self.nest(self._run(*tensors))
        found = self._run(*tensors)
        return found[0] if self._is_single else self.nest(found)

    def run_eagerly(self, reason: str) -> None:
        """Run op by op from now on."""
        self.frozen, self.eager_because = None, reason
        self._run = self.graph.forward

    def run_script(self, script: ScriptModule | None) -> None:
        """Run TorchScript from now on; None: op by op."""
        self.frozen = script
        self._run = self.graph.forward if script is None else script.forward  # found once: 2 us

    def nest(self, found: Sequence[Any]) -> Any:
        """Give a tuple of output tensors in the structure of the model's outputs."""
        flat = [constant if place is None else found[place] for place, constant in self._leaves]
        return pytree.tree_unflatten(flat, self._structure)

    def nest_names(self, names: Sequence[str]) -> str:
        """Give the names of output tensors nested so, as an expression of TorchScript."""
        return output_expression(self._structure, self._leaves, names)

    def __reduce__(self) -> tuple[Any, ...]:
        packs = {
            name: module
            for name, module in self.graph.named_children()
            if isinstance(module, PackedWeight)
        }
        return (_restore, (self.graph, packs, self._leaves, self._structure, self.engine))


def _restore(
    graph: GraphModule,
    packs: Mapping[str, PackedWeight],
    leaves: Sequence[tuple[int | None, Any]],
    structure: pytree.TreeSpec,
    engine: str,
) -> LoweredModel:
    """Make the module again; torch.fx, loading a graph, keeps of packed weights the reads alone."""
    for name, module in packs.items():
        graph.add_module(name, module)
    return LoweredModel(graph, leaves, structure, engine)


@contextmanager
def tracing_form(model: nn.Module) -> Iterator[None]:
    """Let a model with lowered modules be traced: torch takes no frozen part into a trace."""
    parts = [item for item in model.modules() if isinstance(item, LoweredModel)]
    before = [item.frozen for item in parts]
    try:
        for item in parts:
            item.run_script(script_graph(item.graph))
        yield
    except UnscriptableError as error:
        raise BackendError(
            f"the model cannot be written as TorchScript: {error}",
            hint="use candidate.quantize(model), which pickles",
        ) from error
    finally:
        for item, frozen in zip(parts, before, strict=True):
            item.run_script(frozen)


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
