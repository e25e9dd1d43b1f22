"""Our lowering against torch.ao's best frozen engine, OpenVINO and frozen fp32, in turns.

    python scripts/bench/lowering.py resnet20 digits mobilenet minilm resnet50

Random weights (MiniLM: its own). One thread. CPU time of this process; every speed-up is over
frozen fp32, the median over rounds in which all candidates take turns. Of every kind of candidate
the engine and memory format is taken that is fastest in the end.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lowering_subjects import SUBJECTS, Subject
from report import Row, show
from torch import Tensor, nn

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture

Call = Callable[[], object]
Inputs = tuple[Tensor, ...]
Times = npt.NDArray[np.float64]

FP32, TORCH_AO = "frozen fp32", "torch.ao"
_ENGINES = [name for name in engines_here() if name != "qnnpack"]
_CALIBRATION_SIZE = 8
_TURN_S = 0.02
_LOOKS = 8
_LOOKING_S = 20.0
_FEW = 2


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One way to run a plan.

    Attributes:
        kind: Of all that are alike but for engine and memory format.
        engine: That runs it.
        call: Runs it.
    """

    kind: str
    engine: str
    call: Call


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


def _plan(
    captured: Capture,
    backend: Backend,
    kept: Sequence[str],
    rest: Scheme,
    only: OpKind | None = None,
) -> Plan:
    """int8 wherever there is a kernel, but in the kept blocks; `only` of one kind of op."""
    schemes: dict[str, Scheme] = {}
    for site in captured.sites:
        is_kept = _within(site.module, kept) or only not in (None, site.kind)
        wanted = (rest,) if is_kept else (Scheme.INT8, rest)
        native = [item for item in wanted if backend.support(site, item) is Support.NATIVE]
        schemes[site.name] = schemes[site.follows] if site.follows else (*native, Scheme.FP32)[0]
    for group in captured.agreements:  # sites that must agree stay float where one of them does
        if any(schemes[name] is not Scheme.INT8 for name in group):
            schemes.update(dict.fromkeys(group, rest))
    return Plan.of(schemes)


def _torch_ao(subject: Subject, inputs: Inputs, kept: Sequence[str]) -> Iterator[Candidate]:
    """torch.ao's conversions, frozen; by linear layers alone where torch.fx cannot trace."""
    for engine in _ENGINES:
        if engine == "pointwise":
            continue
        with using_engine(engine):
            if subject.is_traceable:
                made = [_by_graph(subject.model, engine, inputs, kept)]
            else:
                made = list(_by_linear_layers(subject.model, engine, inputs, kept))
            for model in made:
                for call in _frozen(model, inputs):
                    yield Candidate(TORCH_AO, engine, call)


def _by_graph(model: nn.Module, engine: str, inputs: Inputs, kept: Sequence[str]) -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    mapping = get_default_qconfig_mapping(engine)
    for block in kept:
        mapping.set_module_name(block, None)
    prepared = prepare_fx(model, mapping, inputs)
    prepared(*inputs)
    return convert_fx(prepared)


def _by_linear_layers(
    model: nn.Module, engine: str, inputs: Inputs, kept: Sequence[str]
) -> Iterator[nn.Module]:
    """Linear layers quantized apart: on ranges that are known, and on those of each call."""
    import torch.ao.quantization as torch_ao

    names = [name for name, item in model.named_modules() if isinstance(item, nn.Linear)]
    names = [name for name in names if not _within(name, kept)]
    dynamic = dict.fromkeys(names, torch_ao.default_dynamic_qconfig)
    yield torch_ao.quantize_dynamic(copy.deepcopy(model), dynamic)
    static = copy.deepcopy(model)
    for name in names:
        static.get_submodule(name).qconfig = torch_ao.get_default_qconfig(engine)
    torch_ao.prepare(torch_ao.add_quant_dequant(static), inplace=True)
    static(*inputs)
    yield torch_ao.convert(static, inplace=True)


def _frozen(model: nn.Module, inputs: Inputs) -> list[Call]:
    """A frozen trace, on inputs as they are and in channels last."""
    traced = torch.jit.freeze(torch.jit.trace(model, inputs, check_trace=False).eval())
    return [partial(traced, *form) for form in _forms(inputs)]


def _forms(inputs: Inputs) -> list[Inputs]:
    """The inputs as they are and, where they are images, in channels last."""
    if any(item.ndim != 4 for item in inputs):
        return [inputs]
    return [inputs, tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)]


