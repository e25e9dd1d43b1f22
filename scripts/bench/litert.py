"""What plans of ResNet-20 keep and take on LiteRT's own kernels, and what a candidate costs.

    python scripts/bench/litert.py --folder data/cifar10
    python scripts/bench/litert.py --folder data/cifar10 --outlier-scale 256

One thread, and its own time: what other processes take does not count. Accuracy and SQNR are of
2,000 validation images; a candidate's cost of 500. Speed-ups are of batch 1: medians over pairs
that run in turn.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from report import show
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[2]))

from autoquant.backends.litert.backend import LiteRtBackend
from autoquant.backends.litert.operators import WEIGHTED, Weights
from autoquant.backends.litert.session import LiteRtModule, Session
from autoquant.backends.protocol import BuildRequest, Executable
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from autoquant.searching.measuring.latency import measure_latency
from experiments import resnet20

WIDENED = tuple(f"layer{stage}.1.{conv}" for stage in (1, 2, 3) for conv in ("conv1", "conv2"))
"""The convolutions between which the outlier channels are."""


class Timer:
    """Adds up the seconds inside LiteRT's `invoke`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count every session's calls of the engine."""
        invoke = Session.invoke

        def timed(session: Session) -> None:
            started = time.process_time()
            invoke(session)
            self.seconds += time.process_time() - started

        Session.invoke = timed  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Session.invoke = invoke  # type: ignore[method-assign]


@contextmanager
def wide_biases() -> Iterator[None]:
    """Let int16 operators have int64 biases, as converters write them."""
    table = cast("dict[str, Weights]", WEIGHTED)
    before = dict(table)
    table.update({name: replace(facts, narrow_bias=False) for name, facts in before.items()})
    try:
        yield
    finally:
        table.update(before)


def sqnr_db(expected: Tensor, found: Tensor) -> float:
    """Signal to noise of outputs, in dB."""
    noise = float((expected - found).square().sum())
    return 10 * math.log10(float(expected.square().sum()) / max(noise, 1e-20))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="the CIFAR-10 folder")
    parser.add_argument("--outlier-scale", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = resnet20.model(arguments.folder, arguments.outlier_scale)
    batches = resnet20.evaluation(arguments.folder)
    calibration = [(inputs,) for inputs, _ in resnet20.calibration(arguments.folder)]
    captured = capture(model, calibration[0])
    started = time.process_time()
    backend = LiteRtBackend(
        BuildRequest(
            model,
            captured,
            calibrate(captured, calibration),
            BuildSettings(backend="litert"),
            calibration[0],
            (batches[0][0][:1],),
        )
    )
    print(f"calibrate, import, convert: {time.process_time() - started:.1f} s")
    names = [site.name for site in captured.sites]
    int8 = dict.fromkeys(names, Scheme.INT8)
    plans = {
        "int8": Plan.of(int8),
        "int8, int16 in 6 convolutions": Plan.of(int8 | dict.fromkeys(WIDENED, Scheme.INT16)),
        "int8, fp32 in 6 convolutions": Plan.of(int8 | dict.fromkeys(WIDENED, Scheme.FP32)),
        "int16": Plan.of(dict.fromkeys(names, Scheme.INT16)),
        "fp16": Plan.of(dict.fromkeys(names, Scheme.FP16)),
        "fp32": Plan.of(dict.fromkeys(names, Scheme.FP32)),
    }
    built = {name: backend.build(plan) for name, plan in plans.items()}
    with wide_biases():
        built["int16, int64 biases"] = backend.build(plans["int16"])
        backend.run(built["int16, int64 biases"].module, (batches[0][0][:1],))
    rows = _quality(model, backend, built, batches)
    _add_speed(rows, model, backend, built, batches[0][0][:1], arguments.pairs)
    show("litert", rows, arguments.json)
    show("litert_candidate", _costs(backend, plans, batches, arguments.rounds), arguments.json)


def _quality(
    model: nn.Module,
    backend: LiteRtBackend,
    built: dict[str, Executable],
    batches: list[resnet20.Batch],
) -> list[dict[str, Any]]:
    labels = torch.cat([labels for _, labels in batches])
    expected = _outputs(backend, model, batches)
    rows: list[dict[str, Any]] = [
        {
            "plan": "eager fp32",
            "kind": Kind.MEASURED.value,
            "accuracy": _accuracy(expected, labels),
            "SQNR dB": math.inf,
        }
    ]
    for name, executable in built.items():
        outputs = _outputs(backend, executable.module, batches)
        rows.append(
            {
                "plan": name,
                "kind": executable.kind.value,
                "accuracy": _accuracy(outputs, labels),
                "SQNR dB": sqnr_db(expected, outputs),
            }
        )
    return rows


def _add_speed(
    rows: list[dict[str, Any]],
    model: nn.Module,
    backend: LiteRtBackend,
    built: dict[str, Executable],
    image: Tensor,
    pairs: int,
) -> None:
    own = built["fp32"].module
    rivals = {"over eager fp32": model, "over own fp32": own}
    for row in rows:
        if row["kind"] == Kind.EMULATED.value:
            row.update(dict.fromkeys(rivals, "not timed") | {"ms": "not timed"})
            continue
        module = model if row["plan"] == "eager fp32" else built[str(row["plan"])].module
        for what, rival in rivals.items():
            timed = measure_latency(
                lambda module=module: backend.run(module, (image,)),  # type: ignore[misc]
                lambda rival=rival: backend.run(rival, (image,)),  # type: ignore[misc]
                pairs=pairs,
            )
            row[what] = timed["speedup"].value
            row["ms"] = timed["latency_ms"].value


def _costs(
    backend: LiteRtBackend, plans: dict[str, Plan], batches: list[resnet20.Batch], rounds: int
) -> list[dict[str, Any]]:
    """Seconds of one candidate: 500 samples in batches of 64."""
    kept = [*batches[:7], (batches[7][0][:52], batches[7][1][:52])]
    rows: list[dict[str, Any]] = []
    for name, plan in plans.items():
        seconds: dict[str, list[float]] = {"build": [], "load": [], "evaluate": [], "engine": []}
        for _ in range(rounds):
            timer = Timer()
            marks = [time.process_time()]
            module = cast("LiteRtModule", backend.build(plan).module)
            marks.append(time.process_time())
            module.open_file(64)
            marks.append(time.process_time())
            with timer.watching():
                _outputs(backend, module, kept)
            marks.append(time.process_time())
            for key, start, end in zip(seconds, marks, marks[1:], strict=False):
                seconds[key].append(end - start)
            seconds["engine"].append(timer.seconds)
        found = {key: median(values) for key, values in seconds.items()}
        total = found["build"] + found["load"] + found["evaluate"]
        outside = 1 - (found["engine"] + found["load"]) / total
        rows.append({"plan": name, **found, "outside the engine": outside})
    return rows


def _outputs(backend: LiteRtBackend, module: nn.Module, batches: list[resnet20.Batch]) -> Tensor:
    return torch.cat([backend.run(module, (inputs,)) for inputs, _ in batches])


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()
