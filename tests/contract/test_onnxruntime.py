"""The support table against what ONNX Runtime really makes of each kind of op."""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend
from autoquant.backends.onnxruntime.saturation import saturates
from autoquant.backends.onnxruntime.target import TARGET
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import capture
from tests.backend_contract import Opened
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.readbacks import words
from tests.spaces import full_space, random_plan

pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = BuildSettings(backend="onnxruntime")
MAP = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.arange(32).reshape(4, 8)
ZOO_INPUTS = (MAP, MAP[..., 0].contiguous(), MAP[..., None].repeat(1, 1, 1, 1, 3), TOKENS)


class Zoo(nn.Module):
    """One op of each kind, and those of a kind that ONNX Runtime treats apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(4, 8, 3)
        self.conv3d = nn.Conv3d(4, 8, 3)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.transposed = nn.ConvTranspose2d(4, 8, 3, groups=2)
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.max_pool = nn.MaxPool2d(2)
        self.mean_pool = nn.AvgPool2d(2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.pools_apart = nn.AdaptiveAvgPool2d(3)
        self.sigmoid = nn.Sigmoid()
        self.relu6 = nn.ReLU6()
        self.tanh = nn.Tanh()
        self.embedding = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.step = nn.LSTMCell(8, 8)

    def forward(self, x: Tensor, line: Tensor, volume: Tensor, tokens: Tensor) -> list[Tensor]:
        a, b, c = self.conv(x), F.relu(self.depthwise(x)), self.grouped(x)
        return [
            self.conv1d(line),
            self.conv3d(volume),
            self.relu6(self.circular(x)),
            self.sigmoid(self.transposed(x)),
            F.relu(F.conv2d(x, self.weight, None, (1, 1), (1, 1), (1, 1), 1)),
            F.relu(a + b),
            torch.mul(b, c),
            torch.matmul(a, c),
            self.global_pool(self.max_pool(torch.cat([a, b], 1))),
            self.mean_pool(a),
            self.pools_apart(a),
            self.tanh(c),
            self.norm(self.linear(x[:, 0])),
            self.lstm(self.embedding(tokens))[0],
            self.step(x[:, 0, 0])[0],
        ]


class Attention(nn.Module):
    """A transformer layer of one head, whose linears are three-dimensional."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        weights = torch.softmax(torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / 4, -1)
        x = self.norm(x + self.out(torch.matmul(weights, self.value(x))))
        return (x + self.down(F.gelu(self.up(x)))).mean(1)


class Sandwich(nn.Module):
    """Layers that ONNX Runtime would fuse into int8 kernels between int8 neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 8)
        self.tail = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = self.middle(x)
        y = torch.mul(operator.add(x, y), y)
        y = torch.softmax(self.last(y).mean((2, 3)), 1)
        return self.tail(F.relu(self.head(y)))


def backend_for(model: nn.Module, *inputs: Tensor) -> OnnxRuntimeBackend:
    captured = capture(model.eval(), inputs, how="export")
    statistics = calibrate(captured, [inputs])
    return TARGET.open_backend(BuildRequest(model, captured, statistics, SETTINGS, inputs, inputs))


@pytest.fixture(scope="module")
def zoo() -> OnnxRuntimeBackend:
    return backend_for(seeded(Zoo), *ZOO_INPUTS)


@pytest.fixture(scope="module")
def sandwich() -> OnnxRuntimeBackend:
    return backend_for(seeded(Sandwich), MAP)


@pytest.fixture(scope="module")
def attention() -> OnnxRuntimeBackend:
    return backend_for(seeded(Attention), TOKENS)


@pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.value)
def test_what_the_table_promises_is_what_runs_with_all_else_in_fp32(
    zoo: OnnxRuntimeBackend, scheme: Scheme
) -> None:
    space = full_space(zoo.captured, zoo)
    sites = {site.name: site for site in zoo.captured.sites}
    for knob in space.knobs:
        choices = {item.name: Scheme.FP32 for item in space.knobs}
        plan = space.plan(choices).schemes
        alone = Plan.of({**plan, **dict.fromkeys(knob.sites, scheme)})
        if scheme not in knob.schemes:
            with pytest.raises(BackendError, match=f"does not run {scheme.value} at"):
                zoo.build(alone)
            continue
        executed = zoo.build(alone).executed
        for name in knob.sites:
            support = zoo.support(sites[name], scheme)
            wanted = {f"{scheme.value} {support.value}"}
            if sites[name].follows is not None:  # its own label says what runs where none is
                fallback = support is Support.UNSUPPORTED or name == "pools_apart"
                wanted = {"fp32 native"} if fallback else wanted
            assert str(executed[name]) in wanted, (name, scheme)


class PooledFloats(nn.Module):
    """Max pools between an op that has no int8 kernel and one that has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3)
        self.slopes = nn.PReLU(8)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.slopes(self.first(x))))


