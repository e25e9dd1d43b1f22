"""What is trained: the model's parameters; and a twin that rounds by reference numerics."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.backends.profile.reference import reference_engine
from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.core.build import BuildSettings
from autoquant.core.findings.finetuning import BatchNorm
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.ranges import ObserverName
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import ModelError
from autoquant.finetuning.training.twin import Twin
from autoquant.finetuning.training.weights import TrainableWeights
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.numerics.rounding import round_straight, straight_through
from tests.networks import MixedNet, TextNet, images, seeded
from tests.untraceable import TokenNet, tokens

TOKENS = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))
INPUTS = {MixedNet: images(16), TextNet: TOKENS, TokenNet: tokens(16)}


class Normed(nn.Module):
    """A layer with two batch norms, and one whose weight is computed from two parameters."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        if kind == "parametrized":
            nn.utils.parametrizations.weight_norm(self.conv)
        if kind == "old":
            nn.utils.weight_norm(self.conv)
        self.first = nn.BatchNorm2d(4)
        self.second = nn.BatchNorm2d(4)
        self.kind = kind
        for norm in (self.first, self.second):
            norm.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = F.relu(self.first(self.conv(x)))
        return found + self.second(self.conv(-x)) if self.kind == "shared" else found


@dataclass
class Subject:
    """A network, its data, and what was found of it."""

    network: nn.Module
    inputs: Tensor
    captured: Capture
    statistics: CalibrationStatistics

    def weights(self, batch_norm: BatchNorm = BatchNorm.FROZEN) -> TrainableWeights:
        return TrainableWeights(self.network, self.captured, batch_norm)

    def twin(self, scheme: str, weights: TrainableWeights) -> Twin:
        plan = Plan.of({site.name: Scheme(scheme) for site in self.captured.sites})
        settings = BuildSettings(observer=ObserverName.MINMAX)
        twin = Twin(self.captured, plan, settings, weights)
        twin.take_ranges(self.statistics)
        return twin


def prepare(network: nn.Module, inputs: Tensor) -> Subject:
    captured = capture(network, (inputs,), how="export")
    return Subject(network, inputs, captured, calibrate(captured, [(inputs,)]))


@pytest.fixture(
    scope="module", params=[MixedNet, TextNet, TokenNet], ids=lambda item: item.__name__
)
def subject(request: pytest.FixtureRequest) -> Subject:
    return prepare(seeded(request.param), INPUTS[request.param])


@pytest.fixture(scope="module")
def mixed() -> Subject:
    return prepare(seeded(MixedNet), INPUTS[MixedNet])


def decibels(signal: Tensor, noisy: Tensor) -> float:
    signal, noisy = signal.detach(), noisy.detach()
    noise = ((noisy - signal) ** 2).sum().clamp_min(1e-20)
    return float(10 * torch.log10((signal**2).sum() / noise))


def test_the_graphs_constants_are_those_of_the_capture_bit_for_bit(subject: Subject) -> None:
    found = subject.weights().constants()
    held = subject.captured.graph.state_dict()
    assert set(held) <= set(found)
    assert all(torch.equal(found[name], held[name]) for name in held)


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


@pytest.mark.parametrize("scheme", ["int16", "fp16"])  # int8 kernels fuse and round elsewhere
def test_the_twin_is_much_closer_to_the_engine_than_float_is(mixed: Subject, scheme: str) -> None:
    twin = mixed.twin(scheme, mixed.weights())((mixed.inputs,)).detach()
    settings = BuildSettings(options={"engine": reference_engine()}, observer=ObserverName.MINMAX)
    given = (mixed.inputs,)
    request = BuildRequest(mixed.network, mixed.captured, mixed.statistics, settings, given, given)
    backend = TorchGraphBackend(request)
    plan = Plan.of({site.name: Scheme(scheme) for site in mixed.captured.sites})
    engine = backend.run(backend.build(plan).module, given)
    assert decibels(engine, twin) > decibels(engine, mixed.network(mixed.inputs)) + 10


def test_sites_in_fp32_are_left_alone(subject: Subject) -> None:
    found = subject.twin("fp32", subject.weights())((subject.inputs,))
    assert torch.equal(found, subject.captured.graph(subject.inputs))


@pytest.mark.parametrize("scheme", ["int8", "int8_dynamic", "int16", "fp16", "bf16"])
def test_every_parameter_that_the_graph_reads_gets_a_gradient(
    subject: Subject, scheme: str
) -> None:
    weights = subject.weights()
    outputs = subject.twin(scheme, weights)((subject.inputs,))
    assert 30 < decibels(subject.network(subject.inputs), outputs) < 100
    outputs.square().sum().backward()
    trained = weights.trainable()
    named = {name for name, _ in subject.network.named_parameters()}
    assert trained.keys() == {name for name in named if not name.startswith("unused")}
    assert [name for name, item in trained.items() if item.grad is None] == []


