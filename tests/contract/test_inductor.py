"""Inductor runs the int8 kernels that a plan asks for, here and from the exported file."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor_config
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("torchao")

from autoquant.backends.inductor.backend import InductorBackend
from autoquant.backends.inductor.compilation import check_compiler
from autoquant.backends.protocol import BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.readbacks import words

pytestmark = pytest.mark.filterwarnings("ignore")

BY_THE_PLAIN_API = """
import json, sys, torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # inductor's int8 passes
import torch._inductor.config

path, tensors = sys.argv[1:]
extra = {"autoquant.json": ""}
module = torch.export.load(path, extra_files=extra).module()
inputs, expected = torch.load(tensors)
with torch.no_grad(), torch._inductor.config.patch(freezing=True):
    found = torch.compile(module)(*inputs)
assert "autoquant" not in sys.modules
difference = float((found - expected).abs().max() / expected.abs().max())
print(json.dumps([difference, json.loads(extra["autoquant.json"])]))
"""


class Net(nn.Module):
    """A convolution each in int8 and fp32, a linear layer each in static and dynamic int8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.mix(x) + x
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.last(F.relu(self.head(x)))


torch.manual_seed(0)
MODEL = Net().eval()
EXAMPLE = (torch.randn(4, 3, 8, 8),)


@cache
def captured_model() -> Capture:
    return capture(MODEL, EXAMPLE)


def in_fp32(**others: Scheme) -> Plan:
    return Plan.of({site.name: Scheme.FP32 for site in captured_model().sites} | others)


def mixed_plan() -> Plan:
    return in_fp32(stem=Scheme.INT8, head=Scheme.INT8, last=Scheme.INT8_DYNAMIC)


@pytest.fixture(scope="module")
def backend() -> InductorBackend:
    settings = BuildSettings(backend="inductor")
    opened = load_target("inductor").open_backend(
        BuildRequest(
            MODEL,
            captured_model(),
            calibrate(captured_model(), [EXAMPLE]),
            settings,
            EXAMPLE,
            EXAMPLE,
        )
    )
    assert isinstance(opened, InductorBackend)
    return opened


@pytest.mark.slow
def test_int8_kernels_run_where_planned_and_from_the_exported_file(
    backend: InductorBackend, tmp_path: Path
) -> None:
    # a plan of a backend with int8 adds: here the add stays in fp32, and that is what is said
    built = backend.build(Plan.of(dict(mixed_plan().assignment) | {":add:0": Scheme.INT8}))
    assert built.kind is Kind.MEASURED
    assert words(built.executed) == {
        name: f"{scheme.value} native" for name, scheme in mixed_plan().assignment
    }
    outputs = backend.run(built.module, EXAMPLE)
    with torch.no_grad():
        expected = MODEL(*EXAMPLE)
    assert not torch.equal(outputs, expected)
    # eight bits at three layers: a few steps of 1/256 of the range
    assert (outputs - expected).abs().max() < 0.05 * (expected.max() - expected.min())

    path = backend.export(
        mixed_plan(), tmp_path / f"model{backend.suffix}", {"plan": mixed_plan().to_json()}
    )
    tensors = tmp_path / "tensors.pt"
    torch.save((EXAMPLE, outputs), tensors)
    done = subprocess.run(
        [sys.executable, "-c", BY_THE_PLAIN_API, str(path), str(tensors)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    difference, metadata = json.loads(done.stdout.splitlines()[-1])
    assert difference < 1e-5  # the same kernels on the same data
    assert metadata == {"plan": mixed_plan().to_json()}


class Overwriting(nn.Module):
    """inductor adds in place where an int8 linear layer's result meets the model's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x


@pytest.mark.slow
def test_a_graph_that_writes_into_its_input_is_refused() -> None:
    model, example = Overwriting().eval(), (torch.randn(4, 16),)
    given = example[0].clone()
    captured = capture(model, example)
    opened = load_target("inductor").open_backend(
        BuildRequest(
            model,
            captured,
            calibrate(captured, [example]),
            BuildSettings(backend="inductor"),
            example,
            example,
        )
    )
    plan = Plan.of({":add:0": Scheme.FP32, "linear": Scheme.INT8})
    with pytest.raises(BackendError, match="writes its result into the model's input 0"):
        opened.build(plan)
    assert torch.equal(example[0], given)


@pytest.mark.parametrize(
    ("site", "scheme"),
    [
        (":add:0", Scheme.BF16),
        ("mix", Scheme.INT8_DYNAMIC),
        ("stem", Scheme.BF16),
        ("head", Scheme.FP16),
        ("head", Scheme.INT16),
    ],
    ids=lambda item: item if isinstance(item, str) else item.value,
)
def test_what_inductor_does_not_run_is_unsupported_and_refused(
    backend: InductorBackend, site: str, scheme: Scheme
) -> None:
    (found,) = [item for item in captured_model().sites if item.name == site]
    assert backend.support(found, scheme) is Support.UNSUPPORTED
    with pytest.raises(BackendError, match=f"inductor does not run {site} .* in {scheme.value}"):
        backend.build(in_fp32(**{site: scheme}))


def test_an_int8_add_is_no_choice_of_a_search(backend: InductorBackend) -> None:
    (add,) = [site for site in captured_model().sites if site.kind is OpKind.ADD]
    assert backend.support(add, Scheme.INT8) is Support.UNSUPPORTED


def test_only_modules_with_int8_kernels_take_int8() -> None:
    support = load_target("inductor").kind_support
    settings = BuildSettings(backend="inductor")
    found = {kind for kind in OpKind if support(settings, kind, Scheme.INT8) is Support.NATIVE}
    assert found == {OpKind.CONV2D, OpKind.LINEAR}


def test_a_missing_compiler_is_said_before_anything_is_built() -> None:
    with (
        inductor_config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(BackendError, match=r"needs a C\+\+ compiler"),
    ):
        check_compiler()
    check_compiler()
