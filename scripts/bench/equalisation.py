"""All int8 with and without equalisation, by engine: accuracy, output error, speed.

    python scripts/bench/equalisation.py --folder data/cifar10 torch openvino onnxruntime

`as given` and `equalised` are all-int8 plans of one model (`model.equalise: never`, and `auto`,
which looks on 64 samples, once for all engines), each built by the engine and run over the held-out
images; SQNR is that of the outputs against the float model. `speed` is over the engine's rival
(eager fp32 torch), the median of interleaved pairs, one thread, the job's batch. Where `auto` finds
that nothing is gained, the model stays as given.

The streams of `ResNet-20, streams x200` are rescaled at random: every channel of every group is
multiplied by e^u where it is written, and divided by it where it is read, u uniform between -ln 200
and ln 200.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from report import Row, show  # noqa: E402
from torch import nn  # noqa: E402

from autoquant import metrics  # noqa: E402
from autoquant.core.build import BuildSettings  # noqa: E402
from autoquant.core.equalisation import Equalisation, Equalise  # noqa: E402
from autoquant.core.evaluation import Phase, Task  # noqa: E402
from autoquant.core.precision import Scheme  # noqa: E402
from autoquant.core.progress import Silent  # noqa: E402
from autoquant.job import Job, load_job  # noqa: E402
from autoquant.model.building import build_subject  # noqa: E402
from autoquant.model.equalisation.groups import find_groups  # noqa: E402
from autoquant.model.equalisation.rewrite import equalisation_of, rescaled  # noqa: E402
from autoquant.model.graph.capture import capture  # noqa: E402
from autoquant.model.subject import Subject  # noqa: E402
from autoquant.searching.measuring.evaluator import PlanEvaluator  # noqa: E402
from autoquant.searching.pair import uniform_plan  # noqa: E402
from autoquant.searching.preparing.equalising import few_statistics, find_equalisation  # noqa: E402
from autoquant.searching.preparing.preparation import prepare  # noqa: E402
from experiments import digits, minilm, resnet20  # noqa: E402

STREAMS = 200.0


def rescaled_streams(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """The same function with every channel that can be scaled far from the others."""
    captured = capture(model, (example,))
    groups = find_groups(captured, model, (example,))
    spread = np.log(STREAMS)
    scales = np.exp(np.random.default_rng(0).uniform(-spread, spread, groups.count))
    scales[0] = 1.0
    return rescaled(model, equalisation_of(groups, scales, model))


def resnet(model: nn.Module, folder: str, samples: int) -> Subject:
    """A ResNet-20 with images."""
    return build_subject(
        model,
        calibration=resnet20.calibration(folder),
        evaluation=resnet20.heldout(folder, samples),
        heldout=None,
        metric=metrics.accuracy,
    )


def digit(model: nn.Module) -> Subject:
    """A MobileNetV3-style network with digits."""
    data = digits.evaluation() + digits.heldout()
    return build_subject(
        model,
        calibration=digits.calibration(),
        evaluation=data,
        heldout=None,
        metric=metrics.accuracy,
    )


def encoder() -> Subject:
    """MiniLM with sentences; its score is the cosine to its own embeddings."""
    return build_subject(
        minilm.model(),
        calibration=minilm.calibration(),
        evaluation=minilm.heldout(),
        heldout=None,
        metric=minilm.similarity,
    )


def subjects(folder: str, samples: int) -> Mapping[str, Callable[[], Subject]]:
    """By name, what gives a network with its data."""

    def streams(model: nn.Module, example: torch.Tensor) -> nn.Module:
        return rescaled_streams(model, example)

    def plain() -> nn.Module:
        return resnet20.model(folder)

    return {
        "ResNet-20": lambda: resnet(plain(), folder, samples),
        "ResNet-20, outliers x64": lambda: resnet(resnet20.model(folder, 64.0), folder, samples),
        "ResNet-20, outliers x256": lambda: resnet(resnet20.model(folder, 256.0), folder, samples),
        "ResNet-20, streams x200": lambda: resnet(
            streams(plain(), resnet20.calibration(folder, 2)[0][0]), folder, samples
        ),
        "digits MobileNetV3": lambda: digit(digits.model()),
        "digits MobileNetV3, shortcut x64": lambda: digit(digits.model(outlier_scale=64.0)),
        "digits MobileNetV3, streams x200": lambda: digit(
            streams(digits.model(), digits.calibration()[0][0][:2])
        ),
        "MiniLM": encoder,
    }


def measure(subject: Subject, found: Equalisation, engine: str) -> dict[str, float]:
    """Accuracy in percent, SQNR and speed of all int8."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(_job(scratch, engine), subject, Silent(), equalisation=found)
    evaluator: PlanEvaluator = prepared.evaluator
    task = Task(0, uniform_plan(Scheme.INT8, prepared, Silent()))
    values: dict[str, Any] = {}
    for phase in (Phase.QUALITY, Phase.LATENCY):
        outcome = evaluator.run(phase, task)
        if outcome.failure is not None and phase is Phase.QUALITY:
            raise RuntimeError(outcome.failure)
        values |= outcome.measurements
    return {
        "accuracy": 100 * values["accuracy"].value,
        "drop": 100 * values["accuracy_drop"].value,
        "sqnr": values["sqnr_db"].value,
        "speed": values["speedup"].value if "speedup" in values else float("nan"),
    }


def settle(subject: Subject) -> Equalisation:
    """What a search would rescale: the same on every engine."""
    captured = subject.find_sites()
    wish = replace(subject, equalise=Equalise.AUTO)
    few = cache(partial(few_statistics, wish, captured))
    return find_equalisation(wish, captured, BuildSettings(), Told(), few, tries=True)


class Told(Silent):
    """Shows what is found."""

    def note(self, text: str) -> None:
        """Show a line."""
        print(text, file=sys.stderr, flush=True)


def rows_of(name: str, subject: Subject, engines: Sequence[str]) -> Iterator[Row]:
    """One network on some engines."""
    found = settle(subject)
    for engine in engines:
        given = measure(subject, Equalisation(), engine)
        other = measure(subject, found, engine) if found else None
        yield {
            "network": name,
            "engine": engine,
            "fp32": f"{given['accuracy'] + given['drop']:.2f}",
            "as given": f"{given['accuracy']:.2f}",
            "equalised": f"{other['accuracy']:.2f}" if other else "as given",
            "dB as given": f"{given['sqnr']:.1f}",
            "dB equalised": f"{other['sqnr']:.1f}" if other else "as given",
            "speed as given": f"{given['speed']:.2f}x",
            "speed equalised": f"{other['speed']:.2f}x" if other else "as given",
        }


def _job(scratch: str, engine: str) -> Job:
    chosen = f"backend={{name: {engine}, threads: 1, batch_size: 64}}"
    return load_job(ROOT / "experiments" / "digits.yaml", [f"output={scratch}/out", chosen])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="+")
    parser.add_argument("--folder", default="data/cifar10")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--only", help="networks whose name holds this")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, load in subjects(arguments.folder, arguments.samples).items():
        if arguments.only is None or arguments.only in name:
            for row in rows_of(name, load(), arguments.engines):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    show("equalisation", rows, arguments.output)


if __name__ == "__main__":
    main()
