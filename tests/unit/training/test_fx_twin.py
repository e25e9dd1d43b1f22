"""What is trained: the float model's parameters, and a twin that rounds as the engine does."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from autoquant.api.pair import build_pair, find_plan, prepare_untimed, uniform_plan
from autoquant.api.preparation import Preparation
from autoquant.api.watch import Silent
from autoquant.core.finetuning import BatchNorm
from autoquant.core.precision import Scheme
from autoquant.job import Job
from autoquant.model.capture import capture
from autoquant.model.ranges.grid import Grid
from autoquant.model.straight_through import straight_through
from autoquant.model.subject import build_subject
from autoquant.model.torch_ao.fake_quantized import round_straight
from autoquant.training.fx_twin import FxTwin
from autoquant.training.fx_weights import FxWeights
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded

TOKENS = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))


@dataclass
class Subject:
    """A network, its data, and what was prepared of it."""

    network: nn.Module
    inputs: Tensor
    prepared: Preparation

    def weights(self, batch_norm: BatchNorm = BatchNorm.FROZEN) -> FxWeights:
        return FxWeights(self.network, self.prepared.captured.traced, batch_norm)

    def twin(self, scheme: str, weights: FxWeights) -> FxTwin:
        plan = (
            uniform_plan(Scheme.FP32, self.prepared)
            if scheme == "fp32"
            else find_plan(scheme, self.prepared)
        )
        prepared = self.prepared
        twin = FxTwin(
            prepared.captured, plan, prepared.quantization, weights, prepared.subject.example
        )
        twin.take_ranges(prepared.statistics)
        return twin


def prepare(kind: type[nn.Module], inputs: Tensor) -> Subject:
    network = seeded(kind)
    job = Job.model_validate(
        {
            "name": "twin",
            "space": {"schemes": ["int8", "fp32"]},
            "backend": {"engine": "fbgemm"},
            "output": "out",
        }
    )
    subject = build_subject(
        network,
        calibration=[inputs],
        evaluation=[(inputs, network(inputs).detach())],
        heldout=None,
        metric=lambda outputs, targets: -(outputs - targets).abs().mean(),
        capture="fx",
    )
    return Subject(network, inputs, prepare_untimed(job, subject, Silent()))


@pytest.fixture(scope="module")
def mixed() -> Subject:
    return prepare(MixedNet, images(16))


@pytest.fixture(scope="module")
def text() -> Subject:
    return prepare(TextNet, TOKENS)


@pytest.fixture(scope="module")
def linear() -> Subject:
    return prepare(LinearNet, VECTORS)


def decibels(signal: Tensor, noisy: Tensor) -> float:
    signal, noisy = signal.detach(), noisy.detach()
    noise = ((noisy - signal) ** 2).sum().clamp_min(1e-20)
    return float(10 * torch.log10((signal**2).sum() / noise))


def test_a_rounded_value_passes_gradients_where_it_is_not_clipped() -> None:
    value = torch.tensor([-2.0, -0.3, 0.9, 1.1, 3.0], requires_grad=True)
    rounded = round_straight(Grid(scale=0.5, zero_point=0, low=-2, high=2), value)
    rounded.sum().backward()
    assert rounded.tolist() == [-1.0, -0.5, 1.0, 1.0, 1.0]
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_rounding_without_bounds_passes_every_gradient() -> None:
    value = torch.tensor([1.0e6, 0.1], requires_grad=True)
    straight_through(value, lambda item: item.bfloat16().float()).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 1.0]


def test_the_graphs_parameters_are_those_that_fusing_made_bit_for_bit(mixed: Subject) -> None:
    found = mixed.weights().graph_parameters()
    made = dict(mixed.prepared.captured.graph.named_parameters())
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) for name in made)


def test_folding_batch_norms_in_place_changes_no_output_and_leaves_no_scale_to_train(
    mixed: Subject,
) -> None:
    weights = mixed.weights(BatchNorm.FOLDED)
    # folding rounds each weight once more: a few units of the last of 24 bits
    assert decibels(mixed.network(mixed.inputs), weights.model(mixed.inputs)) > 120
    scales = {
        f"{path}.weight"
        for path, module in weights.model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert len(scales) == 5
    assert not scales & set(weights.trainable())
    assert scales < set(mixed.weights().trainable())


@pytest.mark.parametrize("batch_norm", list(BatchNorm), ids=lambda item: item.value)
def test_a_trained_model_is_captured_with_the_very_weights_of_its_training(
    mixed: Subject, batch_norm: BatchNorm
) -> None:
    weights = mixed.weights(batch_norm)
    with torch.no_grad():
        for parameter in weights.trainable().values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    trained = dict(weights.graph_parameters())
    again = dict(capture(weights.model, (mixed.inputs,)).graph.named_parameters())
    assert all(torch.equal(trained[name], again[name]) for name in again)


@pytest.mark.parametrize(
    "scheme", ["int8", "int8_dynamic", "int16", "int16_weight", "fp16", "bf16"]
)
@pytest.mark.parametrize("name", ["mixed", "linear"])
def test_the_twin_is_much_closer_to_the_engine_than_float_is(
    name: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    subject: Subject = request.getfixturevalue(name)
    pair = build_pair(subject.prepared, find_plan(scheme, subject.prepared), Silent())
    engine = pair.backend.run(pair.executable.module, (subject.inputs,))
    twin = subject.twin(scheme, subject.weights())((subject.inputs,)).detach()
    # int8 kernels requantize in integers: single values fall on the other side of a tie
    assert decibels(engine, twin) > decibels(engine, subject.network(subject.inputs)) + 10


def test_sites_in_fp32_are_left_alone(mixed: Subject) -> None:
    twin = mixed.twin("fp32", mixed.weights())
    floats = mixed.prepared.captured.graph(mixed.inputs)
    assert torch.equal(twin((mixed.inputs,)), floats)


@pytest.mark.parametrize(("name", "scheme"), [("mixed", "int8"), ("text", "int8_dynamic")])
def test_every_parameter_that_the_graph_reads_gets_a_gradient(
    name: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    subject: Subject = request.getfixturevalue(name)
    weights = subject.weights()
    subject.twin(scheme, weights)((subject.inputs,)).square().sum().backward()
    trained = weights.trainable()
    assert trained.keys() == dict(subject.network.named_parameters()).keys()
    missing = [item for item, parameter in trained.items() if parameter.grad is None]
    assert missing == []


def test_ranges_follow_the_weights_when_they_are_updated(mixed: Subject) -> None:
    weights = mixed.weights()
    twin = mixed.twin("int8", weights)
    with torch.no_grad():
        for parameter in weights.model.get_submodule("bn").parameters():
            parameter.mul_(3.0)
    before = twin.statistics.tensors["stem"].high
    twin.calibrate([(mixed.inputs,)])
    assert twin.statistics.tensors["stem"].high == pytest.approx(3 * before, rel=1e-5)


def test_the_users_model_is_never_changed(mixed: Subject) -> None:
    before = copy.deepcopy(mixed.network.state_dict())
    weights = mixed.weights(BatchNorm.FOLDED)
    with torch.no_grad():
        for parameter in weights.trainable().values():
            parameter.zero_()
    mixed.twin("int8", weights)
    after = mixed.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