def test_a_max_pool_may_run_on_the_codes_of_what_reads_it() -> None:
    backend = backend_for(seeded(PooledFloats), MAP)
    float_pool = Plan.of({site.name: Scheme.FP32 for site in backend.captured.sites})
    mixed = Plan.of({**float_pool.schemes, "last": Scheme.INT8})
    built = backend.build(mixed)
    assert str(built.executed["pool"]) == "fp32 native"
    assert str(built.executed["last"]) == "int8 native"
    exact = backend.run(backend.build(float_pool).module, (MAP,))
    found = backend.run(built.module, (MAP,))
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.02  # two levels of 255, both


class Bags(nn.Module):
    """torch writes bags as a loop, whose body reads tensors of the graph around it."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(50, 8, mode="mean")
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bags(tokens))


class Masked(nn.Module):
    """Adds what is far below zero where a mask of whole numbers is zero."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        shifted: Tensor = torch.relu(x) + (1.0 - mask).unsqueeze(-1) * -50.0
        return shifted


def test_whole_numbers_are_taken_from_a_fraction() -> None:
    model, inputs = Masked(), (torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]]))
    opened = Opened(BuildSettings(backend="onnxruntime"), model, inputs)
    plan = Plan.uniform([site.name for site in opened.captured.sites], Scheme.FP32)
    torch.testing.assert_close(opened.outputs(plan), model(*inputs))


class OneHead(nn.Module):
    """Attention over (batch, positions, features), with a mask for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.rows(x).chunk(3, -1)
        return self.head(
            nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        )


def test_attention_without_heads_runs() -> None:
    torch.manual_seed(0)
    mask = torch.rand(3, 5, 5) > 0.3
    model, inputs = OneHead().eval(), (torch.randn(3, 5, 8), mask | torch.eye(5, dtype=torch.bool))
    opened = Opened(BuildSettings(backend="onnxruntime"), model, inputs)
    names = [site.name for site in opened.captured.sites]
    with torch.no_grad():
        exact = model(*inputs)
    plan = Plan.uniform(names, Scheme.FP32)
    torch.testing.assert_close(opened.outputs(plan), exact, rtol=1e-4, atol=1e-5)
    linears = Plan.of({name: Scheme.INT8 if ":" not in name else Scheme.FP32 for name in names})
    expected = opened.expected(linears)
    assert (opened.outputs(linears) - expected).norm() < 0.05 * expected.norm()


class Clamped(nn.Module):
    """Cuts between a whole number and a fraction, as people write it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.clamp(-1, 0.5))


def test_a_tensor_is_cut_between_a_whole_number_and_a_fraction() -> None:
    model, inputs = Clamped(), (torch.randn(4, 6),)
    opened = Opened(BuildSettings(backend="onnxruntime"), model, inputs)
    plan = Plan.uniform([site.name for site in opened.captured.sites], Scheme.FP32)
    torch.testing.assert_close(opened.outputs(plan), model(*inputs))


def test_a_loop_finds_what_its_body_reads_outside() -> None:
    model = seeded(Bags)
    backend = backend_for(model, TOKENS)
    plan = Plan.of({"bags": Scheme.FP32, "head": Scheme.INT8})
    built = backend.build(plan)
    assert words(built.executed) == {"bags": "fp32 native", "head": "int8 native"}
    with torch.no_grad():
        exact = model(TOKENS[:3])
    found = backend.run(built.module, (TOKENS[:3],))
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.05  # 8 bits, twice


def test_the_table_of_kinds_agrees_with_sites_and_bf16_is_refused() -> None:
    (settings,) = TARGET.variants().values()
    assert settings == SETTINGS
    site = capture(nn.Sequential(nn.Conv2d(4, 4, 1)), (MAP,), how="export").sites[0]
    for scheme in Scheme:
        assert TARGET.kind_support(settings, OpKind.CONV2D, scheme) is TARGET.site_support(
            settings, site, scheme
        )
        assert TARGET.kind_support(settings, OpKind.GRU, scheme) is (
            Support.NATIVE if scheme is Scheme.FP32 else Support.UNSUPPORTED
        )
    assert TARGET.kind_support(settings, OpKind.LINEAR, Scheme.BF16) is Support.UNSUPPORTED


