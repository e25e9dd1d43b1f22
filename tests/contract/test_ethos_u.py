"""The Ethos-U backend against Vela: support, estimates, additive costs, and the exported file."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("ethosu")
pytest.importorskip("litert_torch")

from autoquant.backends.litert.convert import convert_float
from autoquant.backends.litert.ethos_u.backend import EthosUBackend
from autoquant.backends.litert.ethos_u.configuration import find_configuration
from autoquant.backends.litert.ethos_u.estimator import Estimator, estimate_on_npu
from autoquant.backends.litert.ethos_u.support import kind_support, site_support
from autoquant.backends.litert.ethos_u.target import variants
from autoquant.backends.litert.ethos_u.vela import estimate
from autoquant.backends.litert.flatbuffer import Boundary, FloatFile, write_plan
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import Capture, capture
from tests.networks import images
from tests.readbacks import words
from tests.spaces import full_space, random_plan

pytestmark = pytest.mark.filterwarnings("ignore")

INT8, INT16 = Scheme.INT8, Scheme.INT16
NATIVE = Support.NATIVE
ACCELERATORS = tuple(settings.options["accelerator"] for settings in variants().values())


class Residual(nn.Module):
    """Two blocks whose inputs are read twice, and a convolution with padding and stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.conv1(x))))
        x = F.relu(self.down(x))
        x = F.relu(x + self.conv3(x))
        return self.head(torch.flatten(self.pool(x), 1))


class EveryKind(nn.Module):
    """One of each kind of op that runs on every Ethos-U in both widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2)
        self.line = nn.Conv1d(4, 4, 3)
        self.widen = nn.ConvTranspose1d(4, 4, 3)
        self.head = nn.Linear(4, 8)
        self.softmax = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.conv(x))
        b = torch.sigmoid(self.depthwise(x))
        y = torch.cat([a * b, a + b], 1)
        y = F.max_pool2d(y, 2)[:, :4]
        y = F.avg_pool2d(self.up(y), 3)
        y = self.widen(self.line(y.flatten(2)))
        return self.softmax(self.head(y.mean(2)))


class Product(nn.Module):
    """A matrix product of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.left(x), self.right(x))


def maps(channels: int = 4) -> Tensor:
    return torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def converted(model: nn.Module, example: Tensor, batch: int = 1) -> tuple[Capture, FloatFile]:
    captured = capture(model, (example,))
    ranges = TensorRanges(captured, calibrate(captured, [(example,)]), BuildSettings())
    return captured, convert_float(captured, (example[:batch],), ranges)


def open_backend(
    model: nn.Module, example: Tensor, accelerator: str = "ethos-u55-128"
) -> EthosUBackend:
    captured = capture(model, (example,))
    return EthosUBackend(
        BuildRequest(
            model=model,
            captured=captured,
            statistics=calibrate(captured, [(example,)]),
            settings=BuildSettings("ethos-u", options={"accelerator": accelerator}),
            example=(example,),
            timed=(example[:1],),
        )
    )


@pytest.fixture(scope="module")
def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def backend(residual: nn.Module) -> EthosUBackend:
    return open_backend(residual, images(8))


@pytest.fixture(scope="module")
def space(residual: nn.Module, backend: EthosUBackend) -> SearchSpace:
    return full_space(capture(residual, (images(8),)), backend)


@pytest.fixture(scope="module")
def residual_file(residual: nn.Module) -> tuple[Capture, FloatFile]:
    return converted(residual, images(8))


@pytest.fixture(scope="module")
def every_kind() -> tuple[Capture, FloatFile]:
    torch.manual_seed(0)
    return converted(EveryKind().eval(), maps())


@pytest.fixture(scope="module")
def product() -> tuple[Capture, FloatFile]:
    torch.manual_seed(0)
    return converted(Product().eval(), maps())


def cycles_on_npu(found: tuple[Capture, FloatFile], scheme: Scheme, accelerator: str) -> int:
    captured, file = found
    schemes = {site.name: scheme for site in captured.sites}
    written = write_plan(file, schemes, Boundary.PLAN)
    return estimate_on_npu(written, find_configuration(accelerator), file.batch).cycles


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("scheme", [INT8, INT16], ids=["int8", "int16"])
def test_every_kind_that_the_table_promises_runs_on_the_npu(
    every_kind: tuple[Capture, FloatFile], scheme: Scheme, accelerator: str
) -> None:
    sites = every_kind[0].sites
    promised = {kind for kind in OpKind if kind_support(accelerator, kind, scheme) is NATIVE}
    assert promised - {OpKind.MATMUL} == {site.kind for site in sites}
    assert {site_support(accelerator, site, scheme) for site in sites} == {NATIVE}
    assert cycles_on_npu(every_kind, scheme, accelerator) > 0


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("scheme", [INT8, INT16], ids=["int8", "int16"])
def test_a_product_of_two_activations_runs_where_the_table_says(
    product: tuple[Capture, FloatFile], scheme: Scheme, accelerator: str
) -> None:
    if kind_support(accelerator, OpKind.MATMUL, scheme) is NATIVE:
        assert cycles_on_npu(product, scheme, accelerator) > 0
    else:
        with pytest.raises(BackendError, match=r"leaves BATCH_MATMUL of :matmul:0 to the CPU"):
            cycles_on_npu(product, scheme, accelerator)


