"""One architecture of the zoo through a whole search on one backend."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from zoo_models.subject import Subject, call

import autoquant
from autoquant.backends import cover
from autoquant.backends.onnxruntime import profile as onnx_profile
from autoquant.backends.onnxruntime.sessions import session_entries
from autoquant.backends.openvino import profile as openvino_profile
from autoquant.backends.torch_cpu import profile as torch_profile
from autoquant.core.progress import Advance, Silent
from autoquant.model.data.calling import Calling
from autoquant.model.data.trees import register_dataclasses
from autoquant.searching.build_context import BuildContext
from autoquant.searching.candidate import ResultCandidate

BACKENDS = ("torch", "openvino", "onnxruntime")
_BATCH = 4
_TIMED = 7
_PAIRS = 3

_OPTIONS: Mapping[str, Mapping[str, str]] = {"torch": {"engine": "x86"}}


def search_subject(backend: str, subject: Subject) -> dict[str, Any]:
    """Search few plans on few samples; export the best, and run the file by the engine alone.

    The metric is how near the outputs are to the float model's, as nothing else is known of a
    network with random weights.
    """
    _profile_few_plans()
    model = subject.model()
    calibration = [subject.batch(_BATCH, seed=10 + index) for index in range(2)]
    inputs = [subject.batch(_BATCH, seed=20 + index) for index in range(2)]
    evaluation = [
        ((item,) if isinstance(item, Tensor) else item, _targets(model, item)) for item in inputs
    ]
    stopwatch = _Stopwatch()
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        result = autoquant.search(
            model,
            calibration=calibration,
            evaluation=evaluation,
            metric=_agreement,
            backend={"name": backend, "pairs": _PAIRS, **_OPTIONS.get(backend, {})},
            space={"name": "zoo", "schemes": ["int8", "int8_dynamic", "bf16", "fp32"]},
            max_drop=None,
            effort="quick",
            batch_size=1,
            output=Path(folder) / "result",
            dynamic=subject.dynamic,
            capture="export",
            sensitivity={"samples": _BATCH},
            progress=stopwatch,
        )
        frontier = list(result.frontier)
        found = {
            "seconds": round(stopwatch.seconds, 1),
            "stages": stopwatch.stages,
            "sites": len(result.findings.sites),
            "tried": len(result.candidates),
            "failed": [item.failure.reason for item in result.candidates if item.failure],
            "frontier": len(frontier),
            "notices": list(result.findings.facts.notices),
        }
        if not frontier:
            return {**found, "failure": "no plan on the frontier"}
        return {**found, **_hand_out(frontier, subject, model, Path(folder))}


def warm_up() -> None:
    """Import in the parent of all processes what each would import, and export something once."""
    import onnxruntime  # noqa: F401
    import openvino  # noqa: F401

    example = (torch.zeros(2, 4),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(nn.Linear(4, 4).eval(), example).run_decompositions({})
        torch.onnx.export(program, dynamo=True, verbose=False)


def _profile_few_plans() -> None:
    """Fit the costs of ops to a handful of plans: the zoo asks what works, not how well."""
    torch_profile._PAIRS, torch_profile._SECONDS = 4, 20.0
    onnx_profile._ROUNDS, openvino_profile._ROUNDS = 1, 2
    cover._LEAST, cover._MOST = 2, 4


def _hand_out(
    frontier: Sequence[ResultCandidate], subject: Subject, model: nn.Module, folder: Path
) -> dict[str, Any]:
    """Time the fastest plan by a clock of its own; export it and run the file."""
    best = frontier[0]
    _capture_once()
    module = best.quantize(model)
    calling, flat = Calling.of(subject.batch(_BATCH, seed=31), model)
    path = autoquant.export(best, model, folder / "plan")
    with torch.no_grad():
        built = _leaves(calling.call(module, flat))
        loaded = _LOADERS[path.suffix](path)
        again = [loaded(*flat)[place] for place in range(len(built))]
    return {
        "own_speedup": _speedup(model, module, subject),
        "best": dict(best.plan.counts()),
        "best_sqnr_db": best.value("sqnr_db"),
        "searched_speedup": best.value("speedup"),
        "reloaded_error": max(map(_difference, again, built), default=0.0),
    }


def _capture_once() -> None:
    """Let `quantize` and `export` share one capture of the model."""
    BuildContext.capture_again = cache(BuildContext.capture_again)  # type: ignore[method-assign]


def _speedup(model: nn.Module, module: nn.Module, subject: Subject) -> float:
    """Median ratio of CPU times of one sample, float model and plan in turn."""
    inputs = subject.batch(1, seed=30)
    calling, flat = Calling.of(inputs, model)
    ratios = []
    with torch.no_grad():
        for _ in range(_TIMED):
            eager, plan = (
                _seconds(run)
                for run in (lambda: calling.call(model, flat), lambda: calling.call(module, flat))
            )
            ratios.append(eager / plan)
    return round(statistics.median(ratios[1:]), 3)


def _seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of one call, over enough calls for the clock."""
    count, spent = 0, 0.0
    started = time.process_time()
    while spent < 0.01:
        run()
        count += 1
        spent = time.process_time() - started
    return spent / count


class _Stopwatch(Silent):
    """CPU seconds since it was made, and of each stage."""

    def __init__(self) -> None:
        self._started = time.process_time()
        self.stages: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.process_time() - self._started

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        started = time.process_time()
        try:
            yield lambda steps: None
        finally:
            self.stages[title] = round(time.process_time() - started, 1)


def _targets(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return _first_float(call(model, inputs))


def _agreement(outputs: Any, targets: Tensor) -> Tensor:
    """Cosine of the first output with the float model's, for each sample."""
    rows = targets.shape[0]
    mine = _first_float(outputs).reshape(rows, -1)
    return nn.functional.cosine_similarity(mine, targets.reshape(rows, -1))


def _first_float(outputs: Any) -> Tensor:
    return next(item for item in _leaves(outputs) if item.is_floating_point())


def _leaves(outputs: Any) -> list[Tensor]:
    register_dataclasses(outputs)
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _difference(mine: Tensor, given: Tensor) -> float:
    if tuple(mine.shape) != tuple(given.shape):
        raise ValueError(f"the file gives {tuple(mine.shape)}, not {tuple(given.shape)}")
    largest = given.double().abs().max().clamp(min=1e-12)
    return float((mine.double() - given.double()).abs().max() / largest)


Run = Callable[..., list[Tensor]]


def _load_torchscript(path: Path) -> Run:
    module = torch.jit.load(path)
    return lambda *tensors: _leaves(module(*tensors))


def _load_openvino(path: Path) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    inside = json.loads(model.get_rt_info(["autoquant"]).astype(str))
    compiled = core.compile_model(model, "CPU", inside["openvino"])
    return lambda *tensors: [
        torch.from_numpy(value) for value in compiled([item.numpy() for item in tensors]).values()
    ]


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for key, value in session_entries().items():  # as in the line that export prints
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return lambda *tensors: [
        torch.from_numpy(value)
        for value in session.run(
            None, {name: item.numpy() for name, item in zip(names, tensors, strict=True)}
        )
    ]


_LOADERS: dict[str, Callable[[Path], Run]] = {
    ".ts": _load_torchscript,
    ".xml": _load_openvino,
    ".onnx": _load_onnx,
}

WORKS = {backend: partial(search_subject, backend) for backend in BACKENDS}
"""By backend, what finds one result."""
