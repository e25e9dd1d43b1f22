"""Calibration: the statistics of every tensor, in one pass over the float model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.model.captured import Capture
from autoquant.model.ranges.observation import TensorObserver
from autoquant.model.recorders import start_recorder
from autoquant.model.torch_ao.conversion import prepare
from autoquant.model.torch_ao.observers import observers_of
from autoquant.model.torch_ao.qconfig import QuantizationSettings, build_qconfig_mapping

Progress = Callable[[int], None]

_NO_STATIC_INT8 = frozenset({OpKind.EMBEDDING, OpKind.EMBEDDING_BAG, OpKind.LSTM, OpKind.GRU})


def calibrate(
    captured: Capture,
    batches: Sequence[tuple[Tensor, ...]],
    progress: Progress = lambda samples: None,
) -> CalibrationStatistics:
    """Observe every tensor of the float model once.

    Observers see the float model, so what they find does not depend on any plan. Tensors that
    torch would observe together (an op that hands its scale on) are observed together as well as
    alone, in the order in which torch sees them, so that a candidate built from these statistics
    is bit-equal to one that torch prepared, calibrated and converted.

    Args:
        captured: The captured model.
        batches: Inputs of each batch, positional.
        progress: Called after each batch with its number of samples.

    Raises:
        DataError: A batch makes the model fail, or a tensor of it is not finite.
    """
    *_, (_, statistics) = calibrations(captured, batches, {len(batches)}, progress)
    return statistics


def calibrations(
    captured: Capture,
    batches: Sequence[tuple[Tensor, ...]],
    counts: Collection[int],
    progress: Progress = lambda samples: None,
) -> Iterator[tuple[int, CalibrationStatistics]]:
    """Observe as `calibrate` does, and give what was seen after so many batches, in one pass.

    Args:
        captured: The captured model.
        batches: Inputs of each batch, positional.
        counts: After how many batches to look; each at least 1.
        progress: Called after each batch with its number of samples.

    Raises:
        DataError: As `calibrate`.
    """
    recorder = start_recorder(captured, shared_tensors(captured, batches[0]))
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


def shared_tensors(captured: Capture, example: tuple[Tensor, ...]) -> list[tuple[str, ...]]:
    """Tensors that torch observes together when every site is int8, in execution order.

    Without torch.fx's graph, torch observes module by module: together what all calls of one
    module read, and what all of them write.
    """
    if captured.traced.how == "modules":
        return []
    if captured.traced.how == "export":
        several = [name for name, groups in captured.members.items() if len(groups) > 1]
        keys = [tensors(name) for name in several for tensors in (captured.reads, captured.writes)]
        groups = [tuple(dict.fromkeys(names)) for names in keys]
        return [names for names in dict.fromkeys(groups) if len(names) > 1]
    sites = {site.name: site for site in captured.sites}
    plan = Plan.of(
        {
            name: Scheme.FP32 if site.kind in _NO_STATIC_INT8 else Scheme.INT8
            for name, site in sites.items()
        }
    )
    mapping = build_qconfig_mapping(captured.addresses, sites, plan, QuantizationSettings())
    prepared = prepare(captured.traced, mapping, example)
    observed = [tuple(node.name for node in nodes) for nodes in observers_of(prepared).values()]
    return [tuple(dict.fromkeys(names)) for names in observed if len(set(names)) > 1]
