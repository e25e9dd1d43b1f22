"""How often one forward pass calls each module, and which weights are read without a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from autoquant.core.concerns import Concern, Topic, attention, note
from autoquant.core.structure import ModuleCalls, Verdict


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


def count_calls(model: nn.Module, inputs: Sequence[Tensor]) -> CallCounts:
    """Run one batch and count the calls of every module, those inside others included.

    Args:
        model: In eval mode; it is run, not changed.
        inputs: One (small) batch.
    """
    counted: Counter[int] = Counter()
    reads = _Reads()

    def count(module: nn.Module, _: Any) -> None:
        counted[id(module)] += 1

    handle = register_module_forward_pre_hook(count)
    try:
        with torch.no_grad(), reads:
            model(*inputs)
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


def describe_once(model: nn.Module, counts: CallCounts) -> Iterator[ModuleCalls]:
    """Describe the modules without children that are called at most once, in the model's order."""
    for path, module in model.named_modules():
        count = counts.calls.get(path, 0)
        if not path or count > 1 or any(True for _ in module.children()):
            continue
        verdict = Verdict.ONCE
        if not count:
            verdict = Verdict.BY_WEIGHT if path in counts.by_weight else Verdict.NEVER
        yield ModuleCalls(path, type(module).__name__, count, verdict)


def find_uncalled(model: nn.Module, counts: CallCounts) -> Iterator[Concern]:
    """Find modules that no forward pass calls."""
    unused = tuple(_highest(path for path in counts.calls if _is_unused(model, path, counts)))
    owning = [path for path in unused if any(True for _ in model.get_submodule(path).parameters())]
    if owning:
        elements = sum(
            item.numel() for path in owning for item in model.get_submodule(path).parameters()
        )
        yield attention(
            Topic.CALLS,
            owning,
            f"never called in a forward pass, with {elements:,} parameters",
            "what is configured for them has no effect, and the model's size counts their weights",
            f"delete them for inference (del model.{owning[0]}), or call them if forgotten",
        )
    if counts.by_weight:
        yield note(
            Topic.CALLS,
            sorted(counts.by_weight),
            "never called, but a function reads their weights",
            "a QConfig for the module does not reach the function that computes",
            "call the module itself, or configure the function that reads the weight",
        )


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
