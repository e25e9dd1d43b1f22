"""Running sums over pairs of tensors: every figure of a row, in memory that data do not fill."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from autoquant.analysis.output_error import ratio_and_error, to_decibels
from autoquant.core.layers import LayerError, Moments
from autoquant.core.magnitudes import BIN_COUNT, DROPPED_BITS, Magnitudes

_CHUNK = 1 << 16
"""Elements that are looked at together: few enough to stay in a core's cache."""

_EXPONENT_LIMIT = 500.0
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class PairSums:
    """What was seen of one tensor in both models.

    Sums are taken in double precision, chunk by chunk. Values that are not finite on either side
    count as zero on both, and are counted.
    """

    def __init__(self) -> None:
        self.elements = 0
        self.samples = 0
        self.not_finite = 0
        self._sums = dict.fromkeys(
            ("signal", "noise", "cross", "value", "error", "absolute", "cosine", "kl"), 0.0
        )
        self._low = [math.inf, math.inf]
        self._high = [-math.inf, -math.inf]
        self._max_absolute = 0.0
        self._max_relative = 0.0
        self._peaks: Tensor | None = None
        self._counts = torch.zeros(2, BIN_COUNT, dtype=torch.int64)

    def add(self, expected: Tensor, found: Tensor, batch: int) -> None:
        """Take in one batch.

        Args:
            expected: The float model's tensor.
            found: The quantized model's, of the same shape; quantized and half ones are read as
                what they stand for.
            batch: How many samples it holds, in the first dimension (else it counts as one).
        """
        found = found.dequantize() if found.is_quantized else found.float()
        expected, found = _in_one_layout(expected.detach().float(), found.detach())
        rows = batch if expected.ndim and len(expected) == batch else 1
        self._add_peaks(expected)
        first, second = (_flat(item).reshape(rows, -1) for item in (expected, found))
        self.samples += rows
        step = max(1, _CHUNK // max(first.shape[1], 1))
        for start in range(0, rows, step):
            self._add_rows(first[start : start + step], second[start : start + step])

    def _add_peaks(self, value: Tensor) -> None:
        """Largest magnitude of each channel: dimension 1 of images, the last one of others."""
        if value.ndim < 2 or value.numel() == 0:
            return
        axis = 1 if value.ndim > 3 else value.ndim - 1
        others = [item for item in range(value.ndim) if item != axis]
        peaks = torch.maximum(value.amax(others), -value.amin(others))
        if self._peaks is None or self._peaks.shape != peaks.shape:
            self._peaks = peaks
        else:
            self._peaks = torch.maximum(self._peaks, peaks)

    def _add_rows(self, expected: Tensor, found: Tensor) -> None:
        for side, value in enumerate((expected, found)):
            low, high = (float(item) for item in value.aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                self._add_rows(*self._finite(expected, found))
                return
            self._low[side] = min(self._low[side], low)
            self._high[side] = max(self._high[side], high)
        self.elements += expected.numel()
        self._count(0, expected)
        self._count(1, found)
        self._add_errors(expected, found)

    def _finite(self, expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        wrong = ~(torch.isfinite(expected) & torch.isfinite(found))
        self.not_finite += int(wrong.sum())
        return expected.masked_fill(wrong, 0.0), found.masked_fill(wrong, 0.0)

    def _count(self, side: int, value: Tensor) -> None:
        bins = value.contiguous().view(torch.int32) >> DROPPED_BITS
        bins.bitwise_and_(BIN_COUNT - 1)
        self._counts[side] += torch.bincount(bins.reshape(-1), minlength=BIN_COUNT)

    def _add_errors(self, expected: Tensor, found: Tensor) -> None:
        value = expected.double()
        error = found.double().sub_(value)
        signal = torch.linalg.vecdot(value, value)
        cross = torch.linalg.vecdot(value, error)
        noise = torch.linalg.vecdot(error, error)
        absolute = error.abs()
        largest = float(absolute.max())
        sums = self._sums
        sums["signal"] += float(signal.sum())
        sums["noise"] += float(noise.sum())
        sums["cross"] += float(cross.sum())
        sums["value"] += float(value.sum())
        sums["error"] += float(error.sum())
        sums["absolute"] += float(absolute.sum())
        sums["cosine"] += float(_cosine(signal, cross, noise).sum())
        self._max_absolute = max(self._max_absolute, largest)
        if largest:
            sums["kl"] += float(_divergence(value, error, largest).sum())
            relative = absolute.float().div_(_nonzero(expected)).max()
            self._max_relative = max(self._max_relative, float(relative))

    @property
    def peaks(self) -> Tensor | None:
        """Largest magnitude of each channel of the float tensor; None: it has no channels."""
        return self._peaks

    @property
    def noise(self) -> float:
        """Mean squared error."""
        return self._sums["noise"] / max(self.elements, 1)

    def error(self, scale: float | None, *, divergence: bool = True) -> LayerError:
        """Give how far apart they are; `divergence` is left out where softmax means nothing."""
        sums, count = self._sums, max(self.elements, 1)
        ratio, _ = ratio_and_error(
            torch.tensor([sums["noise"]], dtype=torch.float64),
            torch.tensor([sums["signal"]], dtype=torch.float64),
        )
        return LayerError(
            sqnr_db=max(to_decibels(ratio), -to_decibels(0.0)),
            cosine=sums["cosine"] / max(self.samples, 1),
            mse=sums["noise"] / count,
            l1=sums["absolute"] / count,
            kl=sums["kl"] / max(self.samples, 1) if divergence else None,
            max_absolute=self._max_absolute,
            max_relative=self._max_relative,
            max_steps=self._max_absolute / scale if scale else None,
        )

    def moments(self) -> tuple[Moments, Moments]:
        """Give those of the float tensor and of the quantized one."""
        sums, count = self._sums, max(self.elements, 1)
        means = (sums["value"] / count, (sums["value"] + sums["error"]) / count)
        squares = (sums["signal"], sums["signal"] + 2 * sums["cross"] + sums["noise"])
        first, second = (
            Moments(low, high, mean, max(square / count - mean**2, 0.0))
            for low, high, mean, square in zip(self._low, self._high, means, squares, strict=True)
        )
        return first, second

    def magnitudes(self) -> tuple[Magnitudes, Magnitudes]:
        """Give those of the float tensor and of the quantized one."""
        first, second = (Magnitudes(np.asarray(item.numpy(), np.int64)) for item in self._counts)
        return first, second


def _in_one_layout(expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors, elements in the same order in memory."""
    if expected.stride() != found.stride():
        found = torch.empty_like(expected).copy_(found)
    return expected, found


def _flat(value: Tensor) -> Tensor:
    """Samples first, then all elements in whichever order they lie in memory."""
    last = _CHANNELS_LAST.get(value.ndim)
    if last is not None and value.is_contiguous(memory_format=last):
        return value.movedim(1, -1)
    return value.contiguous()


def _nonzero(value: Tensor) -> Tensor:
    """Magnitudes, infinite where zero."""
    sizes = value.abs()
    return sizes.masked_fill_(sizes == 0, math.inf)


def _cosine(signal: Tensor, cross: Tensor, noise: Tensor) -> Tensor:
    """Cosine similarity of each row, from sums over x^2, x e and e^2 of y = x + e."""
    other = (signal + 2 * cross + noise).clamp_min(0.0)
    scale = signal.sqrt().clamp_min(1e-8) * other.sqrt().clamp_min(1e-8)
    return ((signal + cross) / scale).clamp(-1.0, 1.0)


def _divergence(value: Tensor, error: Tensor, largest: float) -> Tensor:
    """KL(softmax(x) || softmax(x + e)) of each row: log E_p[exp e] - E_p[e]."""
    if largest < _EXPONENT_LIMIT:
        p = torch.softmax(value, 1)
        mean = torch.linalg.vecdot(p, error)
        return (torch.linalg.vecdot(p, error.exp()).log() - mean).clamp_min(0.0)
    log_p = torch.log_softmax(value, 1)
    log_q = torch.log_softmax(value + error, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
