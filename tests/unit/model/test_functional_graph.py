"""Kinds of models whose Python must keep its meaning in the exported graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from autoquant.core.sites import OpKind
from autoquant.model.data.calling import Calling
from autoquant.model.graph.capture import capture
from autoquant.model.graph.exporting import export_program
from autoquant.model.graph.functional import functional_graph

IMAGES = torch.rand(3, 4, 6, 6)
ROWS = torch.rand(3, 8)


class WritesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.clamp_(0.2, 0.5)
        y = self.conv(x)
        y.mul_(0.5)
        y.relu_()
        return y + x[:, :, :4, :4]


class ReluBeforeASkip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = self.relu(y)
        return self.relu(z + y)


class AddsWithAlpha(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, twice: bool = False, mask: Tensor | None = None) -> Tensor:
        y = torch.add(self.linear(x), x, alpha=2)
        return y * 2 if twice else y if mask is None else y * mask


class TiedTwice(nn.Module):
    """One convolution with another batch norm behind each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].register_forward_hook(lambda _module, _inputs, output: output * 3)
    return model


def normed(make: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(make(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 4))


def prepared(model: nn.Module) -> nn.Module:
    """In eval mode, its batch norms with statistics that matter."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "writes its input": (WritesItsInput, IMAGES),
    "in-place relu before a skip": (ReluBeforeASkip, IMAGES),
    "add with alpha": (AddsWithAlpha, ROWS),
    "another norm at each call": (TiedTwice, IMAGES),
    "grouped transposed convolution": (Upsampling, IMAGES),
    "forward hook": (hooked, ROWS),
    "weight norm": (normed(parametrizations.weight_norm), ROWS),
    "old weight norm": (normed(nn.utils.weight_norm), ROWS),
    "spectral norm": (normed(nn.utils.spectral_norm), ROWS),
    "pruned": (normed(lambda m: prune.l1_unstructured(m, "weight", 0.5)), ROWS),
}


@pytest.fixture(params=MODELS, ids=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, inputs = MODELS[request.param]
    return prepared(make()), inputs


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5])
def test_the_functional_graph_equals_the_model_bit_for_bit(
    case: tuple[nn.Module, Tensor], count: int
) -> None:
    model, example = case
    program, writes, _ = export_program(model, Calling.plain(1), (example,), ((0,),))
    graph = functional_graph(program, writes)
    inputs = torch.rand(count, *example.shape[1:])
    kept = inputs.clone()
    with torch.no_grad():
        found = graph(inputs)
        assert torch.equal(inputs, kept)
        assert torch.equal(found, model(inputs.clone()))


@pytest.mark.slow
def test_the_captured_graph_keeps_the_function(case: tuple[nn.Module, Tensor]) -> None:
    model, example = case
    found = capture(model, (example,), how="export")
    with torch.no_grad():
        assert torch.allclose(found.graph(example), model(example.clone()), atol=1e-5)
    assert not any(
        node.op == "call_function" and not node.all_input_nodes for node in found.graph.graph.nodes
    )


def test_folded_constants_follow_from_the_parameters() -> None:
    torch.manual_seed(0)
    model = prepared(Upsampling())
    found = capture(model, (IMAGES,), how="export")
    assert found.folded == {"conv": "bn"}
    assert found.weights is not None
    values = found.weights()
    assert set(values) == {"conv.folded_weight", "conv.folded_bias"}
    values["conv.folded_weight"].sum().backward()
    assert model.conv.weight.grad is not None  # type: ignore[union-attr]
    assert model.bn.weight.grad is not None  # type: ignore[union-attr]


def test_a_module_with_two_norms_is_one_site_with_two_weights() -> None:
    torch.manual_seed(0)
    found = capture(prepared(TiedTwice()), (IMAGES,), how="export")
    (site,) = found.sites
    assert found.members[site.name] == (("conv2d",), ("conv2d_1",))


def test_a_head_tied_to_an_embedding_shares_its_storage() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens))

    found = capture(Tied().eval(), (torch.zeros(2, 3, dtype=torch.long),), how="export")
    assert {site.name: site.shares for site in found.sites} == {"embed": None, "head": "embed"}


class Conv1D(nn.Module):
    """A linear layer as GPT-2 writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8, 4)), nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, 8), self.weight).reshape(*x.shape[:-1], 4)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = Conv1D()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows(x)
        mixed, _ = self.attention(rows, rows, rows, need_weights=False)
        return F.gelu(self.cell(mixed[:, 0])[0])


def test_products_with_constants_attention_and_cells_are_sites() -> None:
    captured = capture(Attends().eval(), (torch.rand(2, 5, 8),), how="export")
    found = {site.name: site for site in captured.sites}
    kinds = {name: site.kind for name, site in found.items()}
    assert kinds["rows"] is OpKind.LINEAR
    assert kinds["attention:linear:0"] is OpKind.LINEAR
    assert kinds["attention:linear:1"] is OpKind.LINEAR
    assert kinds["attention:scaled_dot_product_attention:0"] is OpKind.ATTENTION
    assert [kinds[name] for name in kinds if name.startswith("cell:linear")] == [OpKind.LINEAR]
    assert kinds[":gelu:0"] is OpKind.ACTIVATION
    assert found["rows"].macs == 5 * 8 * 4


def test_what_no_site_holds_is_said() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.rand(64, 8))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            distance = (x.unsqueeze(1) - self.table).abs().mean(1)
            return self.head(distance)

    found = capture(Filter().eval(), (ROWS,), how="export")
    assert found.reach is not None
    assert found.reach.weights == pytest.approx(18 / (18 + 512))
    assert "sub at the model itself" in str(found.reach)
    assert str(found.reach) in found.notices[0]


def test_what_export_cannot_follow_is_captured_module_by_module_and_said() -> None:
    class Signed(nn.Module):
        """Takes another path for other values."""

        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    model = nn.Sequential(Signed(), nn.Linear(8, 4)).eval()
    found = capture(model, (ROWS,), how="auto")
    assert found.how == "modules"
    assert [site.name for site in found.sites] == ["1"]
    assert found.notices[0].startswith("captured module by module, since torch.export cannot")


def test_the_model_stays_as_it_is() -> None:
    model = prepared(ReluBeforeASkip())
    before = copy.deepcopy(model.state_dict())
    capture(model, (IMAGES,), how="export")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class JoinsTwice(nn.Module):
    """Decodes the same joined heads in two branches, each of which joins them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.boxes(x), self.scores(x)
        raw = torch.cat([boxes, scores], 1)
        decoded = torch.cat([boxes, scores], 1).sigmoid()
        return raw, decoded


def test_what_is_computed_twice_of_the_same_tensors_is_one_site() -> None:
    torch.manual_seed(0)
    model = JoinsTwice().eval()
    captured = capture(model, (IMAGES,))
    assert [site.name for site in captured.sites if site.kind is OpKind.CAT] == [":cat:0"]
    for found, expected in zip(captured.graph(IMAGES), model(IMAGES), strict=True):
        assert torch.equal(found, expected)
