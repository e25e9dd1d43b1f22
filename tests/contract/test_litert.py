"""LiteRT's support table against what is written and run, op by op; exports run without us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.litert.backend import LiteRtBackend
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from tests.backend_contract import sqnr_db
from tests.contract.test_torch_engines import LINE, MAP, OPS, after_conv
from tests.networks import MixedNet, images, seeded
from tests.spaces import full_space, random_plan

pytest.importorskip("litert_torch")
pytestmark = pytest.mark.filterwarnings("ignore")

SCHEMES = (Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.FP32)
SQNR_DB = {Scheme.INT8: 30.0, Scheme.INT16: 40.0, Scheme.FP16: 55.0, Scheme.FP32: 100.0}
"""What one or two ops keep at least: 8 bits near 40 dB, their weights the same under int16, half
floats near 66 dB."""

MORE_OPS: dict[str, tuple[nn.Module, Tensor]] = {
    "strided conv_transpose2d": (nn.ConvTranspose2d(4, 8, 3, stride=2), MAP),
    "doubling conv_transpose2d": (nn.ConvTranspose2d(4, 8, 3, 2, 1, output_padding=1), MAP),
    "doubling conv_transpose1d": (nn.ConvTranspose1d(4, 8, 3, 2, 1, output_padding=1), LINE),
    "cut conv_transpose2d": (nn.ConvTranspose2d(4, 8, (3, 4), (2, 1), (1, 2)), MAP),
    "conv_transpose2d with more behind": (nn.ConvTranspose2d(4, 8, 2, 3, output_padding=2), MAP),
    "dilated conv_transpose2d": (nn.ConvTranspose2d(4, 8, 3, (2, 3), 1, dilation=(2, 1)), MAP),
    "dilated conv_transpose1d": (nn.ConvTranspose1d(4, 8, 3, 2, 1, 1, dilation=3), LINE),
    "grouped conv_transpose2d": (nn.ConvTranspose2d(4, 8, 3, 2, 1, groups=2), MAP),
    "grouped conv2d": (nn.Conv2d(4, 8, 3, groups=2), MAP),
    "padded max pool": (after_conv(nn.MaxPool2d(3, 2, 1)), MAP),
    "softmax": (after_conv(nn.Softmax(1)), MAP),
    "relu6": (after_conv(nn.ReLU6()), MAP),
    "upsampling": (after_conv(nn.Upsample(scale_factor=2, mode="bilinear")), MAP),
    "upsampling by 1.5": (after_conv(nn.Upsample(scale_factor=(1.3, 1.5), mode="bilinear")), MAP),
    "nearest by 1.5": (after_conv(nn.Upsample(scale_factor=(1.3, 1.5))), MAP),
    "nearest by hardly more than 2": (after_conv(nn.Upsample(scale_factor=(2.05, 3.05))), MAP),
    "nearest, half": (after_conv(nn.Upsample(scale_factor=0.5)), MAP),
    "nearest, to a size": (after_conv(nn.Upsample((9, 23))), MAP),
    "batch norm": (nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4)), MAP),
}
NOT_HERE = {"gru", "instance norm", "conv_transpose3d", "twice the second"}
"""The last has its factor folded into the layer before, which then stays in float; the others
convert to the operators of their neighbours above. An embedding bag is not convertible."""

CONVERTED = {
    name: (op, example)
    for name, (kind, op, example) in OPS.items()
    if name not in NOT_HERE and kind is not OpKind.EMBEDDING_BAG
} | MORE_OPS


def backend_for(
    model: nn.Module, *example: Tensor, timed: tuple[Tensor, ...] | None = None
) -> LiteRtBackend:
    captured = capture(model.eval(), example, how="export")
    return LiteRtBackend(
        BuildRequest(
            model=model,
            captured=captured,
            statistics=calibrate(captured, [example]),
            settings=BuildSettings(backend="litert"),
            example=example,
            timed=timed or example,
        )
    )


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, LiteRtBackend]:
    model = seeded(MixedNet)
    return model, backend_for(model, images(4), timed=(images(1),))


def first(outputs: object) -> Tensor:
    while not isinstance(outputs, Tensor):
        outputs = outputs[0]  # type: ignore[index]
    return outputs


class Beside(nn.Module):
    """Several ops on one input, so that all are converted at once."""

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x: Tensor) -> tuple[object, ...]:
        return tuple(op(x) for op in self.ops)


class Report:
    """What LiteRT made of some ops in every scheme that the table gives them."""

    def __init__(self, names: list[str]) -> None:
        example = CONVERTED[names[0]][1]
        model = Beside([CONVERTED[name][0] for name in names]).eval()
        self.names = names
        self.backend = backend_for(model, example)
        self.sites = {site.name: site for site in capture(model, (example,), how="export").sites}
        self.expected = model(example)
        self.plans = {scheme: self._plan(scheme) for scheme in SCHEMES}
        self.executed, self.outputs = {}, {}
        for scheme, plan in self.plans.items():
            executable = self.backend.build(plan)
            self.executed[scheme] = executable.executed
            self.outputs[scheme] = self.backend.run(executable.module, (example,))

    def of(self, index: int) -> list[Site]:
        """Sites of one op."""
        prefix = f"ops.{index}"
        return [
            s
            for n, s in self.sites.items()
            if n == prefix or n.startswith((f"{prefix}.", f"{prefix}:"))
        ]

    def _plan(self, scheme: Scheme) -> Plan:
        return Plan.of({name: self._scheme(site, scheme) for name, site in self.sites.items()})

    def _scheme(self, site: Site, scheme: Scheme) -> Scheme:
        while site.follows is not None:
            site = self.sites[site.follows]
        runs = self.backend.support(site, scheme) is not Support.UNSUPPORTED
        return scheme if runs else Scheme.FP32


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    beside: dict[int, list[str]] = {}
    for name, (_, example) in CONVERTED.items():
        beside.setdefault(id(example), []).append(name)
    made = [Report(names) for names in beside.values()]
    return {name: report for report in made for name in report.names}


@pytest.mark.parametrize("scheme", SCHEMES, ids=[scheme.value for scheme in SCHEMES])
@pytest.mark.parametrize("name", CONVERTED)
def test_the_table_is_what_runs(reports: dict[str, Report], name: str, scheme: Scheme) -> None:
    report = reports[name]
    index = report.names.index(name)
    sites = report.of(index)
    assert sites
    for site in sites:
        runs = report.plans[scheme][site.name]
        support = report.backend.support(site, runs)
        if site.follows is not None and support is Support.UNSUPPORTED:
            runs, support = Scheme.FP32, Support.NATIVE
        ran = report.executed[scheme][site.name]
        assert (ran.scheme, ran.support) == (runs, support)
    found = first(report.outputs[scheme][index])
    assert sqnr_db(first(report.expected[index]).detach(), found) > SQNR_DB[scheme]


@pytest.mark.parametrize("name", CONVERTED)
def test_what_the_table_lacks_is_refused_where_a_site_leads(
    reports: dict[str, Report], name: str
) -> None:
    report = reports[name]
    floats = report.plans[Scheme.FP32]
    for site in report.of(report.names.index(name)):
        for scheme in SCHEMES:
            if site.follows is None and report.backend.support(site, scheme) is Support.UNSUPPORTED:
                plan = Plan.of(dict(floats.assignment) | {site.name: scheme})
                with pytest.raises(
                    BackendError, match=rf"{site.name} is planned as {scheme.value}"
                ):
                    report.backend.build(plan)


def test_an_embedding_bag_is_refused_as_the_converter_refuses_it() -> None:
    _, op, example = OPS["embedding bag"]
    with pytest.raises(BackendError, match=r"cannot convert the model.*_embedding_bag"):
        backend_for(nn.Sequential(op), example)


def test_int8_convolutions_around_an_activation_that_is_always_zero_run() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    with torch.no_grad():
        model[0].bias -= 1000.0  # type: ignore[operator]
    backend = backend_for(model, MAP)
    plan = Plan.of({"0": Scheme.INT8, "2": Scheme.INT8})
    with torch.no_grad():
        torch.testing.assert_close(backend.build(plan).module(MAP), model(MAP), rtol=0.0, atol=0.01)


def seen_of(mask: Tensor) -> Tensor:
    """A mask of padding as transformers makes it, of shape (batch, 1, tokens, tokens)."""
    rows = torch.arange(mask.shape[0])[:, None, None, None]
    places = torch.arange(mask.shape[1])
    seen = mask.bool()[rows, places[None, None, None, :]]
    return (torch.ones(1, 1, mask.shape[1], 1).bool() & seen).expand(-1, 1, *2 * mask.shape[1:])


ATTENTIONS: dict[str, Callable[[Tensor], dict[str, Any]]] = {
    "plain": lambda mask: {},
    "padding": lambda mask: {"attn_mask": seen_of(mask)},
    "all padding": lambda mask: {"attn_mask": seen_of(mask * (mask.sum(1, True) > 3))},
    "biased": lambda mask: {"attn_mask": mask[:, None, None, :].float() * 2},
    "causal": lambda mask: {"is_causal": True},
    "scaled": lambda mask: {"scale": 0.3},
}


class Attending(nn.Module):
    """Attention of four heads over two heads of keys where they are fewer; a layer norm before."""

    def __init__(self, options: Callable[[Tensor], dict[str, Any]], key_heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.query, self.out = nn.Linear(32, 32), nn.Linear(32, 32)
        self.key, self.value = (nn.Linear(32, 8 * key_heads) for _ in range(2))
        self.options, self.is_grouped = options, key_heads != 4

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x)
        parts = (part(y) for part in (self.query, self.key, self.value))
        heads = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in parts)
        options = {**self.options(mask), "enable_gqa": self.is_grouped}
        found = nn.functional.scaled_dot_product_attention(*heads, **options)
        return x + self.out(found.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_layers_before_an_attention_have_formats_of_their_own(
    name: str, key_heads: int
) -> None:
    model = seeded(partial(Attending, ATTENTIONS[name], key_heads))
    x = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(6) < torch.tensor([[3], [6], [5]])).long()
    backend = backend_for(model, x, mask)
    space = full_space(capture(model, (x, mask), how="export"), backend)
    for plan in (space.uniform(Scheme.FP32), space.uniform(Scheme.INT8), random_plan(space, 0)):
        built = backend.build(plan)
        for site in ("query", "key", "value", "out"):
            assert built.executed[site].scheme is plan[site]
        with torch.no_grad():
            found = backend.run(built.module, (x, mask))
            worst = min(SQNR_DB[scheme] for _, scheme in plan.assignment)
            assert sqnr_db(model(x, mask), found) > worst


def test_random_mixed_plans_run_as_planned_and_stay_near_float(
    mixed: tuple[nn.Module, LiteRtBackend],
) -> None:
    model, backend = mixed
    example = images(4)
    space = full_space(capture(model, (example,), how="export"), backend)
    with torch.no_grad():
        expected = model(example)
    for seed in range(12):
        executable = backend.build(random_plan(space, seed))
        found = backend.run(executable.module, (example,))
        assert sqnr_db(expected, found) > 25.0, seed  # int8 everywhere keeps 30 dB here


def test_every_batch_size_gives_the_same_samples_the_same_outputs(
    mixed: tuple[nn.Module, LiteRtBackend],
) -> None:
    model, backend = mixed
    space = full_space(capture(model, (images(4),), how="export"), backend)
    module = backend.build(random_plan(space, 1, (Scheme.INT8, Scheme.INT16))).module
    batch = images(7)
    whole = backend.run(module, (batch,))
    one_by_one = torch.cat([backend.run(module, (batch[i : i + 1],)) for i in range(7)])
    # one step of the output's grid: XNNPACK may round a tie otherwise for another shape
    assert (whole - one_by_one).abs().max() <= 1.01 * (whole.max() - whole.min()) / 255


def test_threads_are_those_of_torch_and_change_nothing(
    mixed: tuple[nn.Module, LiteRtBackend],
) -> None:
    model, backend = mixed
    space = full_space(capture(model, (images(4),), how="export"), backend)
    module = backend.build(space.uniform(Scheme.INT8)).module
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs.append(backend.run(module, (images(4),)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outputs)


PLAIN_API = """
import json, sys
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
path, inputs, outputs = sys.argv[1:]
model = schema.Model.GetRootAs(open(path, "rb").read(), 0)
entries = [model.Metadata(i) for i in range(model.MetadataLength())]
buffer = next(e.Buffer() for e in entries if e.Name() == b"autoquant")
interpreter = Interpreter(model_path=path)
runner = interpreter.get_signature_runner()
result = runner(input_0=np.load(inputs))["output"]
np.save(outputs, result)
assert not any(name.startswith(("autoquant", "torch")) for name in sys.modules)
print(bytes(model.Buffers(buffer).DataAsNumpy()).decode())
"""


def test_an_exported_file_runs_by_its_own_api_and_carries_its_plan(
    mixed: tuple[nn.Module, LiteRtBackend], tmp_path: Path
) -> None:
    model, backend = mixed
    space = full_space(capture(model, (images(4),), how="export"), backend)
    plan = random_plan(space, 3)
    path = backend.export(plan, tmp_path / f"model{backend.suffix}", {"plan": plan.to_json()})
    inputs, outputs = tmp_path / "inputs.npy", tmp_path / "outputs.npy"
    np.save(inputs, images(1).numpy())
    command = [sys.executable, "-c", PLAIN_API, str(path), str(inputs), str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Plan.from_json(json.loads(done.stdout)["plan"]) == plan
    reported = backend.run(backend.build(plan).module, (images(1),))
    assert np.array_equal(np.load(outputs), reported.numpy())