@pytest.mark.parametrize("scheme", [s for s in Scheme if s not in (INT8, INT16)], ids=str)
def test_nothing_but_static_integers_is_offered(scheme: Scheme) -> None:
    supports = {kind_support(name, kind, scheme) for name in ACCELERATORS for kind in OpKind}
    assert supports == {Support.UNSUPPORTED}


def test_floats_are_refused(backend: EthosUBackend, space: SearchSpace) -> None:
    plan = Plan.of({**space.uniform(INT8).schemes, "conv1": Scheme.FP32})
    with pytest.raises(BackendError, match="conv1 is planned as fp32, which the target does not"):
        backend.build(plan)


def test_vela_says_what_it_leaves_to_the_cpu_and_prints_nothing(
    product: tuple[Capture, FloatFile], capfd: pytest.CaptureFixture[str]
) -> None:
    captured, file = product
    schemes = {site.name: INT8 for site in captured.sites} | {"left": Scheme.FP32}
    written = write_plan(file, schemes, Boundary.PLAN)
    found = estimate(written.content, find_configuration(""))
    left = {
        written.operators[step.operator].sites: (step.cycles, found.reasons[step.name])
        for step in found.steps
        if step.is_on_cpu and step.operator is not None
    }
    cycles, reason = left["left",]
    assert cycles == 0
    assert "Float32" in reason
    assert capfd.readouterr().out == ""


class Averaged(nn.Module):
    """Averages an image, and drops its axes or keeps them."""

    def __init__(self, *, keepdim: bool) -> None:
        super().__init__()
        self.conv, self.head, self.keepdim = nn.Conv2d(4, 8, 3), nn.Linear(8, 3), keepdim

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3), keepdim=self.keepdim).flatten(1))


@pytest.mark.parametrize(
    ("model", "reason", "mend"),
    [
        (Averaged(keepdim=False), "depth-reduction", "keepdim=True"),
        (nn.ConvTranspose2d(4, 8, 3, stride=3), "stride", "rewrite the op"),
    ],
    ids=["mean", "stride"],
)
def test_what_the_npu_does_not_take_is_refused_with_a_mend_for_its_reason(
    model: nn.Module, reason: str, mend: str
) -> None:
    with pytest.raises(BackendError, match=reason) as caught:
        cycles_on_npu(converted(model, maps()), INT8, "ethos-u55-128")
    assert mend in caught.value.hint


def test_a_mean_that_keeps_its_axes_runs_on_the_npu() -> None:
    cycles_on_npu(converted(Averaged(keepdim=True), maps()), INT8, "ethos-u55-128")


def test_a_batch_that_the_npu_does_not_take_is_refused_with_the_mend(residual: nn.Module) -> None:
    batch = converted(residual, images(8), batch=2)
    with pytest.raises(BackendError, match=r"MEAN of pool to the CPU: Batch > 1") as caught:
        cycles_on_npu(batch, INT8, "ethos-u55-128")
    assert "backend.batch_size to 1" in caught.value.hint


def test_what_is_built_runs_as_planned_and_stays_near_float(
    residual: nn.Module, backend: EthosUBackend, space: SearchSpace
) -> None:
    example = images(8)
    expected = residual(example).detach()
    for seed in range(4):
        plan = random_plan(space, seed)
        built = backend.build(plan)
        assert words(built.executed) == {name: f"{s.value} native" for name, s in plan.assignment}
        assert built.kind is Kind.MEASURED
        found = backend.run(built.module, (example,))
        # eight bits everywhere stay within a tenth of the output's range on this network
        assert (found - expected).abs().max() < 0.1 * (expected.max() - expected.min())