@pytest.mark.parametrize("network", [MixedNet, Attention, TextNet, LinearNet])
def test_random_mixed_plans_build_and_stay_near_float(network: type[nn.Module]) -> None:
    model = seeded(network)
    example = {MixedNet: images(4), LinearNet: MAP[:, 0, :2].reshape(4, 16)}.get(network, TOKENS)
    backend = backend_for(model, example)
    space = full_space(backend.captured, backend)
    with torch.no_grad():
        expected = model(example)
    for seed in range(12):
        executable = backend.build(random_plan(space, seed))
        outputs = backend.run(executable.module, (example,))
        # eight bits everywhere stay within a tenth of the output's range on these networks
        assert (outputs - expected).abs().max() < 0.1 * (expected.max() - expected.min()), seed


def test_fp32_is_the_model_itself(sandwich: OnnxRuntimeBackend) -> None:
    plan = full_space(sandwich.captured, sandwich).uniform(Scheme.FP32)
    executable = sandwich.build(plan)
    assert executable.kind is Kind.MEASURED
    with torch.no_grad():
        expected = seeded(Sandwich)(MAP[:1])
    # float sums in another order; one sample, though two or more were exported
    torch.testing.assert_close(sandwich.run(executable.module, (MAP[:1],)), expected)


@pytest.mark.parametrize("name", ["middle", ":add:0", ":mul:0", "head"])
def test_an_op_left_in_fp32_between_int8_neighbours_stays_fp32(
    sandwich: OnnxRuntimeBackend, name: str
) -> None:
    int8 = full_space(sandwich.captured, sandwich).uniform(Scheme.INT8).schemes
    executable = sandwich.build(Plan.of({**int8, name: Scheme.FP32}))
    expected = dict.fromkeys(int8, "int8 native") | {name: "fp32 native"}
    assert words(executable.executed) == expected


def test_a_graph_that_is_not_the_plan_is_refused_by_site_name(sandwich: OnnxRuntimeBackend) -> None:
    space = full_space(sandwich.captured, sandwich)
    int8, fp32 = space.uniform(Scheme.INT8), space.uniform(Scheme.FP32)
    one_less = Plan.of({**int8.schemes, "middle": Scheme.FP32})
    with pytest.raises(BackendError, match="middle is planned as int8 but runs fp32"):
        sandwich.open(int8, sandwich.write(one_less))
    with pytest.raises(BackendError, match="is planned as fp32 but runs int8"):
        sandwich.open(fp32, sandwich.write(int8))
    fp16 = Plan.of({**fp32.schemes, "last": Scheme.FP16})
    with pytest.raises(BackendError, match="last is planned as fp16 but runs fp32"):
        sandwich.open(fp16, sandwich.write(fp32))


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16, Scheme.FP16], ids=lambda s: s.value)
def test_a_convolution_rounds_as_its_scheme_says(scheme: Scheme) -> None:
    conv = seeded(Sandwich).first
    model = nn.Sequential(conv)
    backend = backend_for(model, MAP)
    ranges = TensorRanges(backend.captured, calibrate(backend.captured, [(MAP,)]), SETTINGS)
    (name,) = (site.name for site in backend.captured.sites)

    def grid(tensor: str, value: Tensor) -> Tensor:
        if scheme is Scheme.FP16:
            return value.half().float()
        find = ranges.int8_grid if scheme is Scheme.INT8 else ranges.int16_grid
        return find(tensor)(value)

    with torch.no_grad():
        weight = conv.weight.half().float()
        if scheme is not Scheme.FP16:
            high = 63 if scheme is Scheme.INT8 and saturates() else 127
            scale = conv.weight.abs().amax((1, 2, 3), keepdim=True) / high
            weight = (conv.weight / scale).round() * scale
        (read,), (written,) = backend.captured.reads(name), backend.captured.writes(name)
        sums = F.conv2d(grid(read, MAP), weight, conv.bias, padding=1)
        expected = grid(written, sums)
        outputs = backend.build(Plan.of({name: scheme})).module(MAP)
    # sums in another order may fall on the other side of a level; seldom, and by one level only
    apart = (outputs - expected).abs()
    levels = {Scheme.INT8: 2**8, Scheme.INT16: 2**16, Scheme.FP16: 2**10}[scheme]
    assert apart.max() < 2.1 * expected.abs().max() / levels
    assert (apart > 1e-6).float().mean() < 0.02


