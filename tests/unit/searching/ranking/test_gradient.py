"""Gradient sensitivity against exact rows and against what algebra gives."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, SensitivityTable
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.gradient import measure_gradient
from autoquant.searching.ranking.probe import Probe
from autoquant.searching.ranking.trials import Question
from tests.networks import MixedNet, images, seeded
from tests.unit.searching.ranking.questions import ask

LEAST_CORRELATION = 0.9


class TwoLinears(nn.Module):
    """Nothing but linear: to first order is exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Deep(nn.Module):
    """Many narrow layers, each around a shortcut."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.1 * torch.relu(layer(x))
        return x


@pytest.fixture(scope="module")
def mixed() -> tuple[Question, SensitivityTable, SensitivityTable]:
    question = ask(seeded(MixedNet), images(64, seed=5))
    return question, measure_gradient(question), measure_exact(question)


def correlation(found: SensitivityTable, exact: SensitivityTable, scheme: Scheme) -> float:
    """Spearman's, over knobs."""
    known = exact.losses()
    pairs = [(noise, known[key]) for key, noise in found.losses().items() if key[1] is scheme]
    ranks = [np.argsort(np.argsort(column)) for column in zip(*pairs, strict=True)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_what_a_measurement_held_is_free_again() -> None:
    measure_gradient(ask(seeded(MixedNet), images(4, seed=5)))
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is Probe]


class Sequences(nn.Module):
    """Tokens through an encoder layer with a mask and an LSTM, to a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.rnn = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 8)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.layer(self.embed(tokens), src_key_padding_mask=mask)
        return self.head(self.rnn(hidden)[0].mean(1))


class Tied(nn.Module):
    """An embedding whose weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(self.embed(tokens))).mean(1))


def sequences(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(4, 10, (count, 1), generator=draw)
    return torch.randint(0, 30, (count, 9), generator=draw), torch.arange(9)[None] >= lengths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        pytest.param(Sequences, sequences(48), id="encoder and lstm"),
        pytest.param(Tied, sequences(48)[:1], id="tied weights"),
    ],
)
def test_gradient_agrees_with_exact_on_sequences(
    network: type[nn.Module], inputs: tuple[Tensor, ...]
) -> None:
    torch.manual_seed(0)
    question = ask(network().eval(), *inputs)
    gradient, exact = measure_gradient(question).by_key, measure_exact(question).by_key
    # one draw of signs on 48 samples: within 6 dB of what the rounding really does
    near = [
        abs(gradient[key].sqnr_db - row.sqnr_db) < 6 for key, row in exact.items() if row.noise > 0
    ]
    assert len(near) > 10
    assert sum(near) >= 0.9 * len(near)


def test_a_tied_weight_errs_for_each_reader_alone() -> None:
    torch.manual_seed(0)
    found = measure_gradient(ask(Tied().eval(), *sequences(48)[:1])).by_key
    head = found["head", Scheme.INT8, Part.WEIGHT]
    table = found["embed", Scheme.INT8_WEIGHT_ONLY, Part.WEIGHT]
    assert head.noise > 0
    assert table.noise > 0
    assert head.noise != table.noise


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme",
    [Scheme.INT8, Scheme.INT16, Scheme.INT16_WEIGHT, Scheme.FP16, Scheme.BF16],
    ids=lambda s: s.value,
)
def test_gradient_ranks_as_exact_does(
    mixed: tuple[Question, SensitivityTable, SensitivityTable], scheme: Scheme
) -> None:
    _, gradient, exact = mixed
    assert correlation(gradient, exact, scheme) >= LEAST_CORRELATION


def test_gradient_gives_exact_rows_keys_in_their_order(
    mixed: tuple[Question, SensitivityTable, SensitivityTable],
) -> None:
    _, gradient, exact = mixed
    assert [row.key for row in gradient.rows] == [row.key for row in exact.rows]
    assert {row.method for row in gradient.rows} == {Method.GRADIENT}
    assert all(row.cosine is None and row.kl is None for row in gradient.rows)


def test_powers_of_weights_and_activations_add_up_to_both(
    mixed: tuple[Question, SensitivityTable, SensitivityTable],
) -> None:
    rows = mixed[1].by_key
    both = rows["stem", Scheme.INT8, Part.BOTH].noise
    weight = rows["stem", Scheme.INT8, Part.WEIGHT].noise
    activation = rows["stem", Scheme.INT8, Part.ACTIVATION].noise
    assert weight > 0
    assert activation > 0
    assert both == pytest.approx(weight + activation)


def test_the_same_seed_gives_the_same_table(
    mixed: tuple[Question, SensitivityTable, SensitivityTable],
) -> None:
    question, gradient, _ = mixed
    assert measure_gradient(question).rows == gradient.rows
    assert measure_gradient(question, seed=1).rows != gradient.rows


def test_a_linear_models_weight_noise_is_the_analytic_one() -> None:
    torch.manual_seed(0)
    model, inputs = TwoLinears().eval(), torch.randn(256, 24)
    question = ask(model, inputs)
    found = measure_gradient(question).by_key["second", Scheme.INT8, Part.WEIGHT]
    weight = model.second.weight.detach()
    site = question.captured.by_name["second"]
    error = question.rounding.weight(site, Scheme.INT8, weight) - weight
    with torch.no_grad():
        hidden = model.first(inputs).double()
        analytic = float(
            (hidden @ error.double().T).square().sum() / model(inputs).double().square().sum()
        )
    # three standard errors: one false alarm in 370 seeds, and the seed is fixed
    assert abs(found.noise - analytic) <= 3 * found.noise_stderr
    assert found.noise_stderr < 0.3 * analytic


class NormAfterRelu(nn.Module):
    """A batch norm that nothing can be folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.first(x))).mean((2, 3)))


def test_a_batch_norm_that_stays_lets_gradients_through() -> None:
    table = measure_gradient(ask(seeded(NormAfterRelu), images(16, seed=3)))
    assert table.losses()["first", Scheme.INT8] > 0


def test_the_users_model_keeps_no_gradient() -> None:
    model = seeded(MixedNet)
    measure_gradient(ask(model, images(8)))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_a_hundred_sites_take_one_forward_and_one_backward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    question = ask(Deep(60).eval(), torch.randn(32, 8))
    assert len(question.captured.sites) > 100
    passes: list[str] = []
    backward = torch.autograd.backward
    monkeypatch.setattr(
        torch.autograd, "backward", lambda *args: (passes.append("backward"), backward(*args))[1]
    )
    table = measure_gradient(question)
    assert passes == ["backward"]  # one chunk of 32 samples
    assert {row.knob for row in table.rows} == {knob.name for knob in question.space.free}
    assert all(np.isfinite(row.noise) for row in table.rows)
