"""The reference numerics of a target: how its kernels round, in float arithmetic."""

from __future__ import annotations

from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture
from autoquant.model.numerics.rounding import SchemeRounding


def reference_rounding(
    captured: Capture, statistics: CalibrationStatistics, settings: BuildSettings
) -> SchemeRounding:
    """Tell how a target rounds the tensors of a captured model under each scheme."""
    writers = load_target(settings.backend).integer_writers(settings)
    return SchemeRounding(TensorRanges(captured, statistics, settings), writers)
