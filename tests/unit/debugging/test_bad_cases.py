"""Bad cases: the right samples by every metric, whatever the batches and the outputs are."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.core.findings.badcases import BadCase, BadCases, DecibelCounts, OutputMetric
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.debugging.samples.find import Worst
from autoquant.debugging.samples.sample_error import sample_errors
from autoquant.errors import DataError, MetricError, ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.reader import DataReader
from autoquant.searching.measuring.quality import measure_quality, run_reference
from tests.networks import LinearNet, images, seeded
from tests.seeded_faults import TwoHeads


class Shifted(nn.Module):
    """A model whose outputs are off by a given amount, sample by sample."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> object:
        found = self.model(x)
        error = 0.1 * x.reshape(len(x), -1)[:, 0]
        logits = found.clone() if isinstance(found, Tensor) else found["logits"].clone()
        logits[:, 0] += error
        return logits if isinstance(found, Tensor) else {**found, "logits": logits}


def inputs(count: int = 50) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(3))


def test_one_sample_has_the_values_of_the_formulas() -> None:
    found = sample_errors(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]), 1)
    p, q = 1 / (1 + math.e), 0.5
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {
            OutputMetric.COSINE: 21 / (5 * math.sqrt(18)),
            OutputMetric.MSE: 0.5,
            OutputMetric.L1: 0.5,
            OutputMetric.KL: p * math.log(p / q) + (1 - p) * math.log((1 - p) / q),
            OutputMetric.SQNR: 10 * math.log10(25.0),
        }
    )


@pytest.mark.parametrize(
    ("found", "divergence"),
    [([1.0] + [0.0] * 9, 1.461), ([0.0, 8.0] + [0.0] * 8, 8.003)],
    ids=["flattened", "another-class"],
)
def test_divergence_holds_where_one_logit_dominates(found: list[float], divergence: float) -> None:
    """Of softmaxes in float32 it would be 0: the other classes' shares vanish."""
    expected = torch.tensor([[30.0] + [0.0] * 9])
    values = sample_errors(expected, torch.tensor([found]), 1)
    p = [math.exp(-30.0 * (i > 0)) / (1 + 9 * math.exp(-30.0)) for i in range(10)]
    norm = math.log(sum(math.exp(item) for item in found))
    by_hand = sum(a * (math.log(a) - (b - norm)) for a, b in zip(p, found, strict=True))
    assert float(values[OutputMetric.KL]) == pytest.approx(by_hand, rel=1e-9)
    assert by_hand == pytest.approx(divergence, abs=5e-4)


def test_divergence_of_tokens_is_taken_at_each_position() -> None:
    expected = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    found = expected.clone()
    found[:, 1] = 0.0
    values = sample_errors(expected, found, 2)[OutputMetric.KL]
    p = torch.softmax(expected[:, 1].double(), 1)
    assert values == pytest.approx((p * (5 * p).log()).sum(1) / 3)


