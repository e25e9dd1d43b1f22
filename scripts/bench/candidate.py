"""What one candidate costs, by phase, against the bare forward and against the naive flow.

    python scripts/bench/candidate.py --folder data/cifar10

ResNet-20, 256 calibration and 2,000 evaluation images, one thread, all-int8. The naive flow is
torch's own prepare, calibrate, convert and evaluate; rounds of all flows are interleaved.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from report import Row, show
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Candidate
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.job import load_job
from autoquant.model.recipes import JobRecipe
from autoquant.searching.candidate import ResultCandidate
from autoquant.searching.files import context_of
from autoquant.searching.preparing.preparation import prepare

JOB = Path(__file__).parents[2] / "experiments" / "resnet20_cifar10.yaml"


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = arguments.folder.resolve()
    job = load_job(
        JOB,
        [
            f"model.arguments.folder={folder}",
            f"data.arguments.folder={folder}",
            "backend.engine=onednn",
        ],
    )
    subject = JobRecipe(job)()
    prepared = prepare(job, subject, Silent())
    plan = prepared.space.uniform(Scheme.INT8)
    mapping = ResultCandidate(Candidate(0, plan, "bench"), context_of(prepared)).qconfig_mapping()
    evaluator = prepared.evaluator
    evaluator.run(Phase.QUALITY, Task(0, plan))
    phases: dict[str, list[float]] = {"build": [], "quality": []}
    bare: list[float] = []
    naive: list[float] = []

    def forward(module: torch.nn.Module) -> None:
        with using_engine("onednn"), torch.no_grad():
            for batch in subject.evaluation:
                module(*batch.inputs)

    def run_naive() -> None:
        with using_engine("onednn"), torch.no_grad():
            model = prepare_fx(copy.deepcopy(subject.model), mapping, subject.example)
            for batch in subject.calibration:
                model(*batch.inputs)
            forward(convert_fx(model))

    converted = ResultCandidate(Candidate(0, plan, "bench"), context_of(prepared)).quantize(
        subject.model
    )
    for _ in range(arguments.rounds):
        evaluator.forget()
        outcome = evaluator.run(Phase.QUALITY, Task(0, plan))
        for name, values in phases.items():
            values.append(outcome.seconds[name])
        bare.append(timed(lambda: forward(converted)))
        naive.append(timed(run_naive))
    build, quality = median(phases["build"]), median(phases["quality"])
    rows: list[Row] = [
        {"flow": "bare forward of the converted model", "s": median(bare), "of bare": 1.0},
        {"flow": "candidate: build", "s": build, "of bare": build / median(bare)},
        {"flow": "candidate: quality", "s": quality, "of bare": quality / median(bare)},
        {
            "flow": "candidate: both",
            "s": build + quality,
            "of bare": (build + quality) / median(bare),
        },
        {
            "flow": "naive: prepare, calibrate, convert, evaluate",
            "s": median(naive),
            "of bare": median(naive) / median(bare),
        },
    ]
    show("candidate", rows, arguments.json)


if __name__ == "__main__":
    main()
