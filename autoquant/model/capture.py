"""Capture: find the sites of a model, by what can follow its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from autoquant.model.captured import Capture
from autoquant.model.eager_capture import capture_eager
from autoquant.model.export_capture import capture_export
from autoquant.model.fx_capture import capture_fx

__all__ = ["CAPTURES", "Capture", "capture"]

CAPTURES: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...], Sequence[str]], Capture]] = {
    "fx": capture_fx,
    "export": capture_export,
    "eager": capture_eager,
}


def capture(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    leaf_modules: Sequence[str] = (),
    how: str = "fx",
) -> Capture:
    """Find the sites of a model, with shapes, MACs and parameters.

    Args:
        model: Float model; it is copied, never changed.
        example_inputs: One batch; its first dimension counts as samples.
        leaf_modules: Paths not to look into; what they hold stays in fp32.
        how: What follows the model's code.

    Raises:
        ModelError: The model cannot be captured or run on the example, or holds nothing to
            quantize.
    """
    return CAPTURES[how](model, example_inputs, leaf_modules)