class FirstLogit:
    """An own error; `higher_is_better` turns it into a score."""

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better

    def __call__(self, expected: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
        return found["logits"][:, 0] - expected["logits"][:, 0]


@pytest.mark.parametrize("higher_is_better", [True, False], ids=["score", "error"])
def test_an_own_error_ranks_the_samples_of_the_chosen_output(higher_is_better: bool) -> None:
    model, data = seeded(TwoHeads), images(20)
    error = FirstLogit(higher_is_better=higher_is_better)
    cases = aq.find_bad_cases(
        model, Shifted(model), [data], top=2, samples=12, outputs=["logits"], error=error
    )
    shifts = data[:12].reshape(12, -1)[:, 0]
    wanted = shifts.argsort(descending=not higher_is_better)[:2].tolist()
    assert cases.own is not None
    assert (
        [case.index for case in cases.own.cases] == wanted == list(cases.indices[:1]) + wanted[1:]
    )
    assert (cases.samples, cases.outputs, cases.own.name) == (12, ("logits",), "FirstLogit")


def test_an_own_error_without_a_number_for_each_sample_and_an_unknown_output_are_refused() -> None:
    model = seeded(LinearNet)
    with pytest.raises(MetricError, match="gave 1 numbers for 50 samples"):
        aq.find_bad_cases(model, model, [inputs()], error=lambda a, b: (a - b).abs().mean())
    with pytest.raises(MetricError, match="raised TypeError"):
        aq.find_bad_cases(model, model, [inputs()], error=lambda a: a)  # type: ignore[misc, arg-type]
    with pytest.raises(DataError, match="no output named 'boxes'"):
        aq.find_bad_cases(model, model, [inputs()], outputs=["boxes"])


def test_a_sample_that_is_not_finite_is_the_worst_by_every_metric() -> None:
    model = seeded(LinearNet)

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found = model(x)
            found[x[:, 0] == x[7, 0] if len(x) > 7 else slice(0, 0)] = float("nan")
            return found

    cases = aq.find_bad_cases(model, Broken(), [inputs()], top=3)
    assert {found[0].index for found in cases.worst.values()} == {7}
    assert cases.to_json()["worst"]["output"]["mse"][0] == {"index": 7, "value": None}


def brute_force(model: nn.Module, other: nn.Module, data: Tensor) -> dict[OutputMetric, list[int]]:
    """All samples at once, sorted whole."""
    with torch.no_grad():
        values = sample_errors(model(data), other(data), len(data))
    return {
        metric: (value if metric.is_score else -value).argsort(stable=True)[:5].tolist()
        for metric, value in values.items()
    }


@pytest.mark.parametrize("size", [1, 7, 50])
def test_the_worst_are_those_of_sorting_everything_whatever_the_batch_size(size: int) -> None:
    model = seeded(LinearNet)
    other, data = Shifted(model), inputs()
    cases = aq.find_bad_cases(model, other, list(data.split(size)), top=5)
    found = {m: [case.index for case in cases.worst["output", m]] for m in OutputMetric}
    assert found == brute_force(model, other, data)
    assert cases.samples == 50


def test_equally_bad_samples_are_ranked_by_their_place() -> None:
    worst = Worst(top=2, is_score=False)
    worst.add(0, torch.tensor([1.0, 2.0, 2.0]))
    worst.add(3, torch.tensor([2.0, 0.0]))
    assert [case.index for case in worst.finish()] == [1, 2]


def test_every_output_of_a_dict_with_a_tuple_in_it_is_ranked_on_its_own() -> None:
    model = seeded(TwoHeads)
    cases = aq.find_bad_cases(model, Shifted(model), [images(20)], top=2)
    assert cases.outputs == ("logits", "boxes.0", "boxes.1")
    assert cases.worst["logits", OutputMetric.MSE][0].value > 0
    assert cases.worst["boxes.0", OutputMetric.MSE][0].value == 0
    assert cases.over_outputs(OutputMetric.MSE)[0][0] == "logits"


def quantized_linear_net() -> tuple[nn.Module, nn.Module]:
    """The network and its int8 plan as torch's own kernels run it."""
    from tests.unit.debugging.pairs import build

    model = seeded(LinearNet)
    plan = Plan.of({"first": Scheme.INT8, "second": Scheme.INT8, "last": Scheme.INT8})
    return model, build(model, inputs(), plan).model


def test_sqnr_and_kl_are_those_that_the_search_measures() -> None:
    model, quantized = quantized_linear_net()
    batches = tuple(Batch((part,)) for part in inputs().split(10))
    cases = aq.find_bad_cases(model, quantized, [batch.inputs[0] for batch in batches], top=50)
    with torch.no_grad():
        reference = run_reference(lambda x: model(*x), batches, {})
        found = measure_quality(lambda x: quantized(*x), reference, {}, Kind.MEASURED).measurements
    kl = [case.value for case in cases.worst["output", OutputMetric.KL]]
    assert cases.sqnr_db == pytest.approx(found["sqnr_db"].value)
    assert sum(kl) / 50 == pytest.approx(found["kl"].value)


def test_no_batch_outlives_its_turn() -> None:
    """So that memory does not depend on how many there are."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    seen: list[int] = []

    def loader() -> Iterator[Tensor]:
        for _ in range(20):
            batch = torch.randn(8, 16)
            alive.add(batch)
            yield batch
            del batch
            seen.append(len(alive))

    model = seeded(LinearNet)
    cases = aq.find_bad_cases(model, Shifted(model), loader(), top=5)
    assert cases.samples == 160
    assert max(seen) <= 3  # the first, whose shape the others must have; the last; this one


def test_indices_begin_with_those_that_lead_a_list() -> None:
    def ranked(*indices: int) -> tuple[BadCase, ...]:

        return tuple(BadCase(index, 1.0) for index in indices)

    cases = BadCases(
        outputs=("a",),
        worst={
            ("a", OutputMetric.MSE): ranked(4, 2),
            ("a", OutputMetric.L1): ranked(9, 4),
        },
        sqnr=DecibelCounts(0.0, 1.0, (1,)),
        noise=DecibelCounts(0.0, 1.0, (1,)),
        loud=(),
        sqnr_db=0.0,
    )
    assert cases.indices == (4, 9, 2)


def test_quantiles_of_a_histogram_are_those_of_its_samples() -> None:
    sqnr = DecibelCounts(low_db=0.0, width_db=1.0, counts=(2, 0, 1, 1))
    assert [sqnr.quantile(share) for share in (0.0, 0.5, 0.75, 1.0)] == [0.5, 0.5, 2.5, 3.5]


def test_outputs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ModelError, match="the quantized model gives outputs of"):
        aq.find_bad_cases(seeded(LinearNet), nn.Identity(), [inputs()])


def test_a_bad_batch_is_named_when_it_comes_up() -> None:
    data = [inputs(4), inputs(4) * float("nan")]
    batches = DataReader(seeded(LinearNet)).stream(data, "data", needs_targets=False)
    next(batches)
    with pytest.raises(DataError, match="data batch 1 holds NaN"):
        next(batches)
    with pytest.raises(DataError, match="data: no batches"):
        aq.find_bad_cases(seeded(LinearNet), seeded(LinearNet), [])
