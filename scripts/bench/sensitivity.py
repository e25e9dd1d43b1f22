"""What sensitivity costs by each method, and how well the cheap ones rank.

    python scripts/bench/sensitivity.py --folder data/cifar10

One row for each model and scheme: rank correlation (Spearman, over knobs) of gradient and of
weights-only with exact, by part. One row for each model: time of each method as a multiple of a
plain float forward over the same samples, and of exact over naive, which runs the whole network
for each row. CPU time of one thread; gradient and forward are interleaved, medians are shown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from models import (
    DeepNet,
    outlier_digits,
    outlier_encoder,
    outlier_resnet20,
    sequences,
    tiny_encoder,
)
from report import Row, show
from torch import Tensor, nn

from autoquant.backends.torch_cpu.support import site_support
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.job import SpaceRules
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch
from autoquant.model.data.outputs import OutputWeights
from autoquant.model.graph.capture import capture
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.preparing.space import bind_space
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.gradient import measure_gradient, measure_weights
from autoquant.searching.ranking.marks import mark
from autoquant.searching.ranking.output_error import FloatOutputs, OutputError
from autoquant.searching.ranking.rounded_run import RoundedRun, Shared
from autoquant.searching.ranking.trials import Question, Trial, by_knob

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments import digits, resnet20

ENGINE = "fbgemm"
SCHEMES = (Scheme.INT8, Scheme.INT16, Scheme.INT16_WEIGHT, Scheme.FP16, Scheme.BF16, Scheme.FP32)
CHUNK = 32
Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Subject:
    """A model with its data."""

    name: str
    model: nn.Module
    calibration: Batches
    evaluation: Batches


def subjects(folder: Path | None) -> Iterator[Subject]:
    """Give the models of the benchmark."""
    model = digits.model()
    data = (digits.calibration(), digits.evaluation())
    yield Subject("digits", model, *data)
    yield Subject("digits, outliers", outlier_digits(model), *data)
    model = tiny_encoder()
    data = ([sequences(64, seed) for seed in range(4)], [sequences(64, 50), sequences(64, 51)])
    yield Subject("encoder", model, *data)
    yield Subject("encoder, outliers", outlier_encoder(model), *data)
    if folder is None:
        print("ResNet-20 is skipped: --folder names no folder with its weights and images")
        return
    model = resnet20.model(str(folder))
    data = (resnet20.calibration(str(folder)), resnet20.evaluation(str(folder), 512))
    yield Subject("ResNet-20", model, *data)
    yield Subject("ResNet-20, outliers", outlier_resnet20(model), *data)


def deep_subject(depth: int) -> Subject:
    """Give a narrow network of many sites."""
    torch.manual_seed(0)
    model = DeepNet(depth).eval()
    batch = (torch.randn(64, 16, 16, 16), torch.zeros(64))
    return Subject(f"deep, {depth} layers", model, [batch], [batch, batch])


def ask(subject: Subject, samples: int) -> Question:
    """Capture and calibrate a model, with every scheme at every site."""
    example = (subject.calibration[0][0],)
    captured = capture(subject.model, example, how="export")
    statistics = calibrate(captured, [(inputs,) for inputs, _ in subject.calibration])
    rules = SpaceRules(schemes=SCHEMES)
    bound = bind_space(
        rules,
        captured.sites,
        captured.agreements,
        partial(site_support, ENGINE),
        real_kernels_only=False,
    )
    rounding = SchemeRounding(TensorRanges(captured, statistics, BuildSettings()))
    batches = [Batch((inputs,)) for inputs, _ in subject.evaluation]
    return Question(captured, bound.space, rounding, batches, samples)


def seconds(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def run_float(question: Question) -> None:
    """Run the float model over the samples, without gradients."""
    with torch.no_grad():
        for batch in question.chunks(1 << 40):
            question.captured.graph(*batch.inputs)


def run_naively(question: Question, trials: Sequence[Trial]) -> None:
    """Measure rows by running the whole network for each."""
    marked = mark(question.captured, question.space)
    run = RoundedRun(marked, question.rounding)
    with torch.no_grad():
        for batch in question.chunks(1 << 40):
            values = run.run_float(batch.inputs)
            expected = FloatOutputs(values[marked.nodes[-1]], batch)
            for trial in trials:
                choices = dict.fromkeys(trial.knob.sites, (trial.scheme, trial.part))
                nodes = [n for n in marked.nodes if n.op not in ("placeholder", "get_attr")]
                found = run.run_again(values, nodes, choices, Shared())
                OutputError(OutputWeights()).add(expected, found)


def rank_correlation(
    table: SensitivityTable, exact: SensitivityTable, scheme: Scheme, part: Part
) -> float | str:
    """Spearman's correlation over knobs, of those that both tables have."""
    known = exact.by_key
    pairs = [
        (row.noise, known[row.key].noise)
        for row in table.rows
        if row.scheme is scheme and row.part is part and row.key in known
    ]
    ranks = pd.DataFrame(pairs).rank()
    if len(pairs) < 3 or (ranks.nunique() == 1).any():
        return "-"
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def correlations(name: str, question: Question, exact: SensitivityTable) -> Iterator[Row]:
    """One row for each scheme."""
    gradient, weights = measure_gradient(question), measure_weights(question)
    for scheme in question.space.schemes:
        if scheme is not Scheme.FP32:
            yield {
                "model": name,
                "scheme": scheme.value,
                **{
                    f"gradient, {part.value}": rank_correlation(gradient, exact, scheme, part)
                    for part in Part
                },
                "weights only, both": rank_correlation(weights, exact, scheme, Part.BOTH),
                "weights only, weight": rank_correlation(weights, exact, scheme, Part.WEIGHT),
            }


