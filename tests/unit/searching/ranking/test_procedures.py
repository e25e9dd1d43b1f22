"""The default table: exact where most of the noise is, first order elsewhere."""

from __future__ import annotations

import pytest
import torch

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, Procedure, SensitivityTable
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.sensitivity import (
    Course,
    count_steps,
    measure_sensitivity,
    most_exact_rows,
    rows_that_matter,
)
from autoquant.searching.ranking.trials import Question
from tests.networks import MixedNet, TextNet, images, seeded
from tests.unit.searching.ranking.questions import ask


@pytest.fixture(scope="module")
def question() -> Question:
    return ask(seeded(MixedNet), images(32, seed=5))


BY_NUMERICS = [item for item in Procedure if item is not Procedure.ENGINE]


def take(question: Question, procedure: Procedure) -> SensitivityTable:
    return measure_sensitivity(procedure, question, Course(known={}))


def test_auto_measures_the_noisiest_knobs_exactly_and_no_more_than_a_third(
    question: Question,
) -> None:
    table = take(question, Procedure.AUTO)
    gradient = take(question, Procedure.GRADIENT)
    chosen = rows_that_matter(question.space, question.trials(), gradient)
    exact = [row.key for row in table.rows if row.method is Method.EXACT]
    assert sorted(map(str, exact)) == sorted(str(trial.key) for trial in chosen)
    assert 0 < len(exact) <= most_exact_rows(len(table.rows))
    knob = gradient.ranking(question.space.schemes[0])[0].knob
    assert table.by_key[knob, question.space.schemes[0], Part.BOTH].method is Method.EXACT


def test_autos_exact_rows_are_those_of_exact(question: Question) -> None:
    rows = [row for row in take(question, Procedure.AUTO).rows if row.method is Method.EXACT]
    wanted = {row.key for row in rows}
    trials = [trial for trial in question.trials() if trial.key in wanted]
    assert tuple(rows) == measure_exact(question, trials=trials).rows


def test_an_interrupted_auto_table_takes_over_its_exact_rows(question: Question) -> None:
    kept: list[SensitivityTable] = []
    whole = measure_sensitivity(Procedure.AUTO, question, Course(known={}, keep=kept.append))
    known = {row.key: row for row in kept[0].rows if row.method is Method.EXACT}
    again: list[SensitivityTable] = []
    resumed = measure_sensitivity(Procedure.AUTO, question, Course(known=known, keep=again.append))
    assert resumed == whole
    assert len(again) == len(kept) - 1


@pytest.mark.parametrize("procedure", BY_NUMERICS, ids=lambda item: item.value)
def test_progress_never_passes_the_steps_that_were_announced(
    question: Question, procedure: Procedure
) -> None:
    steps: list[int] = []
    measure_sensitivity(procedure, question, Course(known={}, progress=steps.append))
    assert sum(steps) <= count_steps(procedure, question)


def test_weights_only_looks_at_no_data(question: Question) -> None:
    table = take(question, Procedure.WEIGHTS_ONLY)
    assert table.samples == 0
    assert {row.method for row in table.rows} == {Method.WEIGHTS_ONLY}
    assert {row.part for row in table.rows} == {Part.BOTH, Part.WEIGHT}
    losses = table.losses()
    assert losses["stem", Scheme.INT8] > losses["stem", Scheme.FP16] > 0


@pytest.mark.parametrize("procedure", BY_NUMERICS, ids=lambda item: item.value)
def test_tokens_embeddings_and_recurrent_layers_have_rows(procedure: Procedure) -> None:
    tokens = torch.randint(0, 50, (32, 7), generator=torch.Generator().manual_seed(0))
    table = take(ask(seeded(TextNet), tokens), procedure)
    assert {"embed", "rnn", "head"} <= {row.knob for row in table.rows}
