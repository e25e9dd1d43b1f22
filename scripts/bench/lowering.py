"""Our lowering against torch.ao's best frozen engine and frozen fp32, in turns.

    python scripts/bench/lowering.py resnet20 resnet50 mobilenet minilm

Random weights (MiniLM: its own). CPU time of one thread; every number is a speed-up over frozen
fp32, the median over rounds in which all candidates run once each.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from report import show
from torch import Tensor, nn

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.errors import BackendError
from autoquant.model.calibration import calibrate
from autoquant.model.capture import Capture, capture

Call = Callable[[], object]
_ENGINES = [name for name in engines_here() if name != "qnnpack"]


class Bottleneck(nn.Module):
    """A block of ResNet-50."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to its shortcut."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 for images of 224 x 224."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(count):
                blocks.append(Bottleneck(inputs, width, stride if index == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits."""
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 3, 2, 1)
        x = F.adaptive_avg_pool2d(self.blocks(x), 1)
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model, its inputs by batch size, and the paths whose precision mixed plans choose."""

    model: nn.Module
    inputs: Mapping[int, tuple[Tensor, ...]]
    blocks: tuple[str, ...]
    is_traceable: bool = True


def _with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def _images(sizes: Sequence[int], side: int, channels: int = 3) -> dict[int, tuple[Tensor, ...]]:
    return {size: (torch.randn(size, channels, side, side),) for size in sizes}


def resnet20() -> Subject:
    """ResNet-20 of CIFAR-10."""
    from experiments.resnet20 import ResNet20

    model = _with_statistics(ResNet20())
    blocks = tuple(f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(3))
    return Subject(model, _images((1, 64), 32), blocks)


def resnet50() -> Subject:
    """ResNet-50."""
    blocks = tuple(f"blocks.{index}" for index in range(16))
    return Subject(_with_statistics(ResNet50()), _images((1, 16), 224), blocks)


def mobilenet() -> Subject:
    """A small MobileNetV3: depthwise convolutions, hard-swish, squeeze-and-excite."""
    from experiments.digits import DigitsNet, InvertedResidual

    model = _with_statistics(DigitsNet(48))
    blocks = tuple(n for n, item in model.named_modules() if isinstance(item, InvertedResidual))
    return Subject(model, _images((1, 64), 8, 1), blocks)


def minilm() -> Subject:
    """MiniLM over sentences of 64 tokens."""
    from experiments import minilm as experiment

    tokens = {size: torch.randint(1000, 20000, (size, 64)) for size in (1, 64)}
    inputs = {size: (item, torch.ones_like(item)) for size, item in tokens.items()}
    blocks = tuple(f"bert.encoder.layer.{index}" for index in range(6))
    return Subject(experiment.model(), inputs, blocks, is_traceable=False)


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "resnet20": resnet20,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "minilm": minilm,
}


def _kept(blocks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By plan, the blocks that are kept in float."""
    half = len(blocks) // 2
    return {
        "all int8": (),
        "every second block": tuple(blocks[::2]),
        "second half": tuple(blocks[:half]),
        "first half": tuple(blocks[half:]),
    }


def _within(path: str, blocks: Sequence[str]) -> bool:
    return any(path == block or path.startswith(f"{block}.") for block in blocks)


def _plan(captured: Capture, backend: TorchGraphBackend, kept: Sequence[str], rest: Scheme) -> Plan:
    """int8 wherever there is a kernel, but in the kept blocks."""
    schemes: dict[str, Scheme] = {}
    for site in captured.sites:
        if site.follows is not None:
            schemes[site.name] = schemes[site.follows]
        elif _within(site.module, kept):
            schemes[site.name] = rest
        else:
            native = backend.support(site, Scheme.INT8) is Support.NATIVE
            schemes[site.name] = Scheme.INT8 if native else rest
    for group in captured.agreements:  # sites that must agree stay float where one of them does
        if any(schemes[name] is rest for name in group):
            schemes.update(dict.fromkeys(group, rest))
    return Plan.of(schemes)


def _torch_ao(model: nn.Module, inputs: tuple[Tensor, ...], kept: Sequence[str]) -> list[Call]:
    """torch.ao's conversion, frozen, for each engine and memory format."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    calls: list[Call] = []
    for engine in _ENGINES:
        if engine == "pointwise":
            continue
        mapping = get_default_qconfig_mapping(engine)
        for block in kept:
            mapping.set_module_name(block, None)
        with using_engine(engine):
            prepared = prepare_fx(model, mapping, inputs)
            prepared(*inputs)
            calls += _frozen(convert_fx(prepared), inputs)
    return calls


def _frozen(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Call]:
    """A frozen trace, on inputs as they are and in channels last."""
    traced = torch.jit.freeze(torch.jit.trace(model, inputs, check_trace=False).eval())
    return [partial(traced, *form) for form in _forms(inputs)]


def _forms(inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The inputs as they are and, where they are images, in channels last."""
    if any(item.ndim != 4 for item in inputs):
        return [inputs]
    return [inputs, tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)]


def _ours(request: BuildRequest, engine: str, kept: Sequence[str], rest: Scheme) -> list[Call]:
    settings = BuildSettings(engine=engine, capture="export")
    one = BuildRequest(
        request.model, request.captured, request.statistics, settings, request.example,
        request.timed,
    )  # fmt: skip
    backend = TorchGraphBackend(one)
    try:
        built = backend.build(_plan(request.captured, backend, kept, rest))
    except BackendError as error:
        print(f"  {engine}: {error}")
        return []
    return [partial(built.module, *form) for form in _forms(request.timed)]


def _time(calls: Mapping[str, Sequence[Call]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the fastest call under each name, round by round."""
    for options in calls.values():
        for call in options:
            for _ in range(3):
                call()
    counts: dict[str, int] = {}
    best: dict[str, Call] = {}
    for name, options in calls.items():
        times = [min(_once(call, 1) for _ in range(5)) for call in options]
        best[name] = options[int(np.argmin(times))]
        counts[name] = max(1, int(0.02 / max(min(times), 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in best.items():
            found[name].append(1e3 * _once(call, counts[name]))
    return found


def _once(call: Call, count: int) -> float:
    started = time.thread_time()
    for _ in range(count):
        call()
    return (time.thread_time() - started) / count


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Time one subject at its batch sizes, all its plans."""
    subject = SUBJECTS[name]()
    some = subject.inputs[max(subject.inputs)]
    example = tuple(item[:8] for item in some)
    captured = capture(subject.model, example, how="export")
    statistics = calibrate(captured, [example])
    rows = []
    for size, inputs in subject.inputs.items():
        request = BuildRequest(
            subject.model, captured, statistics, BuildSettings(), example, inputs
        )
        for plan, kept in _kept(subject.blocks).items():
            calls: dict[str, list[Call]] = {"fp32": _frozen(subject.model, inputs)}
            if subject.is_traceable:
                calls["torch.ao"] = _torch_ao(subject.model, inputs, kept)
            for engine in _ENGINES:
                for rest in (Scheme.FP32, Scheme.BF16) if kept else (Scheme.FP32,):
                    made = _ours(request, engine, kept, rest)
                    if made:
                        calls[f"{engine}, {rest.value}"] = made
            times = _time(calls, rounds)
            base = np.array(times["fp32"])
            speeds = {key: float(np.median(base / np.array(item))) for key, item in times.items()}
            rows.append(_row(name, size, plan, float(np.median(base)), speeds))
            print(rows[-1], {key: round(item, 2) for key, item in speeds.items()}, flush=True)
    return rows


def _row(
    name: str, size: int, plan: str, fp32_ms: float, speeds: Mapping[str, float]
) -> dict[str, Any]:
    def fastest(rest: Scheme) -> str:
        mine = {key: item for key, item in speeds.items() if key.endswith(f", {rest.value}")}
        if not mine:
            return "-"
        key = max(mine, key=lambda item: mine[item])
        return f"{mine[key]:.2f} ({key.partition(',')[0]})"

    return {
        "model": name,
        "batch": size,
        "int8 in": plan,
        "frozen fp32, ms": fp32_ms,
        "torch.ao, best frozen": f"{speeds['torch.ao']:.2f}" if "torch.ao" in speeds else "-",
        "ours, rest fp32": fastest(Scheme.FP32),
        "ours, rest bf16": fastest(Scheme.BF16),
    }


def main() -> None:
    """Measure the named models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    rows = []
    with torch.no_grad():
        for name in options.models:
            rows += measure(name, options.rounds)
    show("lowering", rows, options.output)


if __name__ == "__main__":
    main()
