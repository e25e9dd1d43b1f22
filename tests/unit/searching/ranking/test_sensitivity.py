"""What rows of exact sensitivity must be to each other."""

from __future__ import annotations

import pytest

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.trials import Question
from tests.networks import MixedNet, images, seeded
from tests.unit.searching.ranking.questions import ask

Measured = tuple[SensitivityTable, Question]


@pytest.fixture(scope="module")
def measured() -> Measured:
    question = ask(seeded(MixedNet), images(32, seed=5))
    return measure_exact(question), question


def test_weights_and_activations_apart_are_each_gentler_than_both(measured: Measured) -> None:
    table, _ = measured
    rows = {(row.knob, row.scheme, row.part): row for row in table.rows}
    both = rows["stem", Scheme.INT8, Part.BOTH]
    weight = rows["stem", Scheme.INT8, Part.WEIGHT]
    activation = rows["stem", Scheme.INT8, Part.ACTIVATION]
    assert weight.noise < both.noise
    assert activation.noise < both.noise
    # two independent roundings add their power; a factor of two is far outside that
    assert weight.noise + activation.noise == pytest.approx(both.noise, rel=0.5)


def test_more_bits_are_never_much_worse(measured: Measured) -> None:
    table, question = measured
    losses = table.losses()
    for knob in question.space.free:
        if Scheme.INT16 in knob.schemes:
            assert losses[knob.name, Scheme.INT16] <= losses[knob.name, Scheme.INT8] * 1.05


def test_the_ranking_puts_the_most_sensitive_knob_first(measured: Measured) -> None:
    table, _ = measured
    noises = [row.noise for row in table.ranking(Scheme.INT8)]
    assert noises == sorted(noises, reverse=True)
