"""OpenVINO on ResNet-20: what a candidate costs, and whether a mixed plan beats all-int8.

    python scripts/bench/openvino_resnet20.py --folder data/cifar10

One thread. Output error is the signal to noise ratio of the engine's own logits over the float
model's, on validation images. Latencies are ratios to the all-int8 plan, in interleaved pairs.
Mixed plans: random ones and ladders that raise the sites in the order of what raising each alone
gains. The plans that count are those whose predicted latency is least for what they gain, by the
cost table; they are measured.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from report import Row, show
from torch import Tensor

from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import BackendError
from autoquant.evaluate.latency import measure_latency
from autoquant.model.calibration import calibrate
from autoquant.model.capture import Capture, capture
from experiments import resnet20

SCHEMES = (Scheme.INT8, Scheme.BF16, Scheme.FP32)
Result = TypeVar("Result")
PAIRS = {1: 60, 64: 16}
ALLOWED = 1.1


class Subject:
    """ResNet-20, calibrated, on OpenVINO.

    Args:
        folder: Of weights and images.
        samples: Validation images.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        self.model = resnet20.model(str(folder))
        batches = [(inputs,) for inputs, _ in resnet20.calibration(str(folder))]
        self.images = torch.cat([item for item, _ in resnet20.evaluation(str(folder), samples)])
        self.captured = capture(self.model, batches[0])
        statistics = calibrate(self.captured, batches)
        started = time.perf_counter()
        self.backend = OpenVinoBackend(
            BuildRequest(
                self.model,
                self.captured,
                statistics,
                BuildSettings("openvino"),
                batches[0],
                (self.images[:1],),
            )
        )
        self.conversion_s = time.perf_counter() - started
        with torch.no_grad():
            self.logits = self.model(self.images)
        self.space = space_of(self.captured, self.backend)
        self._sqnr: dict[Plan, float] = {}

    def outputs(self, plan: Plan) -> Tensor:
        """Logits of the engine, by batches of 64."""
        module = self.backend.build(plan).module
        parts = [self.backend.run(module, (item,)) for item in self.images.split(64)]
        return torch.cat(parts)

    def sqnr(self, plan: Plan) -> float:
        """Signal to noise ratio of a plan's logits over the float model's, in decibels."""
        if plan not in self._sqnr:
            noise = (self.outputs(plan) - self.logits).square().sum()
            self._sqnr[plan] = float(10.0 * torch.log10(self.logits.square().sum() / noise))
        return self._sqnr[plan]


def space_of(captured: Capture, backend: OpenVinoBackend) -> SearchSpace:
    """A knob for every site that leads, with its followers."""
    leader: dict[str, str] = {}
    for site in captured.sites:
        leader[site.name] = leader[site.follows] if site.follows else site.name
    knobs = []
    for site in captured.sites:
        if leader[site.name] == site.name:
            names = tuple(name for name, first in leader.items() if first == site.name)
            allowed = [s for s in SCHEMES if backend.support(site, s).value == "native"]
            knobs.append(Knob(site.name, names, tuple(allowed)))
    return SearchSpace(tuple(knobs))


def candidate_cost(subject: Subject, rounds: int = 5) -> Row:
    """Seconds of one all-int8 candidate by phase, and the share spent outside the engine."""
    plan = subject.space.uniform(Scheme.INT8)
    backend = subject.backend
    parts: dict[str, list[float]] = {"assemble": [], "compile twice": [], "read back": []}
    evaluation: dict[str, list[float]] = {"through the module": [], "engine alone": []}

    def one_round() -> None:
        model, options = _timed(parts["assemble"], lambda: backend._assemble(plan))
        compiled = _timed(parts["compile twice"], lambda: backend._compile(plan, model, options))
        _timed(parts["read back"], lambda: backend._compare(plan, compiled))
        module = backend.build(plan).module
        batches = subject.images[:500].split(64)
        _timed(
            evaluation["through the module"],
            lambda: [backend.run(module, (item,)) for item in batches],
        )
        request = compiled.create_infer_request()
        arrays = [item.numpy() for item in batches]
        _timed(
            evaluation["engine alone"],
            lambda: [request.infer([item], share_inputs=True) for item in arrays],
        )
    for _ in range(rounds):
        one_round()
    seconds = {name: float(np.median(found)) for name, found in {**parts, **evaluation}.items()}
    whole = sum(seconds[name] for name in (*parts, "through the module"))
    inside = seconds["compile twice"] + seconds["engine alone"]
    return {
        "conversion, once, s": subject.conversion_s,
        **{f"{name}, s": value for name, value in seconds.items()},
        "outside the engine": f"{1.0 - inside / whole:.1%}",
    }


