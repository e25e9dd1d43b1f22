"""Read back which kernels each module of a built model really calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from autoquant.backends.torch_cpu.kernel_readback import FLOATS, KernelCalls, scheme_of_quantized
from autoquant.core.precision import Scheme

_FLOAT_KERNELS = (
    "aten::_convolution",
    "aten::_embedding_bag",
    "aten::addmm",
    "aten::baddbmm",
    "aten::bmm",
    "aten::convolution",
    "aten::embedding",
    "aten::linear",
    "aten::mkldnn",
    "aten::mm",
)
"""Beginnings of the kernels that do the arithmetic of weighted modules in float."""


def observe_modules(
    modules: Mapping[str, nn.Module], run: Callable[[], object]
) -> dict[str, Mapping[Scheme, str]]:
    """Run a model once and note what each of its modules computes in.

    What counts are the kernels that reach torch's dispatcher while the module runs: a quantized
    one by its name, others by the dtype of what they read.

    Returns:
        By site, every way in which it computes, and the first kernel that does; one that was
        never called is missing.
    """
    spy = _Spy()
    with wrapped_calls(modules, spy.call), KernelCalls(spy.note):
        run()
    by_module = {id(modules[name]): found for name, found in spy.found.items()}
    return {
        name: by_module[id(module)] for name, module in modules.items() if id(module) in by_module
    }


class _Spy:
    """Knows in which module every kernel is called."""

    def __init__(self) -> None:
        self.found: dict[str, dict[Scheme, str]] = {}
        self._inside: list[str] = []

    def call(
        self, name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module's forward."""
        self.found.setdefault(name, {})
        self._inside.append(name)
        try:
            return forward(*args, **kwargs)
        finally:
            self._inside.pop()

    def note(self, kernel: str, args: tuple[Any, ...]) -> None:
        """Take in a kernel."""
        if self._inside:
            for scheme in _schemes(kernel, args):
                self.found[self._inside[-1]].setdefault(scheme, kernel)


def _schemes(kernel: str, args: tuple[Any, ...]) -> set[Scheme]:
    """What a kernel computes in; nothing where it does no arithmetic with a weight."""
    quantized = scheme_of_quantized(kernel, args)
    if quantized is not None:
        return {quantized}
    if not kernel.startswith(_FLOAT_KERNELS):
        return set()
    tensors = [item for item in args if isinstance(item, Tensor)]
    return {FLOATS[item.dtype] for item in tensors if item.dtype in FLOATS}


Wrapper = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def wrapped_calls(modules: Mapping[str, nn.Module], wrapper: Wrapper) -> Iterator[None]:
    """Call `wrapper(name, forward, args, kwargs)` in place of each module's forward.

    Hooks would do the same, but where a module has hooks torch leaves its fast path for
    transformers, so that what is watched would not be what runs.

    Args:
        modules: By name; several may be one module, which then has the first name.
        wrapper: Makes the call and gives its result.
    """
    named = {id(module): (name, module) for name, module in reversed(list(modules.items()))}
    for name, module in named.values():
        module.forward = partial(_call, wrapper, name, module.forward)
    try:
        yield
    finally:
        for _, module in named.values():
            del module.forward


def _call(
    wrapper: Wrapper, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return wrapper(name, forward, args, kwargs)
