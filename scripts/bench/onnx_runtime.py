"""ONNX Runtime on ResNet-20: what a candidate costs, and what plans give.

    python scripts/bench/onnx_runtime.py --folder data/cifar10

One thread, by its own clock. Speed-ups are medians over interleaved rounds, over torch's eager
fp32 and over ONNX Runtime's own fp32; SQNR and accuracy are of 500 validation images. Costs by the
cost table are compared with times of plans that it was not fitted to.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch
from report import Row, show
from torch import Tensor, nn

from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend
from autoquant.backends.onnxruntime.readback import Dump, read_schemes
from autoquant.backends.onnxruntime.sessions import open_and_dump, open_session
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from experiments import resnet20

SAMPLES = 500
EAGER = "torch eager fp32"


def milliseconds(function: Callable[[], object]) -> float:
    """Time of one call by this thread, which leaves out what other processes take."""
    started = time.thread_time()
    function()
    return (time.thread_time() - started) * 1000.0


def space_of(backend: OnnxRuntimeBackend) -> SearchSpace:
    """int8 or fp32 at every knob."""
    sites = backend.captured.sites
    knobs: dict[str, list[str]] = {}
    for site in sites:
        leader = site
        while leader.follows is not None:
            leader = next(item for item in sites if item.name == leader.follows)
        knobs.setdefault(leader.name, []).append(site.name)
    schemes = (Scheme.INT8, Scheme.FP32)
    return SearchSpace(tuple(Knob(name, tuple(of), schemes) for name, of in knobs.items()))


def drawn(space: SearchSpace, seed: int, share: float) -> Plan:
    """A plan with about this share of its knobs in int8."""
    draw = random.Random(seed)
    return space.plan(
        {knob.name: Scheme.INT8 if draw.random() < share else Scheme.FP32 for knob in space.knobs}
    )


def plans_of(space: SearchSpace) -> dict[str, Plan]:
    """The plans of the table."""

    def int8_but(*prefixes: str) -> Plan:
        return space.plan(
            {
                knob.name: Scheme.FP32 if knob.name.startswith(prefixes) else Scheme.INT8
                for knob in space.knobs
            }
        )

    return {
        "fp32": space.uniform(Scheme.FP32),
        "int8": space.uniform(Scheme.INT8),
        "int8, conv1 and linear fp32": int8_but("conv1", "linear"),
        "int8, layer3 fp32": int8_but("layer3"),
        "int8, layer1 fp32": int8_but("layer1"),
        "half of the ops int8, at random": drawn(space, 0, 0.5),
    }


def candidate_cost(
    backend: OnnxRuntimeBackend, plan: Plan, batches: list[tuple[Tensor, Tensor]], rounds: int
) -> Row:
    """Milliseconds by phase of one candidate, and the share that the engine does not take."""
    phases: dict[str, list[float]] = {}
    names = [site.name for site in backend.captured.sites]

    def clocked(name: str, function: Callable[[], object]) -> None:
        phases.setdefault(name, []).append(milliseconds(function))

    for _ in range(rounds):
        clocked("write the graph", lambda: backend.write(plan))
        written = backend.write(plan)
        clocked("open a session", lambda data=written: open_session(data, 1))  # type: ignore[misc]
        clocked("open and dump", lambda data=written: open_and_dump(data, 1))  # type: ignore[misc]
        session, dump = open_and_dump(written, 1)
        clocked(
            "read back",
            lambda found=dump: read_schemes(Dump(found), backend.units, names),  # type: ignore[misc]
        )
        clocked("build", lambda: backend.build(plan))
        module = backend.build(plan).module
        clocked("evaluate 500", lambda run=module: [run(x) for x, _ in batches])  # type: ignore[misc]
        fed = [session.feed((x,)) for x, _ in batches]
        clocked(
            "of it session.run",
            lambda run=session, data=fed: [run.run(None, item) for item in data],  # type: ignore[misc]
        )
    row: dict[str, str | float] = {name: median(times) for name, times in phases.items()}
    total = median(phases["build"]) + median(phases["evaluate 500"])
    engine = median(phases["open a session"]) + median(phases["of it session.run"])
    return {**row, "outside the engine": f"{max(total - engine, 0.0) / total:.0%}"}


def speeds(
    modules: Mapping[str, nn.Module], inputs: Tensor, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """By name: milliseconds, speed-up over eager fp32, speed-up over the engine's fp32."""
    times: dict[str, list[float]] = {name: [] for name in modules}
    calls = max(1, 16 // len(inputs))
    with torch.no_grad():
        for _ in range(rounds):
            for name, module in modules.items():
                times[name].append(
                    milliseconds(lambda run=module: [run(inputs) for _ in range(calls)]) / calls  # type: ignore[misc]
                )

    def over(rival: str, name: str) -> float:
        return median(a / b for a, b in zip(times[rival], times[name], strict=True))

    return {
        name: (median(found), over(EAGER, name), over("fp32", name))
        for name, found in times.items()
    }


def quality(
    module: nn.Module, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """SQNR of the outputs in dB, and accuracy."""
    with torch.no_grad():
        outputs = torch.cat([module(x) for x, _ in batches])
        expected = torch.cat([model(x) for x, _ in batches])
    targets = torch.cat([y for _, y in batches])
    noise = (outputs - expected).square().sum()
    sqnr = 10 * torch.log10(expected.square().sum() / noise.clamp_min(1e-30))
    return float(sqnr), float((outputs.argmax(1) == targets).float().mean())


def cost_model(backend: OnnxRuntimeBackend, space: SearchSpace, inputs: Tensor, rounds: int) -> Row:
    """How well the cost table foretells plans that it was not fitted to."""
    started = time.perf_counter()
    table = backend.costs(space, (inputs,), time.thread_time)
    seconds = time.perf_counter() - started
    if table is None:
        raise SystemExit("no cost table")
    plans = [drawn(space, 100 + seed, (seed % 8 + 1) / 9) for seed in range(24)]
    modules = [backend.build(plan).module for plan in plans]
    times: list[list[float]] = [[] for _ in plans]
    calls = max(1, 16 // len(inputs))
    for _ in range(rounds):
        for found, module in zip(times, modules, strict=True):
            found.append(
                milliseconds(lambda run=module: [run(inputs) for _ in range(calls)]) / calls  # type: ignore[misc]
            )
    measured = np.array([median(found) for found in times])
    foretold = np.array([table.predict(plan) for plan in plans])
    error = np.abs(foretold / measured - 1.0)
    ranks = [np.argsort(np.argsort(values)) for values in (foretold, measured)]
    return {
        "batch": len(inputs),
        "seconds to make it": seconds,
        "median error": f"{np.median(error):.1%}",
        "largest error": f"{error.max():.1%}",
        "rank correlation": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
    }


def linear_speeds(rounds: int) -> list[Row]:
    """By scheme, times of one linear layer of 384 inputs and 1,536 outputs."""
    model = nn.Sequential(nn.Linear(384, 1536)).eval()
    tokens = torch.randn(1024, 384, generator=torch.Generator().manual_seed(0))
    captured = capture(model, (tokens,))
    statistics = calibrate(captured, [(tokens,)])
    settings = BuildSettings(backend="onnxruntime")
    backend = OnnxRuntimeBackend(
        BuildRequest(model, captured, statistics, settings, (tokens,), (tokens,))
    )
    (site,) = captured.sites
    schemes = (Scheme.FP32, Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT_ONLY)
    modules = {
        scheme.value: backend.build(Plan.of({site.name: scheme})).module for scheme in schemes
    } | {EAGER: model}
    rows: dict[str, dict[str, str | float]] = {name: {"scheme": name} for name in modules}
    for count in (8, 128, 1024):
        for name, (milli, _, over_own) in speeds(modules, tokens[:count], rounds).items():
            rows[name] |= {f"{count} tokens, ms": milli, f"{count} tokens, over fp32": over_own}
    return list(rows.values())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="a file for the table of plans")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = str(arguments.folder)
    model = resnet20.model(folder)
    batches = resnet20.evaluation(folder, SAMPLES)
    inputs = [x for x, _ in resnet20.calibration(folder)]
    captured = capture(model, (inputs[0],))
    statistics = calibrate(captured, [(x,) for x in inputs])
    settings = BuildSettings(backend="onnxruntime")
    example = (inputs[0],)
    request = BuildRequest(model, captured, statistics, settings, example, example)
    started = time.perf_counter()
    backend = OnnxRuntimeBackend(request)
    print(f"convert the float model, once: {time.perf_counter() - started:.1f} s\n")
    space = space_of(backend)
    plans = plans_of(space)
    rows = [
        {"plan": name, **candidate_cost(backend, plans[name], batches, 5)}
        for name in ("int8", "half of the ops int8, at random")
    ]
    show("onnxruntime candidate, ms", rows, None)
    print()
    modules = {EAGER: model} | {name: backend.build(plan).module for name, plan in plans.items()}
    timed = {size: speeds(modules, inputs[0][:size], arguments.rounds) for size in (1, 64)}
    table: list[Row] = []
    for name, module in modules.items():
        sqnr, accuracy = quality(module, model, batches)
        row: dict[str, str | float] = {"plan": name}
        for size, found in timed.items():
            milli, over_eager, over_own = found[name]
            row |= {
                f"batch {size}, ms": milli,
                f"batch {size}, over eager": over_eager,
                f"batch {size}, over its fp32": over_own,
            }
        row |= {"SQNR, dB": "" if module is model else f"{sqnr:.1f}", "accuracy": f"{accuracy:.1%}"}
        table.append(row)
    show("onnxruntime", table, arguments.json)
    print()
    costs = [cost_model(backend, space, inputs[0][:size], 7) for size in (1, 64)]
    show("onnxruntime cost table", costs, None)
    print()
    show("onnxruntime linear", linear_speeds(4 * arguments.rounds), None)


if __name__ == "__main__":
    main()
