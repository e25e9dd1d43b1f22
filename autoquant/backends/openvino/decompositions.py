"""Ops that torch writes out in others before the front end sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose
from torch import Tensor
from torch.export.decomp_utils import CustomDecompTable
from torch.nn import functional

_ATEN = torch.ops.aten


def decompositions(kept: Sequence[Any]) -> Mapping[Any, Callable[..., Any]]:
    """What torch decomposes for OpenVINO: all but what it has an op for, and what is kept."""
    table = CustomDecompTable()
    for operator in (*ops_to_not_decompose(), _ATEN.matmul.default, *kept):
        if operator in table:
            table.pop(operator)
    table[_ATEN.index_add.default] = _index_add
    table[_ATEN.instance_norm.default] = _instance_norm
    table[_ATEN.pad.default] = _pad
    table[_ATEN.select.int] = _select
    table[_ATEN.stft.default] = _stft
    return table.materialize()


def _pad(
    x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """The same; around a circle by slices, which the front end converts to something else."""
    if mode != "circular" or min(pad) < 0:
        return functional.pad(x, list(pad), mode, value)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
        last = x.narrow(-axis, x.shape[-axis] - before, before)
        x = torch.cat([last, x, x.narrow(-axis, 0, after)], -axis)
    return x


def _select(x: Tensor, axis: int, index: int) -> Tensor:
    """The same by a slice of one: gathered by a scalar, int8 sums keep the axis in the engine."""
    end = sys.maxsize if index == -1 else index + 1
    step: Tensor = _ATEN.slice.Tensor(x, axis, index, end)
    return step.squeeze(axis)


def _index_add(
    into: Tensor, axis: int, index: Tensor, values: Tensor, *, alpha: float = 1.0
) -> Tensor:
    """The same by an op that the front end knows."""
    shape = [1] * values.ndim
    shape[axis] = -1
    added = values if alpha == 1 else values * alpha
    return into.scatter_add(axis, index.reshape(shape).expand_as(values), added)


def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    by_sample: bool,  # as torch passes it
    momentum: float,  # noqa: ARG001
    eps: float,
    cudnn: bool,  # noqa: ARG001
) -> Tensor:
    """The same by norms that the engine has: torch writes a batch norm of samples as channels."""
    if by_sample:
        return functional.group_norm(x, x.shape[1], weight, bias, eps)
    return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)


def _stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """The same by windows of the signal at any batch size, of which torch's own takes one alone."""
    length = win_length or n_fft
    before = (n_fft - length) // 2
    if align_to_window:
        x = functional.pad(x, [before, before])
    weights = x.new_ones(length) if window is None else window
    weights = functional.pad(weights, [before, n_fft - length - before])
    frames = x.unfold(-1, n_fft, hop_length or n_fft // 4) * weights
    is_complex = x.is_complex() or weights.is_complex()
    full = is_complex if onesided is None else not onesided
    transform = torch.fft.fft if full else torch.fft.rfft
    found = transform(frames, norm="ortho" if normalized else "backward").transpose(-1, -2)
    return found if return_complex else torch.view_as_real(found)
