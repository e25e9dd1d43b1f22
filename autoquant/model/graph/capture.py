"""Capture: find the sites of a model, in its graph where it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from autoquant.core.calls import show
from autoquant.core.glance import few
from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling
from autoquant.model.graph.captured import BY_MODULES, Capture
from autoquant.model.graph.custom_module import custom_modules
from autoquant.model.graph.export_capture import capture_export
from autoquant.model.graph.module_capture import capture_modules

__all__ = ["CAPTURES", "Capture", "capture"]

Way = Callable[
    [nn.Module, tuple[Tensor, ...], Sequence[str], Calling, Sequence[Sequence[int]]], Capture
]


def capture(
    model: nn.Module,
    example: tuple[Tensor, ...],
    leaf_modules: Sequence[str] = (),
    how: str = "auto",
    *,
    calling: Calling | None = None,
    dynamic: Sequence[Sequence[int]] | None = None,
) -> Capture:
    """Find the sites of a model, with shapes, MACs and parameters.

    Args:
        model: Float model in eval mode; never changed.
        example: The tensors of one batch.
        leaf_modules: Paths not to look into; what they hold stays in fp32.
        how: A key of `CAPTURES`.
        calling: How the model takes them; None: by place.
        dynamic: By tensor, axes whose size may change; None: the first of each.

    Raises:
        ModelError: The model cannot be captured or run on the example, or holds nothing to
            quantize.
    """
    if how not in CAPTURES:
        raise ModelError(
            f"model.capture: {show(how)} is none of auto, export, modules",
            hint="leave it out: the model is exported, "
            "or captured module by module where that fails",
        )
    custom = custom_modules(model) if how == "export" else ()
    if custom:
        raise ModelError(
            f"model.capture: export looks into every module, and {few(custom)} is quantized whole",
            hint="leave model.capture out: the model is then captured module by module",
        )
    return CAPTURES[how](
        model,
        example,
        leaf_modules,
        calling or Calling.plain(len(example)),
        tuple((0,) if item.ndim else () for item in example) if dynamic is None else dynamic,
    )


def _capture_auto(
    model: nn.Module,
    example: tuple[Tensor, ...],
    leaf_modules: Sequence[str],
    calling: Calling,
    dynamic: Sequence[Sequence[int]],
) -> Capture:
    """By torch.export, and module by module where that cannot follow the model, or may not."""
    custom = custom_modules(model)
    if custom:
        found = capture_modules(model, example, leaf_modules, calling, dynamic)
        return found.noting(BY_MODULES.format(f"for the custom modules {few(custom)}"))
    try:
        return capture_export(model, example, leaf_modules, calling, dynamic)
    except ModelError as refused:
        try:
            found = capture_modules(model, example, leaf_modules, calling, dynamic)
        except ModelError:
            raise refused from None
        return found.noting(BY_MODULES.format(f"since {refused.message}"))


CAPTURES: Mapping[str, Way] = {
    "auto": _capture_auto,
    "export": capture_export,
    "modules": capture_modules,
    "eager": capture_modules,  # its name before
}
