"""Refusal of data that change their shape, by targets that build for one."""

from __future__ import annotations

from autoquant.backends.protocol import BuildRequest
from autoquant.errors import BackendError


def refuse_lengths(request: BuildRequest, target: str) -> None:
    """Refuse a model of which more than the number of samples changes from batch to batch."""
    captured = request.captured
    for name, axes in zip(captured.calling.names, captured.dynamic, strict=True):
        if len(axes) > 1:
            shown = " and ".join(map(str, axes))
            raise BackendError(
                f"{target} builds for samples of one shape, but of input {name!r} the axes {shown} "
                "change",
                hint="pad all batches to one length, or choose backend.name: torch, openvino or "
                "onnxruntime",
            )
