"""The range of every tensor's grid, for engines that make their own scales of it."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch.ao.quantization import FixedQParamsObserver

from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import QuantizationSettings, activation_observer

_UNWRITTEN = Site("", OpKind.ACTIVATION, "", None, None, "", (), (), (), 0, 0, 0)
"""Stands for the writer of a tensor that no site writes: an input, a reshaped parameter."""


class TensorRange(NamedTuple):
    """The real values that the ends of a grid stand for; 0 lies within."""

    low: float
    high: float


class TensorRanges:
    """Finds ranges from cached statistics by the job's observers; each is computed once.

    Args:
        captured: The captured model.
        statistics: Of its tensors.
        settings: Observer and rules.
    """

    def __init__(
        self, captured: Capture, statistics: CalibrationStatistics, settings: BuildSettings
    ) -> None:
        self._cache = ScaleCache(statistics, settings.ranges.fixed_tensors)
        self._settings = QuantizationSettings(settings.observer, ranges=settings.ranges)
        sites = {site.name: site for site in captured.sites}
        self._writers = {
            group[-1]: sites[name] for name, groups in captured.members.items() for group in groups
        }

    def int8(self, tensor: str) -> TensorRange:
        """Range of a tensor on 256 affine levels.

        Args:
            tensor: Name of the node of the captured graph that writes it.

        Raises:
            ValueError: Calibration did not see it.
        """
        scale, zero_point = self._scale(tensor, Scheme.INT8)
        return TensorRange(-zero_point * scale, (255 - zero_point) * scale)

    def int16(self, tensor: str) -> TensorRange:
        """Symmetric range of a tensor on levels -32767 to 32767.

        Raises:
            ValueError: Calibration did not see it.
        """
        scale, _ = self._scale(tensor, Scheme.INT16)
        return TensorRange(-32767 * scale, 32767 * scale)

    def _scale(self, tensor: str, scheme: Scheme) -> tuple[float, int]:
        writer = self._writers.get(tensor, _UNWRITTEN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observer = activation_observer(writer, scheme, self._settings)()
        if isinstance(observer, FixedQParamsObserver):
            return float(observer.scale), int(observer.zero_point)
        scale, zero_point = self._cache.scale(observer, [tensor])
        return float(scale), int(zero_point)
