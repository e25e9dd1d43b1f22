"""Models that people bring, built in float and in int8: the same function, or refused by name."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import autoquant as aq
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.job import Job
from autoquant.model.building import build_subject
from autoquant.model.graph.capture import capture
from autoquant.searching.pair import prepare_untimed
from autoquant.searching.preparing.preparation import Preparation
from tests.readbacks import words

_DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(48, 4, 8, 8, generator=_DRAW)
ROWS = torch.randn(96, 12, generator=_DRAW)
WORDS = torch.randint(0, 40, (96, 7), generator=_DRAW)
FLOAT_DB, INT8_DB = 90.0, 24.0
"""All-fp32 differs by rounding in another order alone; int8 per-tensor activations of such small
random networks give 25 to 45 dB."""


class WritesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        x.clamp_(0.2, 1.5)
        return self.head(self.conv(x).mean((2, 3)))


class WritesItsActivations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.mul_(0.5)
        y.relu_()
        return self.conv2(y)


class JoinsNothing(nn.Module):
    """A cache that starts as `torch.tensor([])`, as Hugging Face's does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([torch.tensor([]), self.first(x)], -2))


class InPlaceBeforeASkip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.conv2(self.relu(y)) + y


class Residual(nn.Module):
    """A block whose one ReLU runs twice, as every torchvision ResNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class ShiftedSigmoid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(x) * 4 - 3) * torch.tanh(self.conv(x))


class AddsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 8), nn.Linear(12, 8)

    def forward(self, x: Tensor, mask: Tensor | None = None, embed: bool = False) -> Tensor:
        y = torch.add(self.a(x), self.b(x), alpha=2)
        return y if mask is None and not embed else y * 0


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(40, 8, mode="mean")
        self.head = nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.bag(words))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 8)
        self.head = nn.Linear(8, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words))


class ActivatingNorm(nn.BatchNorm2d):
    """A batch norm with its activation, as timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or not self.track_running_stats
        parameters = (self.running_mean, self.running_var, self.weight, self.bias)
        y = F.batch_norm(x, *parameters, training, self.momentum or 0.0, self.eps)
        return self.act(self.drop(y))


