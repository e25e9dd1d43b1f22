"""A target that refuses something costs a search that choice, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autoquant as aq
from autoquant.backends.protocol import Executable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import BackendError, PlanError
from autoquant.searching.preparing.narrowing import Refused, find_refused, without
from tests.kinds import KINDS, build

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(0, 40, (8, 7), generator=torch.Generator().manual_seed(0))
ALL = ("int8", "int8_dynamic", "fp16", "bf16", "fp32")


def two_linears(between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), between, nn.Linear(16, 4)).eval()


class TwoBags(nn.Module):
    """Two equal EmbeddingBags beside linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList([nn.EmbeddingBag(40, 8, mode="mean") for _ in range(2)])
        self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.cat([bag(words) for bag in self.bags], 1))


class Pooled(nn.Module):
    """A class token beside the mean of the others, as encoders of images have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.gelu(self.first(x)))
        return self.head(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1))


class Parameterless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * 2


def zero_headed() -> nn.Module:
    model = two_linears(nn.ReLU())
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    return model


def agreement(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.flatten(1).argmax(1) == labels).float()


def search(
    model: nn.Module, inputs: Tensor, backend: str, schemes: tuple[str, ...], output: Path
) -> Any:
    with torch.no_grad():
        labels = model(inputs.clone()).flatten(1).argmax(1)
    return aq.search(
        model,
        calibration=inputs,
        evaluation=(inputs, labels),
        metric=agreement,
        backend={"name": backend, "pairs": 3},
        space={"schemes": list(schemes)},
        trials=6,  # a pair that one kernel holds is refused twice at most, then learnt
        output=output,
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, str, tuple[str, ...]]] = {
    "linear, batch norm, relu": (lambda: build("normed"), ROWS, "torch", ALL),
    "fp16 and dynamic beside int8": (lambda: two_linears(nn.ReLU()), ROWS, "torch", ALL),
    "the same on OpenVINO": (lambda: two_linears(nn.ReLU()), ROWS, "openvino", ALL),
    "dropout on LiteRT": (
        lambda: two_linears(nn.Dropout()), ROWS, "litert", ("int8", "int16", "fp32"),
    ),
    "ConvNeXt on LiteRT": (
        lambda: build("convnext"), KINDS["convnext"].batches[0][0], "litert", ("int8", "fp32"),
    ),
    "replicate padding on OpenVINO": (
        lambda: build("replicate"), KINDS["replicate"].batches[0][0], "openvino", ("int8", "fp32"),
    ),
    "replicate padding on LiteRT": (
        lambda: build("replicate"), KINDS["replicate"].batches[0][0], "litert", ("int8", "fp32"),
    ),
    "products and slices in place on OpenVINO": (
        lambda: build("in place"), KINDS["in place"].batches[0][0], "openvino", ("int8", "fp32"),
    ),
    "two embedding bags": (lambda: TwoBags().eval(), WORDS, "torch", ALL),
    "two embedding bags on OpenVINO": (lambda: TwoBags().eval(), WORDS, "openvino", ALL),
    "a head of zeros": (zero_headed, ROWS, "torch", ("int8", "fp32")),
    "a head of zeros on ONNX Runtime": (zero_headed, ROWS, "onnxruntime", ("int8", "fp32")),
    "no parameters": (lambda: Parameterless().eval(), ROWS, "torch", ("int8", "fp32")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_search_ends_with_a_frontier_and_few_refusals(name: str, tmp_path: Path) -> None:
    make, inputs, backend, schemes = CASES[name]
    result = search(make(), inputs, backend, schemes, tmp_path / "out")
    failed = [item for item in result.candidates if item.failure is not None]
    assert result.frontier
    assert len(failed) <= len(result.candidates) // 3, [item.failure for item in failed]


@pytest.fixture
def _head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine here refuses int8 only beside other int8 of this model: let one do so."""
    backend = pytest.importorskip("autoquant.backends.openvino.backend").OpenVinoBackend
    build = backend.build

    def refusing(self: Any, plan: Plan) -> Any:
        if plan.schemes["head"] is plan.schemes["second"] is Scheme.INT8:
            raise BackendError("no int8 at head", sites=("head",))
        return build(self, plan)

    monkeypatch.setattr(backend, "build", refusing)


@pytest.mark.usefixtures("_head_alone")
def test_int8_without_what_is_refused_beside_it_is_measured_at_once(tmp_path: Path) -> None:
    inputs = torch.randn(16, 6, 32, generator=torch.Generator().manual_seed(0))
    result = search(Pooled().eval(), inputs, "openvino", ("int8", "fp32"), tmp_path / "out")
    by_origin = {item.origin: item for item in result.candidates}
    refused = by_origin["seed:uniform-int8"].failure
    assert refused is not None
    assert refused.refused == ("head",)
    mended = by_origin["seed:mended-int8"]
    assert mended.failure is None
    floats = {site for site, scheme in mended.plan.assignment if scheme is Scheme.FP32}
    assert floats == {"head"}


