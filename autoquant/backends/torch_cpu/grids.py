"""The grids of a captured model's tensors, as kernels take them."""

from __future__ import annotations

from dataclasses import replace

from autoquant.backends.torch_cpu.engines import saturates
from autoquant.backends.torch_cpu.forms import Grid
from autoquant.core.build import BuildSettings
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture


class TensorGrids:
    """Finds grids from cached statistics.

    Args:
        captured: The captured model.
        statistics: Of its tensors.
        settings: Observer, rules and bits.
    """

    def __init__(
        self, captured: Capture, statistics: CalibrationStatistics, settings: BuildSettings
    ) -> None:
        self._ranges = TensorRanges(captured, statistics, settings)

    def int8(self, tensor: str) -> Grid:
        """Grid of a tensor by the key of its statistics.

        Raises:
            ValueError: Calibration did not see it.
        """
        found = self._ranges.int8_grid(tensor)
        return Grid(found.scale, found.zero_point)

    def int16(self, tensor: str) -> float:
        """Scale of a tensor's symmetric int16 grid.

        Raises:
            ValueError: Calibration did not see it.
        """
        return self._ranges.int16_grid(tensor).scale


def settled(settings: BuildSettings) -> BuildSettings:
    """Settings that say whether int8 activations take seven bits: where this CPU needs it."""
    if settings.reduce_range is not None:
        return settings
    return replace(settings, reduce_range=saturates(settings.engine))
