"""Exact sensitivity: what it shares changes nothing; it resumes; it can be taken around a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow
from autoquant.model.data.outputs import output_rows
from autoquant.model.numerics.rounded_graph import choices_of
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.marks import mark
from autoquant.searching.ranking.rounded_run import RoundedRun
from autoquant.searching.ranking.trials import Question
from tests.networks import LinearNet, MixedNet, images, seeded
from tests.spaces import random_plan
from tests.unit.searching.ranking.questions import ask

# sums in another order of chunks; bit-equal values otherwise
SAME = 1e-9


@pytest.fixture(scope="module")
def question() -> Question:
    return ask(seeded(MixedNet), images(48, seed=5), batch_size=16)


def whole_noise(question: Question, plan: Plan) -> float:
    """Noise of a plan, by running the whole graph under it: the slow obvious version."""
    marked = mark(question.captured, question.space)
    run = RoundedRun(marked, question.rounding)
    choices = choices_of(plan)
    noise = signal = 0.0
    with torch.no_grad():
        for batch in question.batches:
            values = run.run_float(batch.inputs)
            expected = torch.cat(output_rows(values[marked.nodes[-1]], batch), 1).double()
            found = run.run_plan(values, choices)[marked.nodes[-1]]
            error = torch.cat(output_rows(found, batch), 1).double() - expected
            noise += float(error.square().sum())
            signal += float(expected.square().sum())
    return noise / signal


def test_rows_do_not_depend_on_how_many_chunks_are_kept(question: Question) -> None:
    sizes = [len(chunk) for chunk in question.chunks(1 << 40)]
    tightest = next(
        1 << power
        for power in range(40)
        if [len(chunk) for chunk in question.chunks(1 << power)] == sizes
    )
    trials = question.trials()[::15]
    tight = measure_exact(question, trials=trials, memory_bytes=tightest)
    assert tight.rows == measure_exact(question, trials=trials).rows


def test_a_row_is_the_whole_graph_with_that_knob_alone(question: Question) -> None:
    float_choices = dict.fromkeys((knob.name for knob in question.space.knobs), Scheme.FP32)
    trials = [trial for trial in question.trials() if trial.part is Part.BOTH][::9]
    table = measure_exact(question, trials=trials)
    for trial, row in zip(trials, table.rows, strict=True):
        plan = question.space.plan({**float_choices, trial.knob.name: trial.scheme})
        assert row.noise == pytest.approx(whole_noise(question, plan), rel=SAME)


def test_int16_has_the_weights_of_int8(question: Question) -> None:
    rows = measure_exact(question, trials=[t for t in question.trials() if t.knob.name == "stem"])
    found = rows.by_key
    int8 = found["stem", Scheme.INT8, Part.WEIGHT]
    assert found["stem", Scheme.INT16, Part.WEIGHT] == replace(int8, scheme=Scheme.INT16)


def test_changes_around_a_plan_are_the_changed_plans(question: Question) -> None:
    plan = random_plan(question.space, seed=3)
    table = measure_exact(question, around=plan)
    assert table.around == plan.digest
    assert table.around_noise == pytest.approx(whole_noise(question, plan), rel=SAME)
    choices = question.space.choices(plan)
    for row in table.rows[::7]:
        assert row.scheme is not choices[row.knob]
        changed = question.space.plan({**choices, row.knob: row.scheme})
        assert row.noise == pytest.approx(whole_noise(question, changed), rel=SAME)


def test_every_change_around_a_plan_has_a_row(question: Question) -> None:
    plan = question.space.uniform(Scheme.INT8)
    table = measure_exact(question, around=plan)
    expected = sum(len(knob.schemes) - 1 for knob in question.space.free)
    assert len(table.rows) == expected


def test_an_interrupted_table_goes_on_where_it_stopped() -> None:
    question = ask(seeded(LinearNet), torch.randn(32, 16))
    whole = measure_exact(question)
    kept: dict[tuple[str, Scheme, Part], SensitivityRow] = {}

    def keep_two(rows: Sequence[SensitivityRow]) -> None:
        kept.update({row.key: row for row in rows})
        if len({key[0] for key in kept}) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_exact(question, keep=keep_two)
    measured: list[str] = []
    resumed = measure_exact(question, known=kept, keep=lambda rows: measured.append(rows[0].knob))
    assert measured == ["last"]
    assert resumed == whole