def _timed(kept: list[float], function: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = function()
    kept.append(time.perf_counter() - started)
    return result


def latency_ratio(
    subject: Subject, plan: Plan, rival: Plan, images: Tensor, pairs: int
) -> tuple[float, float]:
    """Latency of a plan over that of another, interleaved, with its standard error."""
    run = subject.backend.run
    modules = [subject.backend.build(item).module for item in (rival, plan)]
    found = measure_latency(
        lambda: run(modules[0], (images,)),
        lambda: run(modules[1], (images,)),
        pairs=pairs,
        clock=time.perf_counter,
    )["speedup"]
    return found.value, found.stderr or 0.0


def ladders(subject: Subject) -> Iterator[Plan]:
    """All-int8 plans whose k most rewarding sites are raised, for each higher scheme and k."""
    space = subject.space
    int8 = space.choices(space.uniform(Scheme.INT8))
    floor = subject.sqnr(space.plan(int8))
    for scheme in (Scheme.BF16, Scheme.FP32):
        gains = {}
        for knob in space.free:
            plan = space.plan({**int8, knob.name: scheme})
            gains[knob.name] = subject.sqnr(plan) - floor
        order = sorted(gains, key=gains.__getitem__, reverse=True)
        for count in range(1, len(order) + 1):
            yield space.plan({**int8, **dict.fromkeys(order[:count], scheme)})


def mixed_plans(subject: Subject, count: int) -> Iterator[Plan]:
    """Random plans, most of whose knobs stay in int8."""
    draw = random.Random(0)
    for _ in range(count):
        raised = draw.random() * 0.5
        choices = {
            knob.name: draw.choice(knob.schemes) if draw.random() < raised else knob.schemes[0]
            for knob in subject.space.knobs
        }
        yield subject.space.plan(choices)


def frontier(plans: Sequence[Plan], table: CostTable, subject: Subject) -> list[Plan]:
    """Plans that no cheaper one (by prediction) matches in output error."""
    kept: list[Plan] = []
    for plan in sorted(plans, key=table.predict):
        if not kept or subject.sqnr(plan) > subject.sqnr(kept[-1]):
            kept.append(plan)
    return kept


def compare(subject: Subject, batch: int, plans: Sequence[Plan]) -> Iterator[Row]:
    """Uniform plans, and mixed ones near the latency of all-int8, measured."""
    images = subject.images[:batch]
    space, pairs = subject.space, PAIRS.get(batch, 20)
    int8 = space.uniform(Scheme.INT8)
    started = time.perf_counter()
    table = subject.backend.costs(space, (images,), time.perf_counter)
    profile_s = time.perf_counter() - started
    drawn = list(mixed_plans(subject, 16))
    ratios = [latency_ratio(subject, plan, int8, images, pairs)[0] for plan in drawn]
    predicted = [table.predict(plan) for plan in drawn]
    ranks = np.corrcoef(_ranks(predicted), _ranks(ratios))[0, 1]
    print(
        f"batch {batch}: profile {profile_s:.1f} s; held-out mixed plans: Spearman {ranks:.3f}, "
        f"median error {_median_error(predicted, ratios, table.predict(int8)):.1%}"
    )
    near = [
        plan
        for plan in frontier([*plans, *drawn], table, subject)
        if table.predict(plan) < 1.2 * ALLOWED * table.predict(int8)
    ]
    shown = {"all int8": int8, "all bf16": space.uniform(Scheme.BF16)}
    shown["all fp32"] = space.uniform(Scheme.FP32)
    shown |= {f"mixed {index}": plan for index, plan in enumerate(near) if plan != int8}
    for name, plan in shown.items():
        ratio, stderr = latency_ratio(subject, plan, int8, images, pairs)
        yield {
            "batch": batch,
            "plan": name,
            "sites": str(plan.counts()),
            "SQNR, dB": round(subject.sqnr(plan), 2),
            "latency / all int8": f"{ratio:.3f} ± {stderr:.3f}",
            "predicted": f"{table.predict(plan) / table.predict(int8):.3f}",
        }


def _ranks(values: Sequence[float]) -> Sequence[float]:
    ranks: list[float] = np.argsort(np.argsort(values)).astype(float).tolist()
    return ranks


def _median_error(predicted: Sequence[float], ratios: Sequence[float], base: float) -> float:
    return float(np.median(np.abs(np.array(predicted) / base / np.array(ratios) - 1.0)))


def buildable(subject: Subject, plans: Iterator[Plan]) -> list[Plan]:
    """Plans that the engine follows."""
    kept = []
    for plan in plans:
        try:
            subject.sqnr(plan)
        except BackendError as error:  # noqa: PERF203
            print(f"refused: {error.message}")
        else:
            kept.append(plan)
    return kept


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject(arguments.folder, arguments.samples)
    show("openvino: one candidate", [candidate_cost(subject)], None)
    plans = buildable(subject, ladders(subject))
    rows = [row for batch in arguments.batches for row in compare(subject, batch, plans)]
    show("openvino: mixed plans", rows, arguments.json)


if __name__ == "__main__":
    main()
