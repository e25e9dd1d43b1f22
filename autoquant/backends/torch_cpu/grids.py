"""The grids of a captured model's tensors, as kernels take them."""

from __future__ import annotations

from autoquant.backends.torch_cpu.forms import Grid
from autoquant.core.build import BuildSettings
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture


class TensorGrids:
    """Finds grids from cached statistics.

    Attributes:
        weight_bits: Of int8 weights that meet int8 activations.
    """

    def __init__(
        self, captured: Capture, statistics: CalibrationStatistics, settings: BuildSettings
    ) -> None:
        self._ranges = TensorRanges(captured, statistics, settings)
        self.weight_bits = self._ranges.weight_bits

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
