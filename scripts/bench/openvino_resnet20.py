"""OpenVINO on ResNet-20: does a mixed plan beat all-int8, and what does a candidate cost?

    python scripts/bench/openvino_resnet20.py --folder data/cifar10

One thread. Sites are raised from int8 to bf16 or fp32 in the order of what each alone gains in
output error on validation images, for its cost by the engine's counters; the first one, the first
two, and as many as are predicted to stay below the limit make the mixed plans. All of them are
then measured on test images, beside the uniform plans and all-int8 a second time: gains in signal
to noise ratio paired over the images, latencies as ratios to all-int8 in the same round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from report import Row, show
from torch import Tensor, nn

from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from experiments import resnet20

HIGHER = (Scheme.BF16, Scheme.FP32)
LIMIT = 1.1
"""Times the latency of all-int8, that a mixed plan may take."""

AIM = 1.05
"""The same, predicted: below the limit by what a prediction may be wrong."""

LEAST_COST = 0.002
"""Share of the latency of all-int8 below which costs are taken for equal."""

DECIBEL = 10.0 / np.log(10.0)

Floats = npt.NDArray[np.float64]
Result = TypeVar("Result")


class Subject:
    """ResNet-20, calibrated, on OpenVINO.

    Args:
        folder: Of weights and images.
        choosing: Images on which sites are ranked.
    """

    def __init__(self, folder: Path, choosing: Tensor) -> None:
        self.model = resnet20.model(str(folder))
        batches = [(inputs,) for inputs, _ in resnet20.calibration(str(folder))]
        captured = capture(self.model, batches[0])
        statistics = calibrate(captured, batches)
        settings = BuildSettings("openvino")
        example = batches[0]
        request = BuildRequest(self.model, captured, statistics, settings, example, example)
        self.backend, self.conversion_s = _timed(lambda: OpenVinoBackend(request))
        self.space = space_of(captured, self.backend)
        self.int8 = self.space.uniform(Scheme.INT8)
        self.gains = self._gains(choosing)

    def _gains(self, images: Tensor) -> Mapping[tuple[str, Scheme], float]:
        """Decibels that all-int8 gains when one knob is raised, by knob and scheme."""
        floor = self.noise(self.int8, images)[1].sum()
        single = [(knob.name, s) for knob in self.space.free for s in knob.schemes[1:]]
        errors = [self.noise(raised(self.space, {n: s}), images)[1].sum() for n, s in single]
        return {key: DECIBEL * np.log(floor / e) for key, e in zip(single, errors, strict=True)}

    def noise(self, plan: Plan, images: Tensor) -> tuple[Floats, Floats]:
        """Energy of each image's logits, and of their error."""
        module = self.backend.build(plan).module
        outputs = torch.cat([self.backend.run(module, (item,)) for item in images.split(64)])
        with torch.no_grad():
            expected = self.model(images)
        errors = (outputs - expected).double().square().sum(1)
        return expected.double().square().sum(1).numpy(), errors.numpy()


def space_of(captured: Capture, backend: OpenVinoBackend) -> SearchSpace:
    """A knob for every site that leads, with its followers."""
    leader: dict[str, str] = {}
    for site in captured.sites:
        leader[site.name] = leader[site.follows] if site.follows else site.name
    knobs = []
    for site in captured.sites:
        if leader[site.name] == site.name:
            names = tuple(name for name, first in leader.items() if first == site.name)
            schemes = (Scheme.INT8, *HIGHER)
            allowed = tuple(s for s in schemes if backend.support(site, s).value == "native")
            knobs.append(Knob(site.name, names, allowed))
    return SearchSpace(tuple(knobs))


def mixed_plans(subject: Subject, inputs: Tensor) -> Mapping[str, Plan]:
    """All-int8 plans with the most rewarding sites raised, for a batch."""
    space, int8 = subject.space, subject.int8
    table = subject.backend.costs(space, (inputs,), time.thread_time)
    base = table.predict(int8)
    rewards = []
    for (name, scheme), gain in subject.gains.items():
        cost = table.predict(raised(space, {name: scheme})) / base - 1.0
        rewards.append((gain / max(cost, LEAST_COST), name, scheme))
    chosen: dict[str, Scheme] = {}
    plans: dict[str, Plan] = {}
    for reward, name, scheme in sorted(rewards, reverse=True):
        trial = raised(space, {**chosen, name: scheme})
        if reward > 0.0 and name not in chosen and table.predict(trial) < AIM * base:
            chosen[name] = scheme
            if len(chosen) <= 2:
                plans[", ".join(f"{k} {v.value}" for k, v in chosen.items())] = trial
    plans[f"{len(chosen)} raised"] = raised(space, chosen)
    return plans


def raised(space: SearchSpace, choices: Mapping[str, Scheme]) -> Plan:
    """All int8 but for some knobs."""
    return space.plan({**space.choices(space.uniform(Scheme.INT8)), **choices})


