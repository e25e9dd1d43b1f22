"""int4 weights with a scale for each group: what the engines run, against reference numerics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend
from autoquant.backends.onnxruntime.support import support_at
from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.openvino.support import site_support
from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan, load_plan
from autoquant.core.precision import BY_GROUP, Scheme, Support
from autoquant.core.readback import refuse_substitution
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from autoquant.model.numerics.rounding import SchemeRounding
from tests.networks import seeded

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1))
ENGINES = {"openvino": OpenVinoBackend, "onnxruntime": OnnxRuntimeBackend}


class InputsFirst(nn.Module):
    """A linear layer whose weight is (inputs, outputs), as Hugging Face's Conv1D has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.1)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.reshape(*x.shape[:-1], -1)


class Language(nn.Module):
    """An embedding tied to the head, and layers with odd numbers of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 128)
        self.up = InputsFirst(128, 256)
        self.act = nn.GELU()
        self.down = nn.Linear(256, 128, bias=False)
        self.narrow = nn.Linear(128, 33)
        self.head = nn.Linear(128, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens)
        x = x + self.down(self.act(self.up(x)))
        return self.head(x), self.narrow(x.mean(1))


@pytest.fixture(scope="module", params=ENGINES)
def opened(request: pytest.FixtureRequest) -> tuple[str, Capture, Backend, SchemeRounding]:
    captured = capture(seeded(Language), (TOKENS,), how="export")
    statistics = calibrate(captured, [(TOKENS,)])
    settings = BuildSettings(request.param)
    model = seeded(Language)
    backend = ENGINES[request.param](
        BuildRequest(model, captured, statistics, settings, (TOKENS,), (TOKENS,))
    )
    ranges = TensorRanges(captured, statistics, settings)
    return request.param, captured, backend, SchemeRounding(ranges)


def plan_of(captured: Capture, scheme: Scheme) -> Plan:
    """The scheme at every layer, and at what follows one."""
    layers = {s.name for s in captured.sites if s.kind in (OpKind.LINEAR, OpKind.EMBEDDING)}
    return Plan.of(
        {
            site.name: scheme if {site.name, site.follows} & layers else Scheme.FP32
            for site in captured.sites
        }
    )


@pytest.mark.parametrize("scheme", BY_GROUP, ids=lambda item: item.value)
def test_every_layer_runs_in_int4_and_gives_what_reference_numerics_say(
    opened: tuple[str, Capture, Backend, SchemeRounding], scheme: Scheme
) -> None:
    _, captured, backend, rounding = opened
    plan = plan_of(captured, scheme)
    built = backend.build(plan)
    weighted = {s.name for s in captured.sites if s.kind.is_weighted}
    assert len(weighted) == 5
    assert {str(built.executed[name]) for name in weighted} == {f"{scheme.value} native"}
    with torch.no_grad():
        expected = RoundedGraph(mark_sites(captured), rounding, choices_of(plan)).run(TOKENS)
        exact = captured.graph(TOKENS)
    for found, reference, float_one in zip(
        backend.run(built.module, (TOKENS,)), expected, exact, strict=True
    ):
        # both multiply in float32, in another order
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)
        assert (found - float_one).norm() > 0.01 * float_one.norm()


def test_mixed_with_other_schemes_each_layer_keeps_its_own(
    opened: tuple[str, Capture, Backend, SchemeRounding],
) -> None:
    _, captured, backend, _ = opened
    layers = [site.name for site in captured.sites if site.kind is OpKind.LINEAR]
    several = (Scheme.INT8, Scheme.INT4_WEIGHT_ONLY_64, Scheme.INT4_WEIGHT_ONLY, Scheme.FP32)
    plan = Plan.of(
        {
            **dict.fromkeys((site.name for site in captured.sites), Scheme.FP32),
            **dict(zip(layers, several, strict=True)),
            "act": several[0],
        }
    )
    executed = backend.build(plan).executed
    assert [executed[name].scheme for name in layers] == list(several)


def test_another_group_than_planned_is_refused(
    opened: tuple[str, Capture, Backend, SchemeRounding],
) -> None:
    name, captured, backend, _ = opened
    executed = backend.build(plan_of(captured, Scheme.INT4_WEIGHT_ONLY)).executed
    coarser = Plan.of(
        {
            **{site: ran.scheme for site, ran in executed.items() if ran.scheme is not None},
            "narrow": Scheme.INT4_WEIGHT_ONLY_128,
        }
    )
    message = "narrow is planned as int4_weight_only_128 but runs int4_weight_only native"
    with pytest.raises(BackendError, match=message):
        refuse_substitution(name, coarser, executed, lambda _, planned: (planned,))


def test_the_exported_file_keeps_four_bits(
    opened: tuple[str, Capture, Backend, SchemeRounding], tmp_path: Path
) -> None:
    _, captured, backend, _ = opened
    sizes = []
    for scheme in (Scheme.INT4_WEIGHT_ONLY, Scheme.INT8_WEIGHT_ONLY):
        (tmp_path / scheme.value).mkdir()
        backend.export(
            plan_of(captured, scheme), tmp_path / scheme.value / f"m{backend.suffix}", {}
        )
        sizes.append(sum(item.stat().st_size for item in (tmp_path / scheme.value).iterdir()))
    assert sizes[0] < 0.8 * sizes[1]


def test_openvino_refuses_a_row_that_groups_do_not_fill() -> None:
    model = nn.Sequential(nn.Linear(40, 8)).eval()
    captured = capture(model, (torch.randn(2, 40),), how="export")
    for scheme in BY_GROUP:
        assert site_support(captured.sites[0], scheme) is Support.UNSUPPORTED
        assert support_at(captured.sites[0], scheme) is Support.NATIVE


@pytest.mark.parametrize("name", ["torch", "litert", "inductor"])
def test_targets_without_a_kernel_say_so(name: str) -> None:
    pytest.importorskip({"litert": "litert_torch"}.get(name, "torch"))
    target = load_target(name)
    for settings in target.variants().values():
        for kind in OpKind:
            found = target.kind_support(settings, kind, Scheme.INT4_WEIGHT_ONLY)
            assert found is Support.UNSUPPORTED


def test_a_plan_file_keeps_the_name(tmp_path: Path) -> None:
    plan = Plan.of({"fc": Scheme.INT4_WEIGHT_ONLY_128})
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert '"int4_weight_only_128"' in (tmp_path / "plan.json").read_text()