def gradient_forwards(question: Question, rounds: int) -> tuple[float, float]:
    """CPU seconds of a float forward, and the gradient's as a multiple of it."""
    pairs = [
        (
            seconds(lambda: run_float(question)),
            seconds(lambda: measure_gradient(question)),
        )
        for _ in range(rounds + 1)
    ][1:]
    return median(before for before, _ in pairs), median(after / before for before, after in pairs)


def measure_in_turns(question: Question, turns: int = 4) -> tuple[float, float, SensitivityTable]:
    """CPU seconds of a row exactly and naively, and the exact table; a part of the knobs a turn."""
    knobs = list(by_knob(question.trials()).values())
    exact, naive = 0.0, 0.0
    tables: list[SensitivityTable] = []
    for turn in range(turns):
        trials = [trial for knob in knobs[turn::turns] for trial in knob]
        exact += seconds(lambda: tables.append(measure_exact(question, trials=trials)))  # noqa: B023
        naive += seconds(lambda: run_naively(question, trials))  # noqa: B023
    rows = tuple(row for table in tables for row in table.rows)
    return exact / len(rows), naive / len(rows), replace(tables[0], rows=rows)


def times(name: str, question: Question, rounds: int) -> tuple[Row, SensitivityTable]:
    """Times of all methods, and the exact table."""
    forward, gradient = gradient_forwards(question, rounds)
    exact, naive, table = measure_in_turns(question)
    forward = median([forward, *(seconds(lambda: run_float(question)) for _ in range(3))])
    row: Row = {
        "model": name,
        "sites": len(question.captured.sites),
        "rows": len(question.trials()),
        "float forward, s": forward,
        "gradient, forwards": gradient,
        "weights only, forwards": seconds(lambda: measure_weights(question)) / forward,
        "exact, forwards per row": exact / forward,
        "naive, forwards per row": naive / forward,
        "exact / naive": exact / naive,
    }
    return row, table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="the CIFAR-10 folder; without: no ResNet-20")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--depth", type=int, default=300, help="layers of the deep network")
    parser.add_argument("--only", help="models whose name holds this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    costs: list[Row] = []
    ranks: list[Row] = []
    for subject in subjects(arguments.folder):
        if arguments.only and arguments.only not in subject.name:
            continue
        question = ask(subject, arguments.samples)
        row, exact = times(subject.name, question, arguments.rounds)
        costs.append(row)
        ranks += correlations(subject.name, question, exact)
    show("sensitivity ranks", ranks, None)
    show("sensitivity times", costs, None)
    for depth in (arguments.depth // 10, arguments.depth):
        question = ask(deep_subject(depth), arguments.samples)
        forward, gradient = gradient_forwards(question, arguments.rounds)
        sites = len(question.captured.sites)
        print(f"{sites} sites: gradient takes {gradient:.1f} forwards of {forward:.3f} s")
    if arguments.json is not None:
        show("sensitivity", [*ranks, *costs], arguments.json)


if __name__ == "__main__":
    main()