def compare(
    subject: Subject, plans: Mapping[str, Plan], inputs: Tensor, images: Tensor
) -> Iterator[Row]:
    """Measure plans, the first of which is all int8, on images that chose none of them."""
    modules = [subject.backend.build(plan).module for plan in plans.values()]
    times = time_rounds(modules, (inputs,), rounds=100 if len(inputs) > 1 else 400)
    signal, base = subject.noise(subject.int8, images)
    for index, (name, plan) in enumerate(plans.items()):
        error = subject.noise(plan, images)[1]
        spread = base / base.mean() - error / error.mean()
        gain, stderr = DECIBEL * np.log(base.mean() / error.mean()), DECIBEL * spread.std()
        ratio, doubt = median(times[:, index] / times[:, 0])
        yield {
            "batch": len(inputs),
            "plan": name,
            "sites": ", ".join(f"{count} {scheme}" for scheme, count in _counts(plan)),
            "SQNR, dB": f"{DECIBEL * np.log(signal.mean() / error.mean()):.2f}",
            "over all int8, dB": f"{gain:.2f} ± {stderr / np.sqrt(len(base)):.2f}",
            "latency, ms": f"{1e3 * np.median(times[:, index]):.2f}",
            "over all int8": f"{ratio:.3f} ± {doubt:.3f}",
            "wins": "yes" if gain > 2 * stderr / np.sqrt(len(base)) and ratio <= LIMIT else "no",
        }


def time_rounds(modules: Sequence[nn.Module], inputs: tuple[Tensor], rounds: int) -> Floats:
    """Seconds of this thread for each module in each round, in an order drawn anew each time."""
    draw = np.random.default_rng(0)
    calls = 1 if len(inputs[0]) > 1 else 10
    times = np.zeros((rounds + 3, len(modules)))
    for row in times:
        for index in draw.permutation(len(modules)):
            started = time.thread_time()
            for _ in range(calls):
                modules[index](*inputs)
            row[index] = (time.thread_time() - started) / calls
    return times[3:]  # the first few warm up


def median(values: Floats) -> tuple[float, float]:
    """Median, and its standard error from the median absolute deviation."""
    middle = float(np.median(values))
    spread = 1.2533 * 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, spread / float(np.sqrt(len(values)))


PHASES = ("assemble", "compile twice", "read back", "evaluate", "engine alone")


def candidate_cost(subject: Subject, images: Tensor) -> Row:
    """Seconds of one all-int8 candidate by phase, and the share spent outside the engine."""
    rounds = [_one_candidate(subject, images.split(64)) for _ in range(5)]
    found = dict(zip(PHASES, np.median(rounds, axis=0).tolist(), strict=True))
    whole = sum(found.values()) - found["engine alone"]
    inside = found["compile twice"] + found["engine alone"]
    return {
        "conversion, once, s": f"{subject.conversion_s:.1f}",
        **{f"{name}, s": f"{value:.3f}" for name, value in found.items()},
        "outside the engine": f"{1.0 - inside / whole:.1%}",
    }


def _one_candidate(subject: Subject, batches: Sequence[Tensor]) -> tuple[float, ...]:
    """Seconds of each phase."""
    plan, backend = subject.int8, subject.backend
    (model, options), assemble = _timed(lambda: backend._assemble(plan))
    (compiled, _), load = _timed(lambda: backend._compile(plan, model, options))
    _, read = _timed(lambda: backend._compare(plan, compiled))
    module = backend.build(plan).module
    _, evaluate = _timed(lambda: [backend.run(module, (item,)) for item in batches])
    request = compiled.create_infer_request()
    arrays = [item.numpy() for item in batches]
    _, alone = _timed(lambda: [request.infer([item], share_inputs=True) for item in arrays])
    return assemble, load, read, evaluate, alone


def _counts(plan: Plan) -> list[tuple[str, int]]:
    schemes = [scheme.value for _, scheme in plan.assignment]
    return [(scheme, schemes.count(scheme)) for scheme in sorted(set(schemes), reverse=True)]


def _timed(function: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 1])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = str(arguments.folder)
    choosing = torch.cat([item for item, _ in resnet20.evaluation(folder, 256)])
    testing = torch.cat([item for item, _ in resnet20.heldout(folder, 500)])
    subject = Subject(arguments.folder, choosing)
    show("openvino: one candidate", [candidate_cost(subject, testing)], None)
    uniform = {f"all {s.value}": subject.space.uniform(s) for s in HIGHER}
    rows: list[Row] = []
    for batch in arguments.batches:
        inputs = testing[:batch]
        plans = {"all int8": subject.int8, "all int8 again": subject.int8, **uniform}
        rows += compare(subject, {**plans, **mixed_plans(subject, inputs)}, inputs, testing)
    show("openvino: mixed plans", rows, arguments.json)


if __name__ == "__main__":
    main()
