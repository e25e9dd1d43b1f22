"""`statistics.safetensors`: calibration statistics without pickles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from autoquant.core.os_errors import storage_errors
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.results.storage import damaged, missing, well_formed, write_bytes

_FORMAT = "1"
_ARRAYS = ("histogram", "channel_low", "channel_high", "sample_low", "sample_high")
_LATER_ARRAYS = ("batch_low", "batch_high")
"""What files of earlier versions lack."""
_SCALARS = ("low", "high", "histogram_low", "histogram_high")


def write_statistics(path: Path, statistics: CalibrationStatistics) -> None:
    """Write all statistics; the i-th tensor's arrays are named `<array>/<i>`.

    The scalars of all tensors are one float64 array of shape (tensors, 4), so that they come
    back to the last bit; tensor keys, the number of samples and the digest are metadata.
    """
    tensors = list(statistics.tensors.values())
    scalars = [[getattr(item, name) for name in _SCALARS] for item in tensors]
    arrays = {"scalars": np.asarray(scalars, dtype=np.float64).reshape(-1, len(_SCALARS))}
    for index, item in enumerate(tensors):
        for name in (*_ARRAYS, *_LATER_ARRAYS):
            arrays[f"{name}/{index}"] = np.ascontiguousarray(getattr(item, name))
    metadata = {
        "format": _FORMAT,
        "tensors": json.dumps(list(statistics.tensors)),
        "samples": str(statistics.samples),
        "digest": statistics.digest,
    }
    write_bytes(path, save(arrays, metadata=metadata))


def read_statistics(path: Path) -> CalibrationStatistics:
    """Read back what `write_statistics` wrote, exactly.

    Raises:
        StorageError: The file is missing or damaged.
    """
    if not path.exists():
        raise missing(path)
    try:
        with (
            storage_errors(path, "read"),
            well_formed(path),
            safe_open(path, framework="numpy") as file,
        ):
            metadata = file.metadata() or {}
            scalars = file.get_tensor("scalars")
            names = set(file.keys())
            tensors = {
                key: TensorStatistics(
                    **dict(zip(_SCALARS, scalars[index].tolist(), strict=True)),
                    **{
                        name: file.get_tensor(f"{name}/{index}")
                        for name in (*_ARRAYS, *_LATER_ARRAYS)
                        if name in _ARRAYS or f"{name}/{index}" in names
                    },
                )
                for index, key in enumerate(json.loads(metadata["tensors"]))
            }
            return CalibrationStatistics(tensors, int(metadata["samples"]), metadata["digest"])
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