def test_speedups_are_over_all_int16(backend: EthosUBackend, space: SearchSpace) -> None:
    assert backend.rival == "all int16 on ethos-u55-128 (Vela)"
    assert backend.build(space.uniform(INT16)).estimated_ms == backend.rival_ms
    int8_ms = backend.build(space.uniform(INT8)).estimated_ms
    assert int8_ms is not None
    assert backend.rival_ms is not None
    assert int8_ms < backend.rival_ms


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_additive_costs_predict_plans_that_they_were_not_fitted_to(
    residual_file: tuple[Capture, FloatFile], space: SearchSpace, accelerator: str
) -> None:
    estimator = Estimator(residual_file[1], find_configuration(accelerator))
    table = estimator.costs(space)
    assert (table.kind, table.unit) == (Kind.ESTIMATED, "ms")
    draw = random.Random(9)
    plans = [
        space.plan({knob.name: draw.choice(knob.schemes) for knob in space.knobs})
        for _ in range(24)
    ]
    true = np.array([estimator.milliseconds(plan) for plan in plans])
    predicted = np.array([table.predict(plan) for plan in plans])
    errors = np.abs(predicted / true - 1)
    # what pairs cannot say: readers that share a conversion, and on the U85 ops that Vela chains
    # only where both neighbours let it; all of it weighs more in a network as small as this one
    mean, largest = (0.015, 0.04) if "u85" in accelerator else (0.01, 0.02)
    assert errors.mean() < mean
    assert errors.max() < largest
    assert true.std() / true.mean() > 0.05  # there is something to predict


def test_estimates_are_those_of_velas_own_command_line(
    backend: EthosUBackend, space: SearchSpace, tmp_path: Path
) -> None:
    plan = random_plan(space, 3)
    file = backend.export(plan, tmp_path / "plan.tflite", {"number": 3})
    vela = [sys.executable, "-m", "ethosu.vela", str(file), f"--output-dir={tmp_path}"]
    subprocess.run([*vela, "--accelerator-config=ethos-u55-128"], check=True, capture_output=True)
    (summary,) = tmp_path.glob("plan_summary_*.csv")
    with summary.open(encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    milliseconds = 1e3 * float(row["cycles_total"]) / float(row["core_clock"])
    assert milliseconds == pytest.approx(backend.build(plan).estimated_ms)


RUN_ALONE = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

model = Interpreter(model_path=sys.argv[1])
model.allocate_tensors()
(given,), (taken,) = model.get_input_details(), model.get_output_details()
scale, zero_point = given["quantization"]
limits = np.iinfo(given["dtype"])
found = []
for sample in np.load(sys.argv[2]):
    stored = np.clip(np.round(sample / scale) + zero_point, limits.min, limits.max)
    model.set_tensor(given["index"], stored.astype(given["dtype"])[None])
    model.invoke()
    scale_out, zero_out = taken["quantization"]
    found.append(scale_out * (model.get_tensor(taken["index"])[0].astype(float) - zero_out))
np.save(sys.argv[3], np.array(found))
assert "autoquant" not in sys.modules
print(given["dtype"].__name__)
"""


@pytest.mark.parametrize("first", [INT8, INT16], ids=["int8 input", "int16 input"])
def test_the_exported_file_gives_what_was_measured_without_autoquant(
    backend: EthosUBackend, space: SearchSpace, tmp_path: Path, first: Scheme
) -> None:
    plan = Plan.of({**random_plan(space, 1).schemes, "stem": first})
    file = backend.export(plan, tmp_path / "plan.tflite", {"number": 7})
    example = images(8)
    np.save(tmp_path / "in.npy", example.numpy())
    paths = [str(file), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, "-c", RUN_ALONE, *paths],
        check=True,
        capture_output=True,
        text=True,
        env=alone,
        cwd=tmp_path,
    ).stdout
    assert said.strip() == first.value
    measured = backend.run(backend.build(plan).module, (example,)).numpy()
    step = np.ptp(measured) / 255
    assert np.abs(np.load(tmp_path / "out.npy") - measured).max() <= 1.01 * step
    assert b'"accelerator": "ethos-u55-128"' in file.read_bytes()
    assert b'"number": 7' in file.read_bytes()


def test_a_pad_that_a_convolution_needs_is_written_after_the_conversion(
    residual_file: tuple[Capture, FloatFile],
) -> None:
    captured, file = residual_file
    schemes = {site.name: INT8 if site.name == "down" else INT16 for site in captured.sites}
    written = write_plan(file, schemes, Boundary.PLAN)
    names = [operator.name for operator in written.operators]
    place = names.index("PAD")
    assert names[place - 1 : place + 2] == ["QUANTIZE", "PAD", "CONV_2D"]
    found = estimate(written.content, find_configuration(""))
    # Vela makes such a pad part of the convolution
    assert sum(step.cycles for step in found.steps if step.operator == place) == 0
