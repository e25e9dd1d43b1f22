"""The grid of every tensor: one for each precision, whoever reads it."""

from __future__ import annotations

from typing import NamedTuple

from autoquant.core.build import BuildSettings
from autoquant.core.sites import Site
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.model.calibration.ranges.find import find_range
from autoquant.model.calibration.ranges.grid import Grid, affine_grid, defined_grid, symmetric_grid
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.same_values import value_sources

_BYTE = 255


class TensorRange(NamedTuple):
    """The real values that the ends of a grid stand for; 0 lies within."""

    low: float
    high: float


class TensorRanges:
    """Finds grids from cached statistics by the job's observers; each is computed once.

    A tensor's range is the one that the job fixes; or, for int8, the one that the definition of
    the op that writes it does (a sigmoid's); or what an observer finds: the one of the site that
    writes the tensor, else of the first site that reads it. A tensor that holds the values of
    another (a reshaped one, a max pool's) has that one's grid.

    Attributes:
        weight_bits: Of int8 weights that meet int8 activations.
    """

    def __init__(
        self, captured: Capture, statistics: CalibrationStatistics, settings: BuildSettings
    ) -> None:
        self._tensors = statistics.tensors
        self._rules = settings.ranges
        self._default = settings.observer
        self._fixed = settings.ranges.fixed_tensors
        self._own = {item.tensor: (item.low, item.high) for item in settings.ranges.own}
        self.weight_bits = settings.ranges.weight_bits or 8
        self._sources = value_sources(captured.graph)
        self._writers = captured.lasts
        self._readers: dict[str, Site] = {}
        for node in captured.graph.graph.nodes:
            if node.name in captured.roots:
                for source in node.all_input_nodes:
                    self._readers.setdefault(self.source(source.name), captured.roots[node.name])
        self._known: dict[tuple[str, str], Grid] = {}

    def source(self, tensor: str) -> str:
        """Name of the tensor whose values a tensor holds: the key of its statistics."""
        return self._sources.get(tensor, tensor)

    def knows(self, tensor: str) -> bool:
        """Whether the tensor has a grid: calibration saw it, or the job fixes its range."""
        name = self.source(tensor)
        return name in self._tensors or name in self._fixed

    def is_observed(self, tensor: str) -> bool:
        """Whether an observer finds its int8 range: neither a definition nor the job fixes it."""
        name = self.source(tensor)
        writer = self._writers.get(name)
        is_defined = writer is not None and writer.output_range is not None
        return name in self._tensors and name not in self._fixed and not is_defined

    def int8(self, tensor: str) -> TensorRange:
        """Range of a tensor on affine levels of 8 bits.

        Raises:
            ValueError: Calibration did not see it.
        """
        grid = self.int8_grid(tensor)
        return TensorRange(grid.lowest, grid.highest)

    def int8_grid(self, tensor: str) -> Grid:
        """Grid of 256 affine levels."""
        name = self.source(tensor)
        key = ("int8", name)
        if key not in self._known:
            self._known[key] = self._int8(name)
        return self._known[key]

    def int16_grid(self, tensor: str) -> Grid:
        """Symmetric grid of levels -32768 to 32767, over the largest value that was seen."""
        name = self.source(tensor)
        key = ("int16", name)
        if key not in self._known:
            fixed = self._fixed.get(name)
            seen = fixed or self._seen(name)
            self._known[key] = symmetric_grid((seen.low, seen.high))
        return self._known[key]

    def _int8(self, tensor: str) -> Grid:
        fixed, writer = self._fixed.get(tensor), self._writers.get(tensor)
        if writer is not None and writer.output_range is not None:
            return defined_grid(writer.output_range)
        if fixed is not None:
            return affine_grid((fixed.low, fixed.high), _BYTE)
        if tensor in self._own:
            return affine_grid(self._own[tensor], _BYTE)
        observer = self._rules.observer(self.owner(tensor) or "", self._default)
        found = find_range(observer, self._seen(tensor), _BYTE + 1, self._rules)
        return affine_grid(found, _BYTE)

    def owner(self, tensor: str) -> str | None:
        """The site whose observer finds a tensor's range: its writer, else its first reader."""
        name = self.source(tensor)
        site = self._writers.get(name) or self._readers.get(name)
        return site.name if site else None

    def _seen(self, tensor: str) -> TensorStatistics:
        found = self._tensors.get(tensor)
        if found is None:
            raise ValueError(f"no statistics for the tensor {tensor}: calibration did not see it")
        return found
