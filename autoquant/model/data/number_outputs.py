"""What a model's whole numbers are computed from, handed out beside its outputs.

A tiny error either changes nothing about a class number (argmax, top-k, a threshold) or makes it
another: how far two of them are apart says nothing about the ops. The floats from which they are
computed say it. So an output of whole numbers is judged by the nearest floats that it depends on,
found as the model's forward runs; a float output is judged as it is, and metrics see what the model
returns.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from autoquant.model.data.trees import register_class, register_dataclasses, tensors_of
from autoquant.model.graph.other_forward import as_class


@dataclass(frozen=True)
class Sourced:
    """What a model returns, and what it is judged by.

    Attributes:
        outputs: What the model returns.
        floats: By output, True where it is judged as it is; the tensor that its whole numbers are
            computed from, or a tuple of several; or the place of the output where that stands.
    """

    outputs: Any
    floats: Any

    @classmethod
    def of(cls, outputs: Any) -> Sourced:
        """The same outputs; of a plain model each is judged as it is."""
        if isinstance(outputs, cls):
            return outputs
        return cls(outputs, pytree.tree_map(lambda _: True, outputs))

    def by_output(self) -> list[tuple[Any, Any]]:
        """Each output, and what `floats` says of it."""
        leaves, structure = pytree.tree_flatten(self.outputs)
        return list(zip(leaves, structure.flatten_up_to(self.floats), strict=True))

    @property
    def differs(self) -> bool:
        """Whether something is judged by another tensor than itself."""
        return any(floats is not True for _, floats in self.by_output())


register_class(Sourced)


def returned(outputs: Any) -> Any:
    """What the model itself returns."""
    return outputs.outputs if isinstance(outputs, Sourced) else outputs


def judged(outputs: Any) -> Any:
    """What error measures and losses read, in the form of what the model returns.

    None for what stands at another output.
    """
    if not isinstance(outputs, Sourced):
        return outputs
    leaves = [
        leaf if floats is True else None if isinstance(floats, int) else floats
        for leaf, floats in outputs.by_output()
    ]
    return pytree.tree_unflatten(leaves, pytree.tree_structure(outputs.outputs))


class NumberSources(TorchFunctionMode):
    """Within, remembers of every tensor of whole numbers the tensors that it was computed from.

    So it does of floats that whole numbers were cast to. What it remembers lives as long as itself.

    Args:
        known: Tensors that no op of the model makes, its inputs and weights: they have no error.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {id(item) for item in known}
        self._sources: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function, and remember what its numbers came from."""
        found = func(*args, **(kwargs or {}))
        read = tensors_of((args, kwargs))
        floats = [item for item in read if _is_float(item)]
        for item in tensors_of(found) or read[:1]:  # without a result it writes into the first
            if not _is_float(item) or (read and not floats):
                before = self._sources.get(id(item), (item, []))[1]
                others = [source for source in floats or read if source is not item]
                self._sources[id(item)] = item, [*before, *others]
        return found

    def beside(self, outputs: Any) -> Sourced:
        """What a model returned within, with what it is judged by."""
        register_dataclasses(outputs)
        leaves, structure = pytree.tree_flatten(outputs)
        sources = [self._floats(leaf) if isinstance(leaf, Tensor) else [] for leaf in leaves]
        places = {id(leaf): at for at, leaf in enumerate(leaves) if not sources[at]}
        floats: list[Any] = []
        for at, found in enumerate(sources):
            new = [item for item in found if places.setdefault(id(item), at) == at]
            several = tuple(new) if new else places[id(found[0])] if found else True
            floats.append(new[0] if len(new) == 1 else several)
        return Sourced(outputs, pytree.tree_unflatten(floats, structure))

    def _floats(self, output: Tensor) -> list[Tensor]:
        """The nearest floats that whole numbers depend on."""
        found: list[Tensor] = []
        seen, left = {id(output)}, [output]
        while left:
            for source in self._sources.get(id(left.pop()), (output, []))[1]:
                if id(source) in seen or id(source) in self._known:
                    continue
                seen.add(id(source))
                is_number = not _is_float(source) or id(source) in self._sources
                (left if is_number else found).append(source)
        return found


def sourced(call: Callable[[], Any], known: Iterable[Tensor]) -> Sourced:
    """Call a model, and give what it returns beside what it is judged by."""
    with NumberSources(known) as sources:
        outputs = call()
    return outputs if isinstance(outputs, Sourced) else sources.beside(outputs)


def judged_pair(expected: Any, call: Callable[[], Any], known: Iterable[Tensor]) -> tuple[Any, Any]:
    """What a float model gave and what another model gives, so that the two can be compared.

    Of one that runs outside torch's Python nobody sees what its whole numbers are computed from:
    then both are compared as they are.
    """
    if not isinstance(expected, Sourced):
        return expected, call()
    found = sourced(call, known)
    return (expected, found) if found.differs else (expected.outputs, found.outputs)


def with_sources(model: nn.Module) -> nn.Module:
    """A model over the same parts, at the same paths, whose forward returns `Sourced`.

    Hooks on its outputs are called with what they were made for.
    """
    kind = type(model)
    plain = kind.forward

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Sourced:
        known = [*tensors_of((args, kwargs)), *self.parameters(), *self.buffers()]
        return sourced(lambda: hooked(self, args, kwargs), known)

    def hooked(self: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outputs = plain(self, *args, **kwargs)
        for key, hook in vars(self)[_HOOKS].items():
            given = (args, kwargs) if key in self._forward_hooks_with_kwargs else (args,)
            changed = hook(self, *given, outputs)
            outputs = outputs if changed is None else changed
        return outputs

    made = as_class(model, type(kind.__name__, (kind,), {"forward": forward, _PLAIN: kind}))
    made.__dict__.update({_HOOKS: model._forward_hooks, "_forward_hooks": OrderedDict()})
    return made


def without_sources(model: nn.Module) -> nn.Module:
    """The same model with its own outputs alone."""
    kind = getattr(type(model), _PLAIN, None)
    if kind is None:
        return model
    made = as_class(model, kind)
    made.__dict__["_forward_hooks"] = made.__dict__.pop(_HOOKS)
    return made


_PLAIN = "_without_sources"
"""Where the class that `with_sources` made names the model's own."""

_HOOKS = "_hooks_without_sources"
"""Where its models keep the hooks on the model's own outputs."""


def _is_float(item: Tensor) -> bool:
    return item.is_floating_point() or item.is_complex() or item.is_quantized