@pytest.mark.parametrize(
    "scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT_ONLY], ids=lambda s: s.value
)
def test_linears_of_a_transformer_run_int8_kernels(
    attention: OnnxRuntimeBackend, scheme: Scheme
) -> None:
    names = ["query", "key", "value", "out", "up", "down"]
    fp32 = full_space(attention.captured, attention).uniform(Scheme.FP32).schemes
    executable = attention.build(Plan.of({**fp32, **dict.fromkeys(names, scheme)}))
    assert {str(executable.executed[name]) for name in names} == {f"{scheme.value} native"}
    with torch.no_grad():
        expected = seeded(Attention)(TOKENS)
    outputs = attention.run(executable.module, (TOKENS[:3],))
    assert F.cosine_similarity(outputs, expected[:3]).min() > 0.99


def test_a_module_runs_with_as_many_threads_as_torch(sandwich: OnnxRuntimeBackend) -> None:
    module = sandwich.build(full_space(sandwich.captured, sandwich).uniform(Scheme.INT8)).module
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs.append(module(MAP))
            assert module.session().engine.get_session_options().intra_op_num_threads == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outputs)


def test_a_channel_with_a_large_bias_keeps_it() -> None:
    model = nn.Sequential(nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight[0] *= 1e-12
        model[0].bias[0] = 50.0
    backend = backend_for(model, MAP)
    executable = backend.build(Plan.of({"0": Scheme.INT8}))
    # one of 256 levels of the output's range, which the bias sets
    assert (executable.module(MAP)[:, 0] - 50.0).abs().max() < 0.5


def test_costs_cover_every_choice_of_the_space(sandwich: OnnxRuntimeBackend) -> None:
    space = full_space(sandwich.captured, sandwich)
    ticks = iter(range(10**6))
    table = sandwich.costs(space, (MAP,), lambda: next(ticks) * 1e-3)
    assert table is not None
    assert table.kind is Kind.MEASURED
    for seed in range(4):
        assert np.isfinite(table.predict(random_plan(space, seed)))


RUN_PLAINLY = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
assert not any(name.split(".")[0] in ("autoquant", "torch") for name in sys.modules)
(name,) = (item.name for item in session.get_inputs())
outputs = session.run(None, {name: np.load(sys.argv[2])})
np.save(sys.argv[3], outputs[0])
print(session.get_modelmeta().custom_metadata_map["autoquant"])
"""


def run_plainly(file: Path, inputs: Tensor, folder: Path) -> tuple[np.ndarray, dict]:
    """What the engine's own API makes of an exported file, in a process without autoquant."""
    np.save(folder / "inputs.npy", inputs.numpy())
    arguments = [str(file), str(folder / "inputs.npy"), str(folder / "outputs.npy")]
    done = subprocess.run(
        [sys.executable, "-c", RUN_PLAINLY, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    return np.load(folder / "outputs.npy"), json.loads(done.stdout)


def test_an_exported_file_gives_the_same_outputs_without_autoquant(
    sandwich: OnnxRuntimeBackend, tmp_path: Path
) -> None:
    plan = random_plan(full_space(sandwich.captured, sandwich), 3)
    file = sandwich.export(plan, tmp_path / "new" / "model.onnx", {"plan": plan.to_json()})
    outputs, metadata = run_plainly(file, MAP, tmp_path)
    assert np.array_equal(outputs, sandwich.build(plan).module(MAP).numpy())
    assert metadata == {"plan": plan.to_json(), "reduce_range": saturates()}
    assert b"/autoquant/" not in file.read_bytes()  # no path of the machine that wrote it


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("AUTOQUANT_TEST_DATA"), reason="needs CIFAR-10")
def test_an_exported_resnet20_has_the_accuracy_that_its_module_has(tmp_path: Path) -> None:
    from experiments import resnet20

    folder = os.environ["AUTOQUANT_TEST_DATA"]
    model = resnet20.model(folder)
    inputs = torch.cat([x for x, _ in resnet20.calibration(folder, 128)])
    ((images_, labels),) = resnet20.evaluation(folder, 64)
    backend = backend_for(model, inputs)
    plan = full_space(backend.captured, backend).uniform(Scheme.INT8)
    executable = backend.build(plan)
    assert set(words(executable.executed).values()) == {"int8 native"}
    file = backend.export(plan, tmp_path / "resnet20.onnx", {"plan": plan.to_json()})
    outputs, _ = run_plainly(file, images_, tmp_path)
    assert np.array_equal(outputs, executable.module(images_).numpy())
    with torch.no_grad():
        expected = model(images_)
    agree = outputs.argmax(1) == expected.argmax(1).numpy()
    assert agree.mean() > 0.95
    assert (outputs.argmax(1) == labels.numpy()).mean() > 0.8
