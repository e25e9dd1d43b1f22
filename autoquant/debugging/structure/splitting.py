"""Give every call of a shared module a module of its own; the function stays bit for bit."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer

from autoquant.core.calls import checked
from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling, failing
from autoquant.model.data.trees import is_same
from autoquant.model.graph.float_model import check_module, check_source


@checked
def split_shared(
    model: nn.Module,
    example: object,
    paths: Sequence[str] | None = None,
    *,
    leaf_modules: Sequence[str] = (),
) -> nn.Module:
    """Give a copy of a model in which no module is called twice.

    The second call of `block.act` becomes `block.act_2`, the third `block.act_3`, with copies of
    parameters and buffers; the paths of everything else stay. A module whose forward calls
    another several times becomes a `torch.fx.GraphModule` of that forward, its children as they
    were. Outputs are bit-equal: both models run on the example, and what differs is refused.

    Args:
        model: Never changed.
        example: Inputs of one batch.
        paths: Modules to split; None: all that are called several times.
        leaf_modules: Paths that torch.fx cannot trace; nothing in them is split.

    Raises:
        ModelError: A path is no module, a named one is not called several times, the forward
            that calls it cannot be traced, or the split model gives other outputs.
    """
    check_source(check_module(model))
    known = {path for path, _ in model.named_modules(remove_duplicate=False)}
    unknown = [path for path in (*(paths or ()), *leaf_modules) if path not in known]
    if unknown:
        raise ModelError(
            f"split_shared: the model has no module {unknown[0]!r}",
            hint="give paths of model.named_modules()",
        )
    splitter = _Splitter(None if paths is None else set(paths), set(leaf_modules))
    try:
        copied = copy.deepcopy(model)
    except (TypeError, RuntimeError) as error:
        raise ModelError(
            f"split_shared: the model cannot be copied: {error}",
            hint="take out of it what copy.deepcopy cannot copy",
        ) from error
    split = splitter.split_aliases(copied)
    split = splitter.split_calls(split, "")
    left = sorted(set(paths or ()) - splitter.done)
    if left:
        raise ModelError(
            f"split_shared: {left[0]!r} is not called several times by the forward of one module",
            hint="name the block that is called several times, if it lies inside one; "
            "`autoquant check` lists how often each module is called",
        )
    _refuse_unequal(model, split, example)
    return split


def _refuse_unequal(model: nn.Module, split: nn.Module, example: object) -> None:
    """Run both on copies of one batch, and refuse a split model that gives anything else."""
    calling, tensors = Calling.of(example, model, "the example")
    first, again, found = (_run(item, calling, tensors) for item in (model, model, split))
    if not is_same(first, again):
        raise ModelError(
            "split_shared: the model gives other outputs each time it is called, so that nothing "
            "can be compared with them",
            hint="put it in eval mode, and take random numbers and state out of its forward",
        )
    if not is_same(first, found):
        raise ModelError(
            "split_shared: the split model gives other outputs than the model, because a forward "
            "that was rewritten depends on more than its inputs (state, control flow, hooks)",
            hint="split the module by hand: make one for each call in __init__; or leave it "
            "shared, which searches allow",
        )


def _run(model: nn.Module, calling: Calling, tensors: Sequence[Tensor]) -> list[object]:
    """What a copy of the model gives in two calls: a forward may keep state."""
    model = copy.deepcopy(model)
    with torch.no_grad(), failing("split_shared: the model", "the example", tensors):
        return [calling.call(model, [item.clone() for item in tensors]) for _ in range(2)]


class _Splitter:
    """Walks a copy of the model from the root down."""

    def __init__(self, chosen: set[str] | None, leaves: Collection[str]) -> None:
        self._chosen = chosen
        self._leaves = leaves
        self.done: set[str] = set()

    def _is_chosen(self, *paths: str) -> bool:
        chosen = self._chosen is None or any(path in self._chosen for path in paths)
        if chosen:
            self.done.update(paths)
        return chosen

    def split_aliases(self, model: nn.Module) -> nn.Module:
        """Copy an instance that stands at several paths for all but the first."""
        first: dict[int, str] = {}
        for path, module in list(model.named_modules(remove_duplicate=False)):
            if not _exists(model, path) or model.get_submodule(path) is not module:
                continue  # lies inside a copy that was made on the way
            known = first.setdefault(id(module), path)
            if known != path and self._is_chosen(known, path):
                model.set_submodule(path, copy.deepcopy(module))
        return model

    def split_calls(self, module: nn.Module, path: str) -> nn.Module:
        """Split what the module's own forward calls several times, then look into its children."""
        if path in self._leaves:
            return module
        repeated = self._repeated(module, path) if _has_own_forward(module) else None
        if repeated is not None:
            module = repeated
        for name, child in list(module.named_children()):
            setattr(module, name, self.split_calls(child, _join(path, name)))
        return module

    def _repeated(self, module: nn.Module, path: str) -> nn.Module | None:
        """The module with its repeated calls split; None where it has none."""
        tracer = _OwnForward()
        try:
            graph = tracer.trace(module)
        except Exception as error:
            if self._chosen is None or any(_lies_in(item, path) for item in self._chosen):
                raise ModelError(
                    f"split_shared: torch.fx cannot trace the forward of {path or 'the model'!r}: "
                    f"{error}",
                    hint=f"list {path!r} under leaf_modules to leave it as it is",
                ) from error
            return None
        calls: Counter[str] = Counter()
        renamed = False
        for node in graph.nodes:
            node.type = None  # annotations that are text would keep the module from being pickled
            if node.op != "call_module":
                continue
            target = str(node.target)
            calls[target] += 1
            if calls[target] > 1 and self._is_chosen(_join(path, target)):
                node.target = _copy_beside(module, target, calls[target])
                renamed = True
        return _with_everything(GraphModule(module, graph), module) if renamed else None


class _OwnForward(Tracer):
    """Traces one forward and nothing below it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True


def _has_own_forward(module: nn.Module) -> bool:
    """Whether a forward may call one child twice; torch's own layers never do."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    own = not type(module).__module__.startswith("torch.nn.")
    return own and any(True for _ in module.children())


def _copy_beside(module: nn.Module, target: str, number: int) -> str:
    """Register a copy of a submodule next to it, and give its path."""
    name = f"{target}_{number}"
    while _exists(module, name):
        name += "_"
    owner, _, last = name.rpartition(".")
    module.get_submodule(owner).add_module(last, copy.deepcopy(module.get_submodule(target)))
    return name


def _with_everything(graph: GraphModule, module: nn.Module) -> GraphModule:
    """Keep what the forward does not read: other children, parameters, buffers, attributes."""
    for name, child in module.named_children():
        graph.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        graph.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        persistent = name not in module._non_persistent_buffers_set
        graph.register_buffer(name, buffer, persistent=persistent)
    own: dict[str, Any] = {
        name: value for name, value in vars(module).items() if name not in vars(graph)
    }
    vars(graph).update(own)
    graph.train(module.training)
    return graph


def _exists(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _lies_in(path: str, scope: str) -> bool:
    return not scope or path.startswith(f"{scope}.")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
