"""How often one forward pass calls each module, and which weights are read without a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from autoquant.core.findings.concerns import Concern, Topic, attention, note
from autoquant.core.findings.structure import ModuleCalls, Verdict
from autoquant.model.data.trees import is_same
from autoquant.model.graph.float_model import copy_of


@dataclass(frozen=True, slots=True)
class CallCounts:
    """What one forward pass did.

    Attributes:
        calls: By path, how often the module was called; 0 included. An instance that stands at
            several paths counts at the first.
        by_weight: Paths of modules that were never called, and whose parameters were read.
    """

    calls: Mapping[str, int]
    by_weight: frozenset[str]


Call = Callable[[nn.Module], Any]
"""Calls a model, or a copy of it, on one small batch."""


def count_calls(model: nn.Module, call: Call) -> CallCounts:
    """Run one batch and count the calls of every module, those inside others included."""
    counted: Counter[int] = Counter()
    reads = _Reads()

    def count(module: nn.Module, _: Any) -> None:
        counted[id(module)] += 1

    handle = register_module_forward_pre_hook(count)
    try:
        with torch.no_grad(), reads:
            call(model)
    finally:
        handle.remove()
    calls = {path: counted[id(module)] for path, module in model.named_modules() if path}
    by_weight = {
        path
        for path, module in model.named_modules()
        if path
        and not counted[id(module)]
        and any(id(item) in reads.seen for item in module.parameters(recurse=False))
    }
    return CallCounts(calls, frozenset(by_weight))


class _Reads(TorchFunctionMode):
    """Remembers which tensors torch functions were given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = pytree.tree_leaves((args, kwargs or {}))
        self.seen.update(id(item) for item in leaves if isinstance(item, nn.Parameter))
        return func(*args, **(kwargs or {}))


def describe_once(model: nn.Module, counts: CallCounts, unused: Unused) -> Iterator[ModuleCalls]:
    """Describe the modules without children that are called at most once, in the model's order."""
    for path, module in model.named_modules():
        count = counts.calls.get(path, 0)
        if not path or count > 1 or any(True for _ in module.children()):
            continue
        verdict = Verdict.UNREAD if _within(path, unused.unread) else Verdict.ONCE
        if not count:
            verdict = Verdict.BY_WEIGHT if path in counts.by_weight else Verdict.NEVER
            verdict = Verdict.UNSEEN if _within(path, unused.unseen) else verdict
        yield ModuleCalls(path, type(module).__name__, count, verdict)


@dataclass(frozen=True, slots=True)
class Unused:
    """Modules that one forward pass does not need, outermost paths; each tried on a copy.

    Attributes:
        never: Never called: without them the model gives the same.
        unseen: Never seen to be called, and the model does not run or gives something else
            without them: what runs inside a ScriptModule, or is called by its forward.
        unread: Called, and no output depends on their parameters.
    """

    never: tuple[str, ...]
    unseen: tuple[str, ...]
    unread: tuple[str, ...]


def find_unused(
    model: nn.Module, counts: CallCounts, call: Call, read: Collection[str] | None
) -> Unused:
    """Find what a forward pass does not need, and try each on a copy of the model."""
    named = dict(model.named_parameters(remove_duplicate=False))
    found = tuple(_highest(path for path in counts.calls if _is_unused(model, path, counts)))
    owning = [path for path in found if any(True for _ in model.get_submodule(path).parameters())]
    before = _run(call, model)
    never = [path for path in owning if _gives(before, call, _without(model, path))]
    unread: tuple[str, ...] = ()
    if read is not None:
        known = {id(named[name]) for name in read if name in named}
        left = [path for path in counts.calls if _reads_none(model, path, known)]
        called = [path for path in _highest(iter(left)) if path not in owning]
        unread = tuple(path for path in called if _gives(before, call, _spoilt(model, path)))
    return Unused(tuple(never), tuple(path for path in owning if path not in never), unread)


