"""Calibration: the statistics of every tensor, in one pass over the float model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.model.calibration.ranges.observation import TensorObserver
from autoquant.model.calibration.recorders import start_recorder
from autoquant.model.graph.captured import Capture

Advance = Callable[[int], None]


def calibrate(
    captured: Capture,
    batches: Sequence[tuple[Tensor, ...]],
    progress: Advance = lambda samples: None,
) -> CalibrationStatistics:
    """Observe every tensor of the float model once.

    Observers see the float model, so what they find does not depend on any plan.

    Raises:
        DataError: A batch makes the model fail, or a tensor of it is not finite.
    """
    *_, (_, statistics) = calibrations(captured, batches, {len(batches)}, progress)
    return statistics


def calibrations(
    captured: Capture,
    batches: Sequence[tuple[Tensor, ...]],
    counts: Collection[int],
    progress: Advance = lambda samples: None,
) -> Iterator[tuple[int, CalibrationStatistics]]:
    """Observe as `calibrate` does, and give what was seen after so many batches, in one pass."""
    recorder = start_recorder(captured)
    samples = 0
    digest = _digest_of(captured.graph.state_dict().values())
    for index, inputs in enumerate(batches):
        _take_in(digest, inputs)
        recorder.batch = index
        with torch.no_grad():
            recorder.run(*inputs)
        samples += len(inputs[0])
        progress(len(inputs[0]))
        if index + 1 in counts:
            yield (
                index + 1,
                CalibrationStatistics(
                    tensors=_statistics(recorder.observers),
                    samples=samples,
                    digest=digest.hexdigest()[:16],
                ),
            )


def _statistics(observers: Mapping[str, TensorObserver]) -> dict[str, TensorStatistics]:
    """What each observer saw; keys that share an observer share its statistics."""
    found: dict[TensorObserver, TensorStatistics] = {}
    for observer in observers.values():
        if observer not in found:
            found[observer] = observer.statistics()
    return {key: found[observer] for key, observer in observers.items()}


def digest_of(weights: Iterable[Tensor], batches: Iterable[tuple[Tensor, ...]]) -> str:
    """Hash weights and data: equal digests stand for equal statistics."""
    digest = _digest_of(weights)
    for batch in batches:
        _take_in(digest, batch)
    return digest.hexdigest()[:16]


def _digest_of(tensors: Iterable[Tensor]) -> hashlib._Hash:
    digest = hashlib.sha256()
    _take_in(digest, tensors)
    return digest


def _take_in(digest: hashlib._Hash, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
