"""Export: one file that the engine's own API runs, with its plan inside."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoquant.core.calls import checked
from autoquant.errors import StorageError
from autoquant.searching.candidate import ResultCandidate


@checked
def export(
    candidate: ResultCandidate,
    model: nn.Module,
    path: str | Path,
    *,
    other_weights: bool = False,
    reduce_range: bool = False,
) -> Path:
    """Write a candidate as a file of its backend, which runs it without autoquant.

    The file carries the plan, its measurements, and the threads and the batch size that its
    latency was timed with, under the name `autoquant`; docs/backends says how to read them back.
    `candidate.recipe(path)` gives the line that runs it as it was timed.

    Args:
        candidate: From a search result.
        model: The float model that was searched.
        path: The file to write, with the suffix of the backend (`.ts`, `.xml`, `.onnx`,
            `.tflite`), or without any.
        other_weights: Take a model with other weights than those that were searched, at the
            scales of the search.
        reduce_range: Let int8 leave out a bit, for CPUs whose kernels overflow with eight (x86
            without VNNI) where those of the search do not.

    Raises:
        ModelError: The model is not the one that was searched.
        BackendError: The engine refuses the plan.
        StorageError: The path names no file, has another suffix, or cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise StorageError(f"export: the path {str(path)!r} names no file", hint="give it a name")
    backend = candidate.open_backend(model, other_weights=other_weights, reduce_range=reduce_range)
    if not path.suffix:
        path = path.with_suffix(backend.suffix)
    if path.suffix != backend.suffix:
        raise StorageError(
            f"{path}: {backend.name} writes {backend.suffix} files",
            hint=f"name it {path.with_suffix(backend.suffix).name}",
        )
    return backend.export(candidate.plan, path, candidate.metadata)