def find_uncalled(model: nn.Module, counts: CallCounts, unused: Unused) -> Iterator[Concern]:
    """Tell of modules that no forward pass needs."""
    if unused.never:
        yield attention(
            Topic.CALLS,
            unused.never,
            f"never called in a forward pass, with {_elements(model, unused.never):,} parameters",
            "what is configured for them has no effect, and the model's size counts their weights",
            f"delete them for inference (del model.{unused.never[0]}): the outputs stay equal",
        )
    if unused.unread:
        yield attention(
            Topic.CALLS,
            unused.unread,
            "called, and no output depends on them; they hold "
            f"{_elements(model, unused.unread):,} parameters",
            "no plan runs them, and the float model spends time on them",
            "leave the call out of forward, if it is not forgotten work",
        )
    if unused.unseen:
        yield note(
            Topic.CALLS,
            unused.unseen,
            "not seen to be called, and the model needs them",
            "a ScriptModule, or a call of its forward, runs them past the hooks that count",
            "nothing; what they compute is in the graph",
        )
    if counts.by_weight:
        yield note(
            Topic.CALLS,
            sorted(counts.by_weight),
            "never called, but a function reads their weights",
            "a QConfig for the module does not reach the function that computes",
            "nothing here; before a QConfigMapping: call the module itself",
        )


def _elements(model: nn.Module, paths: Sequence[str]) -> int:
    return sum(item.numel() for path in paths for item in model.get_submodule(path).parameters())


def _within(path: str, outer: Sequence[str]) -> bool:
    return any(path == item or path.startswith(f"{item}.") for item in outer)


def _gives(before: object, call: Call, changed: nn.Module | None) -> bool:
    """Whether a changed copy runs, and gives what the model gives."""
    if changed is None:
        return False
    try:
        return is_same(before, _run(call, changed))
    except Exception:  # noqa: BLE001  a model without one of its modules may raise anything
        return False


def _run(call: Call, model: nn.Module) -> object:
    with torch.no_grad():
        return call(model)


def _without(model: nn.Module, path: str) -> nn.Module | None:
    """A copy without one of its modules; None where it lies in a ScriptModule."""
    parts = path.split(".")
    outer = [".".join(parts[:end]) for end in range(len(parts) + 1)]
    if any(isinstance(model.get_submodule(item), torch.jit.ScriptModule) for item in outer):
        return None
    changed = copy_of(model)
    owner = changed.get_submodule(outer[-2])
    del owner._modules[parts[-1]]
    return changed


def _spoilt(model: nn.Module, path: str) -> nn.Module:
    """A copy with NaN in the parameters of one of its modules."""
    changed = copy_of(model)
    with torch.no_grad():
        for item in changed.get_submodule(path).parameters():
            if item.is_floating_point():
                item.fill_(torch.nan)
    return changed


def _reads_none(model: nn.Module, path: str, read: Collection[int]) -> bool:
    parameters = list(model.get_submodule(path).parameters())
    return bool(parameters) and not any(id(item) in read for item in parameters)


def outermost(path: str, counts: CallCounts) -> str:
    """The outermost module around a path that is itself called several times."""
    parts = path.split(".")
    outer = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return next(item for item in outer if counts.calls.get(item, 0) > 1)


def _is_unused(model: nn.Module, path: str, counts: CallCounts) -> bool:
    """Whether neither the module nor anything in it is called or read."""
    module = model.get_submodule(path)
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) and len(module) == 0:
        return False
    names = [f"{path}.{inner}" if inner else path for inner, _ in module.named_modules()]
    return not any(counts.calls.get(name, 0) or name in counts.by_weight for name in names)


def _highest(paths: Iterator[str]) -> Iterator[str]:
    """Leave out what lies inside a path that came before."""
    last = ""
    for path in paths:
        if not last or not path.startswith(f"{last}."):
            last = path
            yield path