@pytest.mark.usefixtures("_head_alone")
def test_a_schemes_name_means_it_without_what_is_refused_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs = torch.randn(16, 12, 32, generator=torch.Generator().manual_seed(0))
    pooled = Pooled().eval()
    labelled = (inputs, pooled(inputs).argmax(1))
    found = aq.diagnose(
        pooled, "int8", calibration=inputs, evaluation=labelled, backend="openvino", progress=None
    )
    assert found.sqnr_db > 20
    assert "all int8 is without head" in capsys.readouterr().err


def test_what_a_target_runs_in_no_format_is_named_with_another_backend(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"site 'bags\.0' \(embedding_bag\)") as caught:
        search(TwoBags().eval(), WORDS, "litert", ("int8", "fp32"), tmp_path / "out")
    assert "no kernel for this kind of op in any format" in caught.value.hint


def test_sort_is_named_on_litert(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no kernel for STABLEHLO_SORT"):
        search(build("sort"), ROWS, "litert", ("int8", "fp32"), tmp_path / "out")


class Refusing:
    """Refuses int8 at some knobs, naming so many of them."""

    def __init__(self, refused: set[str], *, names: int) -> None:
        self.refused, self.names, self.builds = refused, names, 0

    def build(self, plan: Plan) -> Executable:
        self.builds += 1
        found = [site for site, scheme in plan.assignment if scheme is Scheme.INT8]
        wrong = [site for site in found if site in self.refused]
        if wrong:
            raise BackendError("no kernel", sites=wrong[: self.names])
        return Executable(nn.Identity(), {})


@pytest.mark.parametrize("names", [99, 1, 0], ids=["all named", "one named", "unnamed"])
@pytest.mark.parametrize("refused", [set(), {"2"}, {"0", "5"}], ids=["none", "one", "two"])
def test_refused_choices_are_found_and_left_out(refused: set[str], names: int) -> None:
    knobs = tuple(Knob(str(i), (str(i),), (Scheme.INT8, Scheme.FP32)) for i in range(8))
    space = SearchSpace(knobs)
    backend: Any = Refusing(refused, names=names)
    found = find_refused(space, backend)
    assert {(item.knob, item.scheme) for item in found} == {(k, Scheme.INT8) for k in refused}
    left = without(space, found)
    assert {knob.name for knob in left.knobs if len(knob.schemes) == 1} == refused
    assert backend.builds < 4 * len(knobs)


def test_what_is_refused_in_every_block_is_found_in_few_builds() -> None:
    knobs = tuple(Knob(str(i), (str(i),), (Scheme.INT8, Scheme.FP32)) for i in range(64))
    refused = {str(i) for i in range(1, 64, 2)}
    backend: Any = Refusing(refused, names=99)
    found = find_refused(SearchSpace(knobs), backend)
    assert {item.knob for item in found} == refused
    assert backend.builds <= 6


class Bound:
    """Runs one site in bf16 as soon as any is, as an attention kernel may."""

    def __init__(self) -> None:
        self.builds = 0

    def build(self, plan: Plan) -> Executable:
        self.builds += 1
        schemes = plan.schemes
        if schemes["7"] is not Scheme.BF16 and Scheme.BF16 in schemes.values():
            beside = [site for site, scheme in schemes.items() if scheme is Scheme.BF16]
            raise BackendError("7 is planned as fp32 but runs bf16", sites=("7", f"{beside[0]}+"))
        return Executable(nn.Identity(), {})


def test_what_a_site_elsewhere_forbids_is_found_in_few_builds() -> None:
    bound = tuple(Knob(str(i), (str(i),), (Scheme.BF16, Scheme.FP32)) for i in range(8))
    free = Knob("other", ("other",), (Scheme.INT8, Scheme.FP32))
    backend: Any = Bound()
    assert find_refused(SearchSpace((*bound, free)), backend) == ()  # all together it is built
    pinned = tuple(Knob(item.name, item.sites, (Scheme.FP32,)) for item in bound[7:])
    found = find_refused(SearchSpace((*bound[:7], *pinned, free)), backend)
    assert {item.knob for item in found} == {knob.name for knob in bound[:7]}
    assert backend.builds <= 10


def test_a_refusal_keeps_its_sites_on_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(BackendError("no", hint="do", sites=("a", "b"))))
    assert (error.message, error.hint, error.sites) == ("no", "do", ("a", "b"))


def test_the_last_choice_of_a_knob_is_never_dropped() -> None:
    knob = Knob("a", ("a",), (Scheme.INT8, Scheme.FP32))
    left = without(SearchSpace((knob,)), [Refused("a", Scheme.INT8, "")])
    assert left.knobs[0].schemes == (Scheme.FP32,)