def test_gradients_of_the_float_plan_are_those_of_the_model(subject: Subject) -> None:
    weights = subject.weights()
    subject.twin("fp32", weights)((subject.inputs,)).square().sum().backward()
    model = copy.deepcopy(subject.network)
    model(subject.inputs).square().sum().backward()
    own = dict(model.named_parameters())
    for name, item in weights.trainable().items():
        assert item.grad is not None
        assert torch.allclose(item.grad, own[name].grad, rtol=1e-3, atol=1e-4)  # batch norms folded


@pytest.mark.parametrize("scheme", ["int8", "int16_weight"])
def test_int8_outputs_are_handed_out_unrounded(mixed: Subject, scheme: str) -> None:
    found = mixed.twin(scheme, mixed.weights())((mixed.inputs,))
    assert len(torch.unique(found)) == found.numel()


def test_a_step_down_the_gradient_lowers_what_the_twin_computes(subject: Subject) -> None:
    weights = subject.weights()
    twin = subject.twin("int8", weights)
    before = twin((subject.inputs,)).square().mean()
    before.backward()
    with torch.no_grad():
        for parameter in weights.trainable().values():
            assert parameter.grad is not None
            parameter.sub_(0.01 * parameter.grad / parameter.grad.norm().clamp_min(1e-9))
    assert twin((subject.inputs,)).square().mean() < before


@pytest.mark.parametrize("batch_norm", list(BatchNorm), ids=lambda item: item.value)
def test_a_trained_model_is_captured_with_the_very_weights_of_its_training(
    subject: Subject, batch_norm: BatchNorm
) -> None:
    weights = subject.weights(batch_norm)
    with torch.no_grad():
        for parameter in weights.trainable().values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    trained = weights.constants()
    again = capture(weights.model, (subject.inputs,), how="export")
    assert [site.name for site in again.sites] == [site.name for site in subject.captured.sites]
    held = again.graph.state_dict()
    assert all(torch.equal(trained[name], held[name]) for name in held)


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


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("shared", "called without this batch norm too"),
        ("parametrized", "computed from other parameters"),
        ("old", "computed from other parameters"),
    ],
)
def test_a_batch_norm_that_no_rewrite_folds_is_refused_by_name_and_trains_frozen(
    kind: str, reason: str
) -> None:
    found = prepare(Normed(kind).eval(), images(4))
    with pytest.raises(ModelError, match=f"conv: .*{reason}"):
        found.weights(BatchNorm.FOLDED)
    weights = found.weights()
    found.twin("int8", weights)((found.inputs,)).square().sum().backward()
    assert all(item.grad is not None for item in weights.trainable().values())
    assert any("first" in name for name in weights.trainable())


def test_a_model_without_a_graph_is_refused() -> None:
    network = seeded(MixedNet)
    captured = capture(network, (images(2),), how="modules")
    with pytest.raises(ModelError, match="captured module by module"):
        TrainableWeights(network, captured, BatchNorm.FROZEN)


def test_ranges_follow_the_weights_when_they_are_updated(mixed: Subject) -> None:
    weights = mixed.weights()
    twin = mixed.twin("int8", weights)
    (written,) = mixed.captured.writes("stem")
    with torch.no_grad():
        for parameter in weights.model.get_submodule("bn").parameters():
            parameter.mul_(3.0)
    before = twin.statistics.tensors[written].high
    twin.calibrate([(mixed.inputs,)])
    assert twin.statistics.tensors[written].high == pytest.approx(3 * before, rel=1e-5)


def test_running_statistics_follow_the_batches_where_they_are_trained(mixed: Subject) -> None:
    weights, inputs = mixed.weights(BatchNorm.TRAINED), mixed.inputs + 1.0
    expected = copy.deepcopy(mixed.network)
    for module in expected.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
    expected(inputs)
    before = {name: item.clone() for name, item in weights.constants().items()}
    weights.follow((inputs,))
    found, wanted = weights.statistics(), expected.state_dict()
    assert len(found) == 3 * 5  # mean, variance and count of five norms
    assert all(torch.equal(item, wanted[name]) for name, item in found.items())
    assert found.keys() < mixed.twin("int8", weights).kept().keys()
    moved = [not torch.equal(item, before[name]) for name, item in weights.constants().items()]
    assert any(moved)  # what the engine stores follows
    assert not mixed.weights().statistics()


def test_the_users_model_is_never_changed(mixed: Subject) -> None:
    before = copy.deepcopy(mixed.network.state_dict())
    weights = mixed.weights(BatchNorm.FOLDED)
    with torch.no_grad():
        for parameter in weights.trainable().values():
            parameter.zero_()
    mixed.twin("int8", weights)
    after = mixed.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
