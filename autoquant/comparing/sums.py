"""Running sums over pairs of tensors: every figure of a row, in memory that data do not fill."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoquant.core.findings.layers import LayerError, Moments
from autoquant.core.findings.magnitudes import BIN_COUNT, DROPPED_BITS, Magnitudes
from autoquant.model.data.output_noise import to_decibels

Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 16
"""Elements that are looked at together: few enough to stay in a core's cache."""

_WHOLE = 8
_SPARSE = 32
"""After the first chunks, one in so many goes into the histograms and stands for all."""

_SMALL_ERROR = 1.0
_RESOLUTION = 256.0
_LONG = 512
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class PairSums:
    """What was seen of one tensor in both models.

    Sums are taken in double precision. Values that are not finite on either side count as zero
    on both, and are counted.
    """

    def __init__(self) -> None:
        self.elements = 0
        self.samples = 0
        self.not_finite = 0
        self.peaks: Tensor | None = None
        """Largest magnitude of each channel of the float tensor, over the chunks that are sampled;
        None: it has no channels."""
        self._sums = dict.fromkeys(
            ("signal", "noise", "cross", "value", "error", "absolute", "cosine", "kl"), 0.0
        )
        self._low, self._high = [math.inf, math.inf], [-math.inf, -math.inf]
        self._max_absolute = self._max_relative = 0.0
        self._counts = torch.zeros(2, BIN_COUNT, dtype=torch.int64)
        self._chunks = 0

    def add(self, expected: Tensor, found: Tensor, batch: int) -> None:
        """Take in one batch.

        Args:
            expected: The float model's tensor.
            found: The quantized model's, of the same shape; quantized and half ones are read as
                what they stand for.
            batch: How many samples it holds, in the first dimension (else it counts as one).
        """
        if not expected.numel():
            return
        rows = batch if expected.ndim and len(expected) == batch else 1
        first, second = _flat_rows(expected.detach().float(), found.detach(), rows)
        self.elements += first.numel()
        self.samples += rows
        step = max(1, _CHUNK // first.shape[1])
        for start in range(0, rows, step):
            self._add_chunk(expected, first[start : start + step], second[start : start + step])

    def _add_chunk(self, shaped: Tensor, expected: Tensor, found: Tensor) -> None:
        """Take in some samples, as rows of a tensor that is shaped like `shaped`."""
        found = found.dequantize() if found.is_quantized else found.float()
        error = found - expected  # rounds by 6e-8 of itself, whatever the values are
        value, wide = expected.double(), error.double()
        total, excess = float(value.sum()), float(wide.sum())
        if not math.isfinite(total + excess):
            return self._add_chunk(shaped, *self._finite(expected, found))
        self._sums["value"] += total
        self._sums["error"] += excess
        self._add_range(expected, found)
        self._sample(shaped, expected, found)
        signal = _dots(value, value)
        absolute = error.abs()
        largest = float(absolute.max())
        if not largest:
            return self._add_rows(signal, *np.zeros((3, len(signal))))
        self._max_absolute = max(self._max_absolute, largest)
        self._sums["absolute"] += float(absolute.sum(dtype=torch.float64))
        self._max_relative = max(self._max_relative, _relative(expected, absolute))
        cross, noise = _dots(value, wide), _dots(wide, wide)
        return self._add_rows(signal, cross, noise, _divergence(expected, error, largest))

    def _finite(self, expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        wrong = ~torch.isfinite(found - expected)  # so is a difference that overflows
        self.not_finite += int(wrong.sum())
        return expected.masked_fill(wrong, 0.0), found.masked_fill(wrong, 0.0)

    def _add_range(self, expected: Tensor, found: Tensor) -> None:
        for side, value in enumerate((expected, found)):
            low, high = value.aminmax()
            self._low[side] = min(self._low[side], float(low))
            self._high[side] = max(self._high[side], float(high))

    def _sample(self, shaped: Tensor, expected: Tensor, found: Tensor) -> None:
        """Take chunks into histograms and peaks: all at first, then one that stands for many."""
        weight = 1 if self._chunks < _WHOLE else _SPARSE
        if self._chunks % weight == 0:
            self._counts += weight * torch.stack([_bins(expected), _bins(found)])
            self._add_peaks(_channel_peaks(expected, shaped))
        self._chunks += 1

    def _add_peaks(self, peaks: Tensor | None) -> None:
        if peaks is not None and self.peaks is not None and self.peaks.shape == peaks.shape:
            peaks = torch.maximum(self.peaks, peaks)
        self.peaks = peaks

    def _add_rows(self, signal: Floats, cross: Floats, noise: Floats, divergence: Floats) -> None:
        """Take in sums of each sample: x^2, x e, e^2, and its divergence."""
        other = np.maximum(signal + 2 * cross + noise, 0.0)
        scale = np.maximum(np.sqrt(signal), 1e-8) * np.maximum(np.sqrt(other), 1e-8)
        self._sums["signal"] += float(signal.sum())
        self._sums["cross"] += float(cross.sum())
        self._sums["noise"] += float(noise.sum())
        self._sums["kl"] += float(divergence.sum())
        self._sums["cosine"] += float(np.clip((signal + cross) / scale, -1.0, 1.0).sum())

    def error(self, scale: float | None, *, divergence: bool = True) -> LayerError:
        """Give how far apart they are; `divergence` is left out where softmax means nothing."""
        sums, count = self._sums, max(self.elements, 1)
        samples = max(self.samples, 1)
        return LayerError(
            sqnr_db=_sqnr(sums["signal"], sums["noise"]),
            cosine=sums["cosine"] / samples,
            mse=sums["noise"] / count,
            l1=sums["absolute"] / count,
            kl=sums["kl"] / samples if divergence else None,
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


def _sqnr(signal: float, noise: float) -> float:
    """Signal to noise in decibels, within what `to_decibels` can say."""
    if noise and not signal:
        return -to_decibels(0.0)
    return max(to_decibels(noise / signal if signal else 0.0), -to_decibels(0.0))


def _flat_rows(expected: Tensor, found: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Both tensors as (rows, elements), elements in the same order in memory."""
    if expected.stride() != found.stride():
        found = found.dequantize() if found.is_quantized else found
        found = torch.empty_like(expected, dtype=found.dtype).copy_(found)
    return _flat(expected).reshape(rows, -1), _flat(found).reshape(rows, -1)


def _is_channels_last(value: Tensor) -> bool:
    last = _CHANNELS_LAST.get(value.ndim)
    return last is not None and value.is_contiguous(memory_format=last)


def _flat(value: Tensor) -> Tensor:
    """Samples first, then all elements in whichever order they lie in memory."""
    return value.movedim(1, -1) if _is_channels_last(value) else value.contiguous()


def _channel_peaks(rows: Tensor, shaped: Tensor) -> Tensor | None:
    """Largest magnitude of each channel: dimension 1 of images, the last one of others."""
    if shaped.ndim < 2 or shaped.numel() != rows.shape[1] * len(shaped):
        return None
    peaks = torch.maximum(rows.amax(0), -rows.amin(0))
    if shaped.ndim > 3 and not _is_channels_last(shaped):
        return peaks.reshape(shaped.shape[1], -1).amax(1)
    return peaks.reshape(-1, shaped.shape[1 if shaped.ndim > 3 else -1]).amax(0)


def _bins(value: Tensor) -> Tensor:
    """How many values fall into each bin of `Magnitudes`, shape (8192,)."""
    bins = value.contiguous().view(torch.int32) >> DROPPED_BITS
    bins.bitwise_and_(BIN_COUNT - 1)
    return torch.bincount(bins.reshape(-1), minlength=BIN_COUNT)


def _dots(first: Tensor, second: Tensor) -> Floats:
    """Dot product of each pair of rows, shape (rows,)."""
    rows, others = first.numpy(), second.numpy()
    if first.shape[1] < _LONG:
        return np.asarray(np.einsum("ij,ij->i", rows, others), dtype=np.float64)
    return np.array([one @ two for one, two in zip(rows, others, strict=True)], dtype=np.float64)


def _relative(expected: Tensor, absolute: Tensor) -> float:
    """Largest |e| / max(|x|, m / 256), m the largest |x| of the sample; `absolute` is consumed."""
    sizes = expected.abs()
    floor = sizes.amax(1, keepdim=True).div_(_RESOLUTION).clamp_min_(torch.finfo(sizes.dtype).tiny)
    return float(absolute.div_(torch.maximum(sizes, floor, out=sizes)).max())


def _divergence(value: Tensor, error: Tensor, largest: float) -> Floats:
    """KL(softmax(x) || softmax(x + e)) of each row: log(1 + E_p[exp(e) - 1]) - E_p[e].

    Taken in single precision where errors are small: in this form they lose nothing, where a
    difference of two logarithms of softmax would lose all. Larger ones would lose the classes that
    p hardly knows. `error` is consumed.
    """
    if largest < _SMALL_ERROR:
        p = torch.softmax(value, 1)
        mean = _dots(p, error)
        return np.maximum(np.log1p(_dots(p, error.expm1_())) - mean, 0.0)
    log_p = torch.log_softmax(value.double(), 1)
    log_q = torch.log_softmax(value.double() + error.double(), 1)
    return np.asarray((log_p.exp() * (log_p - log_q)).sum(1).numpy(), dtype=np.float64)
