"""Sensitivity that the engine itself measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, Procedure, SensitivityRow, SensitivityTable
from autoquant.core.space import SearchSpace
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch
from autoquant.model.graph.capture import capture
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.ranking.on_engine import engine_trials, measure_on_engine, precise_plan
from autoquant.searching.ranking.output_error import FloatOutputs
from autoquant.searching.ranking.sensitivity import Course, count_steps, measure_sensitivity
from autoquant.searching.ranking.trials import Question
from tests.networks import seeded
from tests.spaces import full_space
from tests.untraceable import TokenNet, tokens

MODEL = seeded(TokenNet)
SCHEMES = (Scheme.INT8, Scheme.FP16, Scheme.BF16, Scheme.FP32)
BATCHES = tuple(Batch((tokens(8, seed),)) for seed in range(2))


@pytest.fixture(scope="module")
def asked() -> tuple[Question, Backend]:
    example = BATCHES[0].inputs
    captured = capture(MODEL, example, how="export")
    statistics = calibrate(captured, [batch.inputs for batch in BATCHES])
    settings = BuildSettings(options={"engine": "fbgemm"}, capture="export")
    request = BuildRequest(MODEL, captured, statistics, settings, example, example)
    backend = load_target("torch").open_backend(request)
    rounding = SchemeRounding(TensorRanges(captured, statistics, settings))
    space = SearchSpace(
        tuple(
            replace(knob, schemes=tuple(s for s in knob.schemes if s in SCHEMES))
            for knob in full_space(captured, backend).knobs
        )
    )
    return Question(captured, space, rounding, BATCHES, 12), backend


@pytest.fixture(scope="module")
def measured(asked: tuple[Question, Backend]) -> tuple[SensitivityTable, list[str]]:
    """The whole table, and the knobs of its rows in the order in which they were to be kept."""
    question, backend = asked
    kept: list[str] = []

    def keep(rows: Sequence[SensitivityRow]) -> None:
        kept.extend(row.knob for row in rows)

    return measure_on_engine(question, backend, MODEL, keep=keep), kept


def varying(question: Question, *names: str) -> Question:
    """The question of a few knobs, all others in fp32."""
    knobs = (
        knob if knob.name in names else replace(knob, schemes=(Scheme.FP32,))
        for knob in question.space.knobs
    )
    return replace(question, space=SearchSpace(tuple(knobs)))


@pytest.mark.slow
def test_every_row_is_the_noise_of_the_plan_that_the_engine_ran(
    asked: tuple[Question, Backend], measured: tuple[SensitivityTable, list[str]]
) -> None:
    question, backend = asked
    table, _ = measured
    assert table.samples == 12
    assert {row.part for row in table.rows} == {Part.BOTH}
    assert {row.method for row in table.rows} == {Method.ENGINE}
    choices = question.space.choices(precise_plan(question.space))
    batch = torch.cat([BATCHES[0].inputs[0], BATCHES[1].inputs[0][:4]])
    with torch.no_grad():
        expected = FloatOutputs(MODEL(batch), Batch((batch,)))
    for row in (table.rows[0], table.rows[7], table.rows[-1]):
        plan = question.space.plan({**choices, row.knob: row.scheme})
        found = torch.cat(
            [
                backend.run(backend.build(plan).module, (part,))  # as it was batched there
                for part in (batch[:8], batch[8:])
            ]
        )
        noise = float(((found.double() - expected.values) ** 2).sum() / (expected.values**2).sum())
        assert row.noise == pytest.approx(noise, rel=1e-6)
    losses = table.losses()
    assert losses["head", Scheme.INT8] > losses["head", Scheme.FP16]


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on(
    asked: tuple[Question, Backend], measured: tuple[SensitivityTable, list[str]]
) -> None:
    question, backend = asked
    whole, kept = measured
    first = replace(whole.rows[0], noise=123.0)
    known = {row.key: row for row in (first, *whole.rows[1:-2])}
    again = measure_on_engine(question, backend, MODEL, known=known)
    assert kept == [row.knob for row in whole.rows]
    assert again.rows[0].noise == 123.0
    assert [row.key for row in again.rows] == [trial.key for trial in engine_trials(question)]
    assert [row.noise for row in again.rows[-2:]] == [row.noise for row in whole.rows[-2:]]


@pytest.mark.slow
def test_a_knob_without_fp32_is_measured_around_its_most_precise_scheme(
    asked: tuple[Question, Backend],
) -> None:
    question, backend = asked
    question = varying(question, "head")
    narrow = SearchSpace(
        tuple(
            replace(knob, schemes=tuple(s for s in knob.schemes if s is not Scheme.FP32))
            if knob.name == "head"
            else knob
            for knob in question.space.knobs
        )
    )
    assert precise_plan(narrow)["head"] is Scheme.BF16
    table = measure_on_engine(replace(question, space=narrow), backend, MODEL)
    assert table.losses()["head", Scheme.BF16] == pytest.approx(0.0, abs=1e-12)  # order of sums


@pytest.mark.slow
def test_the_procedure_engine_opens_the_backend_and_counts_its_rows(
    asked: tuple[Question, Backend],
) -> None:
    question, backend = asked
    question = varying(question, *(knob.name for knob in question.space.knobs[:3]))
    steps: list[int] = []
    course = Course(known={}, progress=steps.append, engine=lambda: (backend, MODEL))
    table = measure_sensitivity(Procedure.ENGINE, question, course)
    assert sum(steps) == count_steps(Procedure.ENGINE, question) == len(table.rows)
    with pytest.raises(ValueError, match="needs a backend"):
        measure_sensitivity(Procedure.ENGINE, question, Course(known={}))
