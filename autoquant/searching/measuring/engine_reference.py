"""The float reference by the engine's all-fp32 plan, where that computes what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoquant.core.measurement import Kind
from autoquant.errors import BackendError, MetricError, ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import StreamedBatches
from autoquant.model.data.outputs import OutputWeights
from autoquant.searching.measuring.quality import (
    FloatReference,
    Functions,
    NotFiniteError,
    Run,
    measure_quality,
    run_reference,
)

_LOOKED_AT = 3
_SAME_DB = 80.0
"""Two float computations that are nearer than this differ by rounding; int8 is at 20 to 40 dB."""


def run_on_engine(
    model: Run,
    engine: Run,
    batches: Sequence[Batch],
    functions: Functions,
    weights: OutputWeights,
) -> FloatReference | None:
    """Run a data set by an engine's all-fp32 plan, which is faster than the model.

    The model itself runs on three batches, the first, a middle one and the last. There the engine
    must give the same scores, and outputs that differ by rounding alone.

    Returns:
        None where the engine gives something else, or the data are few, or read anew for each
        use: the model itself must run then.
    """
    if len(batches) < 2 * _LOOKED_AT or isinstance(batches, StreamedBatches):
        return None
    places = np.linspace(0, len(batches) - 1, _LOOKED_AT).round().astype(int)
    few = [batches[place] for place in places]
    try:
        looked = run_reference(model, few, functions, weights)
        found = measure_quality(engine, looked, functions, Kind.MEASURED).measurements
        drops = [item.value for name, item in found.items() if name.endswith(("_drop", "_rise"))]
        if found["sqnr_db"].value < _SAME_DB or any(abs(drop) > 1e-6 for drop in drops):
            return None
        reference = run_reference(engine, batches, functions, weights)
    except (BackendError, MetricError, ModelError, NotFiniteError):
        return None  # what is wrong, the model itself says better
    return replace(reference, of_fp32_plan=found | reference.measurements())
