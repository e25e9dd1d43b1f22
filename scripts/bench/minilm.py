"""The sentence encoder on several backends: uniform plans, and plans that a search found.

    python scripts/bench/minilm.py torch openvino onnxruntime --plan out/minilm/plans/17.json

Linear layers alone take the scheme; similarity is on the evaluation sentences, speed-up over eager
fp32 in turn with it, on one thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.evaluation import Phase, Task
from autoquant.core.plan import Plan, load_plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.job import load_job
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.recipes import JobRecipe
from autoquant.searching.measuring.evaluator import Calibrated, MeasurementSettings

JOB = Path(__file__).parents[2] / "experiments" / "minilm.yaml"
SCHEMES = (Scheme.FP32, Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.FP16, Scheme.BF16)
ENGINE = "x86"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backends", nargs="+")
    parser.add_argument("--plan", type=Path, action="append", default=[])
    parser.add_argument("--batch", type=int, action="append", default=[])
    parser.add_argument("--capture", default="export")
    parser.add_argument("--pairs", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = JobRecipe(load_job(JOB))()
    captured = capture(subject.model, subject.example, how=options.capture)
    statistics = calibrate(captured, [batch.inputs for batch in subject.calibration])
    print("| backend | plan | cosine | SQNR, dB | size, MB | batch | speed-up | latency, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.backends:
        own = {"engine": ENGINE} if name == "torch" else {}
        build = BuildSettings(backend=name, capture=options.capture, options=own)
        plans = uniform_plans(captured, build) | {
            str(path): load_plan(path) for path in options.plan
        }
        for batch in options.batch or [1, 16]:
            settings = MeasurementSettings(build, latency_batch=batch, latency_pairs=options.pairs)
            evaluator = Calibrated(subject, captured, statistics, settings).evaluator
            for label, plan in plans.items():
                quality = evaluator.run(Phase.QUALITY, Task(0, plan))
                timed = evaluator.run(Phase.LATENCY, Task(0, plan))
                failure = quality.failure or timed.failure
                if failure is not None:
                    print(f"| {name} | {label} | {failure.reason} |")
                    continue
                found = {**quality.measurements, **timed.measurements}
                speedup = found["speedup"]
                print(
                    f"| {name} | {label} | {found['accuracy'].value:.4f} "
                    f"| {found['sqnr_db'].value:.1f} | {found['size_bytes'].value / 1e6:.1f} "
                    f"| {batch} | {speedup.value:.2f} ± {speedup.stderr or 0.0:.2f} "
                    f"| {found['latency_ms'].value:.1f} |",
                    flush=True,
                )


def uniform_plans(captured: Capture, build: BuildSettings) -> dict[str, Plan]:
    """A plan for each scheme that the backend runs natively at every linear layer."""
    support = load_target(build.backend).site_support
    linear = [site for site in captured.sites if site.kind is OpKind.LINEAR]
    return {
        scheme.value: Plan.of(
            {site.name: Scheme.FP32 for site in captured.sites}
            | {site.name: scheme for site in linear}
        )
        for scheme in SCHEMES
        if all(support(build, site, scheme) is Support.NATIVE for site in linear)
    }


if __name__ == "__main__":
    main()
