"""What can be searched: a float32 module with values, as the user wrote it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoquant.errors import ModelError
from autoquant.model.data.trees import is_same

_WEIGHTS = ("state_dict", "model_state_dict", "model")
"""Where checkpoints of training keep the weights."""

_FUNCTIONAL = ("FloatFunctional", "FXFloatFunctional")
"""Float modules for all their path: adds and the like of a model that is yet to be prepared."""

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_module(model: object) -> nn.Module:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            hint=way_to_module(model),
        )
    return model


def way_to_module(given: object) -> str:
    """How a module is had of what was given in its place."""
    if isinstance(given, type):
        return f"give an object of it: {given.__name__}(...)"
    if isinstance(given, (str, Path)):
        return "load it: make the module, then module.load_state_dict(torch.load(path))"
    if isinstance(given, Mapping):
        within = (f"[{key!r}]" for key in _WEIGHTS if isinstance(given.get(key), Mapping))
        return (
            "these are weights: make the module, then "
            f"module.load_state_dict(weights{next(within, '')}), and give the module"
        )
    return "give the module itself"


def check_source(model: nn.Module) -> nn.Module:
    """Refuse a model whose Python is gone: one of TorchScript."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the model is of {type(model).__name__}, whose Python code is gone",
            hint="give the module that TorchScript was made from",
        )
    return model


def check_float_model(model: object, leaf_modules: tuple[str, ...] = ()) -> nn.Module:
    """Give the module that plans can be built for: the user's own, taken out of what wraps it.

    Args:
        model: What the user gave.
        leaf_modules: Paths of modules that stay whole, in whatever precision they are.

    Raises:
        ModelError: It is no module, quantized already, without values, of another dtype than
            float32, on another device than the CPU, or holds NaN; names the module or the
            parameter.
    """
    found = check_source(unwrapped(check_module(model)))
    for name, module in found.named_modules():
        if (
            type(module).__module__.startswith(_QUANTIZED)
            and type(module).__name__ not in _FUNCTIONAL
        ):
            kind = f"{type(module).__module__}.{type(module).__name__}"
            raise ModelError(
                f"the model is quantized already: {name or 'it'} is {kind}",
                hint="give the float model that it was made from",
            )
    _check_values(found)
    _check_dtypes(found, leaf_modules)
    return found


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every path that leads to them."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def unwrapped(model: nn.Module) -> nn.Module:
    """The module within DataParallel, DistributedDataParallel and torch.compile."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return unwrapped(compiled) if isinstance(compiled, nn.Module) else model


def in_eval_mode(model: nn.Module) -> nn.Module:
    """Give a model in eval mode: itself where it is, else a copy, so that nothing is changed.

    Raises:
        ModelError: It is in training mode, and holds something that cannot be copied.
    """
    if not any(module.training for module in model.modules()):
        return model
    try:
        return copy_of(model).eval()
    except (TypeError, RuntimeError) as error:
        raise ModelError(
            f"the model is in training mode and cannot be copied: {error}",
            hint="give model.eval(), which is taken as it is",
        ) from error


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that a forward computed (old-style weight norm's) go by value."""
    computed = {
        id(item): item.detach().clone()
        for module in model.modules()
        for item in vars(module).values()
        if isinstance(item, torch.Tensor) and not item.is_leaf
    }
    return copy.deepcopy(model, computed)


def packs_padding(model: nn.Module, run: Callable[[], object]) -> bool:
    """Whether an `nn.TransformerEncoder` may make nested tensors of what it is given to run."""
    masked: list[bool] = []

    def look(_: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        masked.append(kwargs.get("src_key_padding_mask", (*args, *3 * (None,))[2]) is not None)

    hooks = [
        module.register_forward_pre_hook(look, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor
    ]
    try:
        if hooks:
            with torch.no_grad():
                run()
    finally:
        for hook in hooks:
            hook.remove()
    return any(masked)


def compute_padding(model: nn.Module) -> None:
    """Keep `nn.TransformerEncoder` from leaving padding out; changes the model."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[list[str]]:
    """Put back what forwards write into a model's buffers; the list names them in the end."""
    places = [
        (path, module, name, buffer, buffer.clone())
        for path, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for path, module, name, buffer, before in places:
            now = getattr(module, name)
            if now is buffer and is_same(now, before):
                continue
            changed.append(f"{path}.{name}" if path else name)
            with torch.no_grad():
                buffer.copy_(before)
            setattr(module, name, buffer)


def paths_within(modules: Mapping[str, nn.Module], leaf_modules: Sequence[str]) -> frozenset[str]:
    """Paths of the leaf modules and of all that they hold.

    Raises:
        ModelError: A leaf module is none of the model's.
    """
    for path in leaf_modules:
        if path not in modules:
            raise ModelError(
                f"model.leaf_modules: the model has no module {path!r}",
                hint=f"give a path of model.named_modules(): {', '.join(list(modules)[1:13])}",
            )
    return frozenset(
        name
        for name in modules
        if any(name == path or name.startswith(f"{path}.") for path in leaf_modules)
    )


def _check_values(model: nn.Module) -> None:
    weights = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(
                f"the model's {name} has no values yet",
                hint="load the checkpoint; run lazy modules once on a batch",
            )
        if tensor.layout is not torch.strided:
            raise ModelError(
                f"the model's {name} is a {tensor.layout} tensor", hint="give it dense: to_dense()"
            )
        if tensor.device.type != "cpu":
            raise ModelError(
                f"the model's {name} is on {tensor.device}", hint="give model.cpu(); all runs there"
            )
        if tensor.is_floating_point() and not _is_sound(tensor, is_weight=name in weights):
            raise ModelError(
                f"the model's {name} holds NaN or infinity", hint="load a finite checkpoint"
            )


def _is_sound(tensor: torch.Tensor, *, is_weight: bool) -> bool:
    """Whether values are finite; a buffer may hold minus infinity, as attention masks do."""
    if not is_weight:
        tensor = tensor.masked_fill(tensor == -torch.inf, 0.0)
    return bool(torch.isfinite(tensor).all())


def _check_dtypes(model: nn.Module, leaf_modules: tuple[str, ...]) -> None:
    """Refuse parameters whose fp32 nobody could measure; leaf modules are nobody's sites."""
    whole = tuple(f"{path}." for path in leaf_modules)
    for name, parameter in model.named_parameters():
        other = parameter.is_floating_point() and parameter.dtype is not torch.float32
        if other and not name.startswith(whole):
            raise ModelError(
                f"the model's {name} is {str(parameter.dtype).removeprefix('torch.')}, not float32",
                hint="give model.float(), with data in float32",
            )
