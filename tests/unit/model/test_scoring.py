"""Metrics by sample, by batch and over the data set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoquant import metrics
from autoquant.core.measurement import Kind
from autoquant.errors import MetricError
from autoquant.model.data.batches import Batch
from autoquant.model.data.scoring import check_metric, doubt_direction, find_metric, start_tally
from autoquant.searching.measuring.quality import measure_quality, run_reference

DRAW = torch.Generator().manual_seed(0)


class MacroF1:
    """Over the data set: no mean of scores by sample gives it."""

    def __init__(self, classes: int = 3) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self.right = torch.zeros(self.classes)
        self.found = torch.zeros(self.classes)
        self.given = torch.zeros(self.classes)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        best = outputs.argmax(1)
        for name in range(self.classes):
            self.right[name] += ((best == name) & (targets == name)).sum()
            self.found[name] += (best == name).sum()
            self.given[name] += (targets == name).sum()

    def compute(self) -> Tensor:
        return (2 * self.right / (self.found + self.given).clamp_min(1)).mean()


class Perplexity:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        flat = outputs.reshape(-1, outputs.shape[-1])
        self.total += float(
            torch.nn.functional.cross_entropy(flat, targets.flatten(), reduction="sum")
        )
        self.count += targets.numel()

    def compute(self) -> float:
        return float(np.exp(self.total / self.count))


def make_batches(count: int, size: int = 16) -> tuple[Batch, ...]:
    batches = []
    for _ in range(count):
        targets = torch.randint(0, 3, (size,), generator=DRAW)
        logits = torch.nn.functional.one_hot(targets, 3) * 1.5
        batches.append(Batch((logits + torch.randn(size, 3, generator=DRAW),), targets))
    return tuple(batches)


def identity(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0]


def measured(metric: Any, batches: tuple[Batch, ...], candidate: Any) -> Any:
    functions = {"accuracy": metric}
    reference = run_reference(identity, batches, functions)
    return measure_quality(candidate, reference, functions, Kind.MEASURED).measurements


def test_a_metric_over_the_data_set_is_computed_over_the_data_set() -> None:
    batches = make_batches(5)
    found = measured(MacroF1(), batches, identity)["accuracy"].value
    whole = MacroF1()
    whole.update(torch.cat([b.inputs[0] for b in batches]), torch.cat([b.targets for b in batches]))
    assert found == pytest.approx(float(whole.compute()))
    by_batch = []
    for batch in batches:
        one = MacroF1()
        one.update(batch.inputs[0], batch.targets)
        by_batch.append(float(one.compute()))
    assert found != pytest.approx(np.mean(by_batch), abs=1e-4)


def test_perplexity_of_tokens_is_that_of_all_tokens() -> None:
    logits = torch.randn(6, 4, 9, generator=DRAW)
    targets = torch.randint(0, 9, (6, 4), generator=DRAW)
    batches = tuple(Batch((logits[at : at + 2],), targets[at : at + 2]) for at in (0, 2, 4))
    found = measured(Perplexity(), batches, identity)["accuracy"].value
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 9), targets.flatten())
    assert found == pytest.approx(float(loss.exp()), rel=1e-5)


def test_the_jackknife_error_of_a_mean_is_its_standard_error() -> None:
    """One group a batch and equal batches: the jackknife of a mean is exact (Efron, 1982)."""

    class Mean:
        def __init__(self) -> None:
            self.values: list[float] = []

        def update(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: ARG002
            self.values.append(float(outputs.mean()))

        def compute(self) -> float:
            return float(np.mean(self.values))

    batches = make_batches(7)
    tally = start_tally(Mean())  # type: ignore[arg-type]
    for batch in batches:
        tally.add(batch.inputs[0], batch)
    _, stderr = tally.scores().mean()
    means = [float(batch.inputs[0].mean()) for batch in batches]
    assert stderr == pytest.approx(np.std(means, ddof=1) / np.sqrt(7))


@pytest.mark.slow
def test_the_paired_error_of_a_drop_matches_its_spread_over_data_sets() -> None:
    drops, errors = [], []
    for _ in range(60):
        batches = make_batches(20)
        noisy = {
            id(b.inputs[0]): b.inputs[0] + 0.5 * torch.randn(16, 3, generator=DRAW) for b in batches
        }
        found = measured(MacroF1(), batches, lambda inputs, noisy=noisy: noisy[id(inputs[0])])
        drops.append(found["accuracy_drop"].value)
        errors.append(found["accuracy_drop"].stderr)
    # 60 repetitions leave the spread uncertain by 9%, ten groups the error by 23% each
    assert np.mean(errors) == pytest.approx(np.std(drops, ddof=1), rel=0.25)


def test_an_equal_candidate_drops_nothing_over_the_data_set() -> None:
    found = measured(MacroF1(), make_batches(12), identity)["accuracy_drop"]
    assert (found.value, found.stderr) == (0.0, 0.0)


def test_the_metric_that_is_given_gathers_nothing() -> None:
    metric = MacroF1()
    measured(metric, make_batches(3), identity)
    assert float(metric.given.sum()) == 0.0


def writes_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs.sub_(outputs.mean())
    return (outputs.argmax(1) == targets).float()


def writes_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    targets.add_(1)
    return (outputs.argmax(1) == targets).float()


class WritesOutputs(MacroF1):
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs.mul_(2), targets)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (writes_outputs, "'writes_outputs' writes into the outputs"),
        (writes_targets, "'writes_targets' writes into the targets"),
        (WritesOutputs(), "'WritesOutputs' writes into the outputs"),
    ],
    ids=["outputs", "targets", "over the data set"],
)
def test_a_metric_that_writes_into_what_it_is_given_is_refused(metric: Any, message: str) -> None:
    (batch,) = make_batches(1)
    before = batch.inputs[0].clone(), batch.targets.clone()
    with pytest.raises(MetricError, match=message):
        check_metric(metric, batch.inputs[0], batch)
    assert torch.equal(batch.inputs[0], before[0])
    assert torch.equal(batch.targets, before[1])


def test_a_metric_is_found_by_its_name() -> None:
    assert find_metric("top5") is metrics.top5
    assert isinstance(find_metric(MacroF1), MacroF1)


@pytest.mark.parametrize(
    ("metric", "message"),
    [("f1", "metric 'f1' is unknown"), (3, "metric is a int")],
    ids=["name", "number"],
)
def test_what_is_no_metric_is_refused(metric: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        find_metric(metric)


class Several(MacroF1):
    def compute(self) -> Any:
        return {"f1": super().compute(), "classes": self.classes}


def test_a_metric_of_several_numbers_is_refused_until_one_is_named() -> None:
    (batch,) = make_batches(1)
    with pytest.raises(MetricError, match="computes 2 numbers: f1, classes"):
        check_metric(Several(), batch.inputs[0], batch)  # type: ignore[arg-type]
    chosen = metrics.Entry(Several(), "f1")
    found = measured(chosen, (batch,), identity)["accuracy"].value
    assert found == measured(MacroF1(), (batch,), identity)["accuracy"].value


def test_agreement_counts_the_classes_that_float_finds_too() -> None:
    expected = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = {"none": torch.arange(4), "logits": torch.tensor([[0.0, 1.0]] * 4)}
    scores = metrics.agreement(found, {"none": torch.arange(4), "logits": expected})
    assert scores.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_loss_before_the_logits_is_no_output_to_compare() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    for outputs in ({"loss": torch.tensor(0.3), "logits": logits}, (torch.tensor(0.3), logits)):
        assert metrics.agreement(outputs, outputs).tolist() == [1.0, 1.0]
        assert metrics.cosine(outputs, outputs).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="no two classes"):
        metrics.agreement(torch.zeros(4), torch.zeros(4))


def test_agreement_looks_for_classes_where_kl_does() -> None:
    by_position = torch.tensor([[[0.1, 0.9, 0.0], [0.8, 0.2, 0.0]]])
    other = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    assert metrics.agreement(other, by_position).tolist() == [0.5]
    image = torch.zeros(1, 2, 1, 4)
    image[0, 1, 0, :3] = 1.0
    assert metrics.agreement(torch.zeros(1, 2, 1, 4), image).tolist() == [0.25]


def test_accuracy_takes_the_axis_that_the_targets_lack() -> None:
    targets = torch.tensor([[1, 0, 2]])
    last = torch.nn.functional.one_hot(targets, 5).float()  # (batch, time, classes)
    assert metrics.accuracy(last, targets).tolist() == [1.0]
    assert metrics.accuracy(last.transpose(1, 2), targets).tolist() == [1.0]


def test_accuracy_leaves_out_what_torchs_loss_ignores() -> None:
    logits = torch.tensor([[[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]])
    assert metrics.accuracy(logits, torch.tensor([[1, 1, -100]])).tolist() == [0.5]
    with pytest.raises(ValueError, match="sample 0 of the batch has no target but -100"):
        metrics.accuracy(logits[:, 0], torch.tensor([-100]))


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.top5])
def test_classes_are_read_from_what_is_called_logits(metric: Any) -> None:
    logits, targets = torch.eye(6), torch.arange(6)
    for outputs in (
        {"hidden": torch.zeros(6, 9), "logits": logits},
        SimpleNamespace(logits=logits),
        (logits,),
    ):
        assert metric(outputs, targets).tolist() == [1.0] * 6
    with pytest.raises(ValueError, match="hold 2 tensors of floats, none of them called 'logits'"):
        metric((logits, logits), targets)


def test_cosine_is_that_of_the_least_similar_output() -> None:
    same, turned = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, -3.0], [0.0, 0.0]])
    assert metrics.cosine((same, same), (same, turned)).tolist() == pytest.approx([0.0, 1.0])
    assert metrics.cosine(2 * same, same).tolist() == pytest.approx([1.0, 1.0])


def test_cosine_takes_an_output_without_samples_as_a_whole() -> None:
    logits, states = torch.ones(2, 3), torch.tensor([[3.0], [4.0], [0.0]])  # time first
    found = (logits, torch.tensor([[4.0], [-3.0], [0.0]]))
    assert metrics.cosine(found, (logits, states)).tolist() == [0.0, 0.0]


def test_a_score_of_another_axis_says_how_to_name_that() -> None:
    batch = Batch((torch.zeros(5, 4, 6),), torch.zeros(4), (0,))
    with pytest.raises(MetricError, match=r"shape .4,. for a batch of 5") as refused:
        start_tally(lambda outputs, targets: outputs.sum(1)).add(torch.zeros(4, 2), batch)
    assert "axis 1 of input 0" in str(refused.value)


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "said"),
    [
        (metrics.accuracy, torch.zeros(4, 4), torch.eye(4), "one-hot targets, targets.argmax"),
        (metrics.accuracy, torch.zeros(4, 1), torch.zeros(4), "no two classes"),
        (metrics.accuracy, torch.zeros(4), torch.zeros(4), "no two classes"),
        (metrics.top5, torch.zeros(4, 9), torch.zeros(4, 1), "and not"),
        (metrics.mse, torch.zeros(4, 1), torch.zeros(4), "and not"),
    ],
)
def test_targets_that_would_broadcast_are_refused(
    metric: Any, outputs: Tensor, targets: Tensor, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        metric(outputs, targets)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_loss_that_is_given_as_a_metric_is_doubted() -> None:
    outputs = 5 * torch.eye(16)
    batch = Batch((outputs,), torch.arange(16), (0,))
    doubt = doubt_direction(cross_entropy, outputs, batch)
    assert doubt is not None
    assert "cross_entropy.higher_is_better = False" in doubt
    assert doubt_direction(metrics.accuracy, outputs, batch) is None


def test_a_metric_that_says_its_direction_is_not_doubted() -> None:
    outputs = 5 * torch.eye(16)
    batch = Batch((outputs,), torch.arange(16), (0,))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    loss.higher_is_better = False  # type: ignore[attr-defined]
    assert doubt_direction(loss, outputs, batch) is None