class Activated(nn.Module):
    """Such norms behind convolutions, one within DataParallel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3, bias=False), ActivatingNorm(8)
        self.inner = nn.DataParallel(nn.Sequential(nn.Conv2d(8, 4, 3), ActivatingNorm(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(self.conv(x)))


class TwoInstanceNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class DeadCode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.aux, self.head = nn.Linear(12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.aux(x)
        return self.head(x)


class MaskInABuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 8), nn.Linear(8, 5)
        self.register_buffer("mask", torch.full((7, 7), float("-inf")).triu(1))

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        scores = torch.softmax(x @ x.transpose(1, 2) + self.mask, -1)
        return self.head(scores @ x)


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"logits": self.linear(x), "version": "1", "classes": 4, "none": None}


class Fluent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.functional = torch.ao.nn.quantized.FloatFunctional()
        self.linear = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.functional.add(self.linear(x), x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    model[0].register_forward_hook(lambda _module, _inputs, output: output * 5 - 1)
    return model


def normed(make: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(make(nn.Linear(12, 16)), nn.ReLU(), nn.Linear(16, 4))


def scripted() -> nn.Module:
    inner = nn.Sequential(nn.Linear(16, 16), nn.ReLU()).eval()
    traced = torch.jit.trace(nn.Sequential(nn.Linear(16, 8), nn.Tanh()).eval(), torch.zeros(2, 16))
    parts = nn.Sequential(torch.jit.script(inner), traced)
    return nn.Sequential(nn.Linear(12, 16), parts, nn.Linear(8, 4))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 12)), nn.TransformerEncoder(layer, 2))


SITUATIONS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "a forward that writes its input": (WritesItsInput, IMAGES),
    "activations written in place": (WritesItsActivations, IMAGES),
    "an in-place relu before a skip": (InPlaceBeforeASkip, IMAGES),
    "one relu used twice in a residual block": (Residual, IMAGES),
    "a forward hook": (hooked, ROWS),
    "weight norm": (normed(parametrizations.weight_norm), ROWS),
    "old weight norm": (normed(nn.utils.weight_norm), ROWS),
    "spectral norm": (normed(nn.utils.spectral_norm), ROWS),
    "pruned": (normed(lambda m: prune.l1_unstructured(m, "weight", 0.5)), ROWS),
    "sigmoid and tanh of convolutions": (ShiftedSigmoid, IMAGES),
    "add with alpha, optional arguments": (AddsTwice, ROWS),
    "an embedding bag that takes means": (Bags, WORDS),
    "an embedding tied to a head": (Tied, WORDS),
    "instance norm with running statistics": (TwoInstanceNorms, IMAGES),
    "norms that activate, and DataParallel inside": (Activated, IMAGES),
    "prelu behind a convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3)),
        IMAGES,
    ),
    "linear, batch norm, relu": (
        lambda: nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)),
        ROWS,
    ),
    "a grouped transposed convolution with a batch norm": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        IMAGES,
    ),
    "replicate padding": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, padding_mode="replicate"), nn.ReLU()),
        IMAGES,
    ),
    "a concatenation with an empty tensor": (JoinsNothing, ROWS),
    "dead code": (DeadCode, ROWS),
    "a mask of infinities in a buffer": (MaskInABuffer, WORDS),
    "a lock, and constants among the outputs": (Locked, ROWS),
    "FloatFunctional": (Fluent, ROWS),
    "a transformer encoder": (encoder, ROWS),
    "ScriptModules inside": (scripted, ROWS),
}


@pytest.fixture(params=SITUATIONS, ids=list(SITUATIONS))
def prepared(request: pytest.FixtureRequest) -> Preparation:
    torch.manual_seed(0)
    make, data = SITUATIONS[request.param]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    schemes = ["int8", "int8_weight_only", "fp32"]
    job = Job.model_validate({"name": "s", "space": {"schemes": schemes}, "output": "unused"})
    subject = build_subject(model.eval(), calibration=data, evaluation=data[:16])
    return prepare_untimed(job, subject, Silent())


@pytest.mark.parametrize(
    ("scheme", "least_db"),
    [(Scheme.FP32, FLOAT_DB), (Scheme.INT8, INT8_DB), (Scheme.INT8_WEIGHT_ONLY, INT8_DB)],
    ids=["fp32", "int8", "weight_only"],
)
def test_what_is_built_is_near_the_model(
    prepared: Preparation, scheme: Scheme, least_db: float
) -> None:
    batch = prepared.subject.evaluation[0]
    kept = [item.clone() for item in batch.inputs]
    with torch.no_grad():
        expected = _logits(prepared.subject.calling.call(prepared.subject.model, kept))
    built = prepared.backend.build(prepared.space.uniform(scheme)).module
    found = _logits(prepared.backend.run(built, tuple(item.clone() for item in batch.inputs)))
    noise = (expected - found).square().mean().clamp_min(1e-30)
    assert float(10 * torch.log10(expected.square().mean() / noise)) > least_db


def test_a_batch_norm_of_a_class_of_its_own_is_folded_with_its_activation() -> None:
    found = capture(Activated().eval(), (IMAGES[:4],)).sites
    assert [(site.name, site.fused) for site in found] == [
        ("conv", ("Conv2d", "ReLU")),
        ("inner.module.0", ("Conv2d", "ReLU")),
    ]


@pytest.mark.parametrize("engine", ["x86", "onednn"])
@pytest.mark.parametrize("make", [AddsTwice, ShiftedSigmoid], ids=["alpha", "sigmoid"])
def test_a_function_that_torch_ao_would_change_is_diagnosed_as_healthy(
    make: Callable[[], nn.Module], engine: str
) -> None:
    torch.manual_seed(0)
    data = ROWS if make is AddsTwice else IMAGES
    found = aq.diagnose(make().eval(), "int8", calibration=data, evaluation=data, backend=engine)
    assert found.findings == ()


def _logits(outputs: object) -> Tensor:
    found = outputs["logits"] if isinstance(outputs, dict) else outputs
    assert isinstance(found, Tensor)
    return found.detach().float()


def test_a_functional_call_with_a_computed_weight_keeps_its_function() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) * 2
            return F.conv2d(x, weight, self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(Standardized(4, 8, 3), nn.ReLU()).eval()
    job = Job.model_validate({"name": "s", "space": {"schemes": ["int8", "fp32"]}, "output": "u"})
    subject = build_subject(model, calibration=IMAGES, evaluation=IMAGES[:8])
    ready = prepare_untimed(job, subject, Silent())
    assert [site.name for site in ready.captured.sites] == ["0"]
    built = ready.backend.build(ready.space.uniform(Scheme.INT8))
    assert words(built.executed) == {"0": "int8 native"}
    with torch.no_grad():
        expected = model(IMAGES[:8])
    noise = (expected - ready.backend.run(built.module, (IMAGES[:8],))).square().mean()
    assert float(10 * torch.log10(expected.square().mean() / noise)) > INT8_DB
