"""Fine-tuning a plan: what is trained, kept, resumed and refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import autoquant as aq
from autoquant.core.findings.finetuning import Ranges
from autoquant.core.progress import Advance, Silent
from autoquant.errors import (
    DataError,
    JobError,
    MetricError,
    ModelError,
    PlanError,
    StorageError,
)
from autoquant.job import TrainingSettings
from tests.networks import LinearNet, seeded

PLAN = {"first": "int8", "second": "int16", "last": "int8"}
FLOAT = {"first": "fp32", "second": "fp32", "last": "fp32"}
DIVERGING = aq.Plan.from_json(FLOAT)
BATCHES = [
    (inputs, (inputs[:, :4] + 0.5 * inputs[:, 4:8]).argmax(1))
    for inputs in torch.randn(8, 32, 16, generator=torch.Generator().manual_seed(5))
]


class Shuffled:
    """The batches in an order of torch's global generator, with noise."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(BATCHES)).tolist():
            inputs, targets = BATCHES[index]
            yield inputs + 0.01 * torch.randn_like(inputs), targets


class Interrupting(Silent):
    """Stops the training in the middle of a step, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self._left = after

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # type: ignore[override]  # noqa: ARG002
        yield self._advance if title == "fine-tuning" else lambda steps: None

    def _advance(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise KeyboardInterrupt


def finetune(output: Path, **changes: Any) -> aq.FinetuneResult:
    arguments: dict[str, Any] = {
        "model": seeded(LinearNet),
        "plan": aq.Plan.from_json(PLAN),
        "train_loader": Shuffled(),
        "loss": F.cross_entropy,
        "float_steps": 400,
        "share": 0.05,
        "checks": 5,
        "calibration": BATCHES[:4],
        "evaluation": BATCHES[4:],
        "backend": "fbgemm",
        "learning_rates": (0.05,),
        "output": output,
    }
    return aq.finetune(**(arguments | changes))


def weights(result: aq.FinetuneResult) -> dict[str, Tensor]:
    return dict(result.model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"ranges": "frozen", "optimizer": "sgd"},
        {"ranges": "updated", "optimizer": "adamw"},
        {"ranges": "both", "learning_rates": (0.01, 0.05), "batch_norm": "folded"},
    ],
    ids=["frozen-sgd", "updated-adamw", "probed"],
)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = finetune(tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "cut", progress=Interrupting(after=9), **changes)
    resumed = finetune(tmp_path / "cut", resume=True, **changes)
    assert same(weights(resumed), weights(whole))
    assert resumed.checks == whole.checks
    assert resumed.trials == whole.trials
    assert not same(weights(whole), dict(seeded(LinearNet).state_dict()))


@pytest.mark.slow
def test_a_finished_training_resumes_to_the_same_result_without_a_step(tmp_path: Path) -> None:
    first = finetune(tmp_path)
    again = finetune(tmp_path, resume=True, progress=Interrupting(after=20))
    assert same(weights(again), weights(first))
    assert again.recovery == first.recovery


def test_a_pattern_of_rates_that_matches_nothing_is_refused_before_calibration(
    tmp_path: Path,
) -> None:
    class Uncalibrated(Silent):
        @contextmanager
        def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # type: ignore[override]  # noqa: ARG002
            assert title != "calibrating"
            yield lambda steps: None

    with pytest.raises(JobError, match="matches no parameter"):
        finetune(tmp_path, rate_factors={"nope.*": 0.1}, progress=Uncalibrated())


def test_training_lowers_the_loss_and_the_best_check_is_kept(tmp_path: Path) -> None:
    result = finetune(tmp_path)
    assert result.checks[-1].loss < result.checks[0].loss
    assert all(not check.is_better_than(result.best) for check in result.checks)
    assert len(result.checks) == 6


def test_weights_of_before_stand_where_training_only_harms(tmp_path: Path) -> None:
    own = [(inputs, seeded(LinearNet)(inputs).argmax(1)) for inputs, _ in BATCHES]
    result = finetune(tmp_path, evaluation=own, learning_rates=(1e6,), share=0.02)
    assert result.best.step == 0
    assert same(weights(result), dict(seeded(LinearNet).state_dict()))
    assert result.recovery.gain.value == 0.0


def test_the_figures_after_training_are_those_of_the_engine(tmp_path: Path) -> None:
    result = finetune(tmp_path, plan="int8", heldout=BATCHES[:3])
    outputs = [result.quantized(inputs).argmax(1) == targets for inputs, targets in BATCHES[:3]]
    assert result.recovery.data == "heldout"
    assert result.recovery.after.score.value == pytest.approx(
        float(torch.cat(outputs).float().mean())
    )
    assert result.recovery.after.score.kind.value == "measured"
    assert result.recovery.emulated.score.kind.value == "emulated"
    before, after = result.recovery.before.score.value, result.recovery.after.score.value
    assert result.recovery.gain.value == pytest.approx(after - before)


@pytest.mark.slow
def test_all_steps_stay_within_the_share_of_the_float_training(tmp_path: Path) -> None:
    result = finetune(tmp_path, share=0.06, learning_rates=(0.001, 0.01, 0.05), ranges="both")
    assert result.steps <= 0.06 * 400
    assert {(trial.learning_rate, trial.ranges) for trial in result.trials} == {
        (rate, ranges) for rate in (0.001, 0.01, 0.05) for ranges in (Ranges.FROZEN, Ranges.UPDATED)
    }


def test_the_probe_takes_the_rate_with_the_lowest_loss(tmp_path: Path) -> None:
    result = finetune(tmp_path, plan=DIVERGING, learning_rates=(1e-7, 0.05, 1e30))
    losses = {trial.learning_rate: trial.loss for trial in result.trials}
    assert losses[1e30] is None
    assert losses[0.05] < losses[1e-7]
    assert result.learning_rate == 0.05


@pytest.mark.slow
def test_the_last_part_of_the_float_schedule_is_followed(tmp_path: Path) -> None:
    result = finetune(
        tmp_path, share=0.1, checks=4, float_schedule=lambda progress: 7 * (1 - progress)
    )
    rates = [check.learning_rate for check in result.checks[1:]]
    assert rates == pytest.approx([0.05 * (1 - step / 40) for step in (9, 19, 29, 39)])


def test_the_model_that_was_given_is_not_changed(tmp_path: Path) -> None:
    model = seeded(LinearNet)
    before = copy.deepcopy(model.state_dict())
    finetune(tmp_path, model=model)
    assert same(before, dict(model.state_dict()))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_the_folder_holds_what_it_takes_to_go_on_without_autoquant(tmp_path: Path) -> None:
    result = finetune(tmp_path, plan="int8")
    model = LinearNet()
    model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    inputs = BATCHES[0][0]
    assert torch.equal(model(inputs), result.model(inputs))
    found = torch.jit.load(tmp_path / "quantized.pt")(inputs)
    assert torch.equal(found, result.quantized(inputs))
    assert json.loads((tmp_path / "finetune.json").read_text()) == result.to_json()
    assert aq.load_plan(tmp_path / "plan.json") == result.plan


def number(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"steps": 21}, JobError, "21 is above 20"),
        ({"share": 0.0125, "learning_rates": (1, 2, 3)}, JobError, "are too few to try 3"),
        ({"rate_factors": {"lats.*": 2.0}}, JobError, "'lats.*' matches no parameter"),
        ({"shares": 0.1}, JobError, "did you mean 'share'"),
        ({"learning_rates": (0.0,)}, JobError, "learning_rates.0: 0.0 is not above 0"),
        ({"plan": DIVERGING, "learning_rates": (1e30, 1e35)}, DataError, "diverges at every"),
        ({"loss": number}, MetricError, "'number' returned a tensor without a gradient"),
        ({"loss": lambda o, t: o}, MetricError, r"returned shape \(32, 4\) for a batch of 32"),
        ({"train_loader": [(torch.rand(4, 3), BATCHES[0][1][:4])]}, ModelError, "training batch 0"),
        ({"plan": aq.Plan.from_json({"fc": "int8"})}, PlanError, "the plan lacks the site"),
        ({"float_schedule": lambda p: p - 1}, JobError, "float_schedule gives -0.05.* at progress"),
        ({"float_schedule": lambda p: 0}, JobError, "gives 0 at progress 0.95"),
        ({"resume": True}, StorageError, "holds no fine-tuning to resume"),
    ],
    ids=[
        "steps", "too-few", "factors", "key", "rate", "diverges", "no-gradient", "matrix", "shape",
        "plan", "negative", "ended", "nothing",
    ],
)  # fmt: skip
def test_mistakes_are_named(
    tmp_path: Path, changes: dict[str, Any], kind: type[aq.AutoquantError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        finetune(tmp_path, **changes)


def test_a_rate_factor_of_zero_leaves_parameters_as_they_are(tmp_path: Path) -> None:
    """The last pattern that matches wins; the others are trained."""
    result = finetune(tmp_path, rate_factors={"*": 0.5, "first.*": 0.0})
    before, after = seeded(LinearNet).state_dict(), result.model.state_dict()
    assert result.best.step > 0
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert same == {name: name.startswith("first.") for name in before}


@pytest.mark.parametrize(
    ("steps", "probed"), [(19, 3), (48, 8), (400, 20), (10, 2)], ids=["few", "eight", "20th", "two"]
)
def test_no_learning_rate_is_judged_by_a_single_step(steps: int, probed: int) -> None:
    settings = TrainingSettings(float_steps=10 * steps, learning_rates=(0.1, 0.01, 0.001))
    assert (settings.budget, settings.probe_steps) == (steps, probed)
    assert settings.training_steps == steps - 3 * probed


@pytest.mark.slow
def test_a_checkpoint_is_continued_by_its_own_training_only(tmp_path: Path) -> None:
    finetune(tmp_path, share=0.01)
    with pytest.raises(StorageError, match="already holds a fine-tuning"):
        finetune(tmp_path, share=0.01)
    with pytest.raises(StorageError, match="belongs to another training"):
        finetune(tmp_path, share=0.01, resume=True, weight_decay=0.1)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(StorageError, match="is damaged"):
        finetune(tmp_path, share=0.01, resume=True)


@pytest.mark.slow
def test_learned_scales_are_trained_kept_and_built(tmp_path: Path) -> None:
    """Ranges of a tenth of what is seen clip nearly all; the scales, trained alone, open them."""
    network = seeded(LinearNet)
    own = [(inputs, network(inputs).argmax(1)) for inputs, _ in BATCHES]
    learned = finetune(
        tmp_path,
        plan="int8",
        train_loader=own[:4],
        evaluation=own[4:],
        sections={"calibration": {"observer": _tenth}},
        ranges="learned",
        learning_rates=(0.3,),
        rate_factors={"*": 0.0, "scales.*": 1.0},
    )
    assert learned.best.metric > learned.checks[0].metric + 0.1
    assert {item.tensor for item in learned.learned} == {"x", "relu", "relu_1"}
    # the engine has the scales that were learned
    assert learned.recovery.gap_sqnr_db.value > 60
    assert learned.to_json()["learned"][0]["high"] > 2 * 0.331


def _tenth(seen: Any) -> tuple[float, float]:
    return 0.1 * seen.low, 0.1 * seen.high