def _ours(request: BuildRequest, kept: Sequence[str], only: OpKind | None) -> Iterator[Candidate]:
    """What `quantize` hands out, on torch's engines and on OpenVINO."""
    targets = [BuildSettings(options={"engine": engine}) for engine in _ENGINES]
    targets.append(BuildSettings(backend="openvino"))
    for settings in targets:
        one = replace(request, settings=settings)
        backend = load_target(settings.backend).open_backend(one)
        for rest in (Scheme.FP32, Scheme.BF16) if kept else (Scheme.FP32,):
            try:
                built = backend.build(_plan(one.captured, backend, kept, rest, only))
            except BackendError as error:
                print(f"  {backend.name}: {error}")
                continue
            module = one.captured.calling.nest(built.module, one.model)
            for form in _forms(one.timed):
                kind = f"{settings.backend}, rest {rest.value}"
                yield Candidate(kind, settings.options.get("engine", ""), partial(module, *form))


def _once(call: Call, count: int) -> tuple[float, float]:
    """Seconds of a call: of this process on all cores, and of the clock."""
    started, begun = time.process_time(), time.perf_counter()
    for _ in range(count):
        call()
    return (time.process_time() - started) / count, (time.perf_counter() - begun) / count


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """Milliseconds of a candidate, round by round: CPU and wall."""

    candidate: Candidate
    rounds: Times

    @property
    def cpu(self) -> Times:
        """Of this process."""
        return self.rounds[:, 0]

    @property
    def wall(self) -> Times:
        """Of the clock."""
        return self.rounds[:, 1]


def _time(candidates: Sequence[Candidate], rounds: int) -> dict[str, Timing]:
    """Look at all in turns, run the fastest few of each kind in turns, and keep the fastest."""
    looks: list[list[float]] = []
    until = time.perf_counter() + _LOOKING_S
    while len(looks) < 2 or (len(looks) < _LOOKS and time.perf_counter() < until):
        looks.append([_once(one.call, 1)[0] for one in candidates])
    seconds = dict(zip(candidates, np.min(looks[1:], axis=0).tolist(), strict=True))
    final = [
        one
        for kind in dict.fromkeys(one.kind for one in candidates)
        for one in sorted((x for x in candidates if x.kind == kind), key=seconds.__getitem__)[:_FEW]
    ]
    found = np.zeros((rounds, len(final), 2))
    draw = np.random.default_rng(0)
    for row in found:
        for place in draw.permutation(len(final)):
            one = final[place]
            row[place] = _once(one.call, max(1, int(_TURN_S / seconds[one])))
    timings = [Timing(one, 1e3 * found[:, place]) for place, one in enumerate(final)]
    timings.sort(key=lambda timing: float(np.median(timing.cpu)), reverse=True)
    return {timing.candidate.kind: timing for timing in timings}


def measure(name: str, batches: Sequence[int], rounds: int) -> list[Row]:
    """Time one subject at its batch sizes, all its plans."""
    subject = SUBJECTS[name]()
    example = subject.inputs(_CALIBRATION_SIZE)
    captured = capture(subject.model, example, how="export")
    statistics = calibrate(captured, [example])
    only = None if subject.is_traceable else OpKind.LINEAR  # what torch.ao quantizes then
    rows: list[Row] = []
    for size in batches:
        inputs = subject.inputs(size)
        request = BuildRequest(
            subject.model, captured, statistics, BuildSettings(), example, inputs
        )
        for plan, kept in _kept(subject.blocks).items():
            candidates = [Candidate(FP32, "", call) for call in _frozen(subject.model, inputs)]
            candidates += _torch_ao(subject, inputs, kept)
            candidates += _ours(request, kept, only)
            rows.append(_row(name, size, plan, _time(candidates, rounds)))
            print(rows[-1], flush=True)
    return rows


def _row(name: str, size: int, plan: str, times: Mapping[str, Timing]) -> dict[str, Any]:
    def speed(kind: str) -> str:
        if kind not in times:
            return "-"
        ratio = float(np.median(times[FP32].cpu / times[kind].cpu))
        engine = times[kind].candidate.engine
        return f"{ratio:.2f} ({engine})" if engine else f"{ratio:.2f}"

    mine = [kind for kind in times if kind.startswith("torch, ")]
    best = min(mine, key=lambda kind: float(np.median(times[kind].cpu)))
    ours, theirs = times[best], times[TORCH_AO]
    return {
        "model": name,
        "batch": size,
        "int8 in": plan,
        "frozen fp32, ms": float(np.median(times[FP32].cpu)),
        "torch.ao, best frozen": speed(TORCH_AO),
        "ours, rest fp32": speed("torch, rest fp32"),
        "ours, rest bf16": speed("torch, rest bf16"),
        "our best, of torch.ao's time": float(np.median(ours.cpu / theirs.cpu)),
        "of its wall time": float(np.median(ours.wall / theirs.wall)),
        "OpenVINO, rest fp32": speed("openvino, rest fp32"),
        "OpenVINO, rest bf16": speed("openvino, rest bf16"),
    }


def main() -> None:
    """Measure the named models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    with torch.no_grad():
        for name in options.models:
            rows += measure(name, options.batches, options.rounds)
    show("lowering", rows, options.output)


if __name__ == "__main__":
    main()
