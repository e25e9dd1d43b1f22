"""ResNet-20, plain and with outlier channels, by NNCF, by ModelOpt and by autoquant.

    python scripts/bench/peers.py --folder data/cifar10

Each peer is installed from the package registry into an environment of its own below `--venvs`,
which is kept. All tools get the same 256 calibration images, compare on validation images and may
lose 0.005 of accuracy; test images are held out.

Speedup is over the same model in eager fp32 torch, batch 64, one thread: the median of interleaved
pairs, timed anew after the search. `over own fp32` is over the same engine's fp32. What cannot be
executed is simulated. Seconds and CPU seconds are of the whole search, calibration included, and
imports left out, on either side (ours by a search of a small model before); ours runs in one
process, quick and with the default effort, on the engines that `--backends` names, as
`autoquant.search` does: without MLflow, which no peer writes to, and without held-out images and
rivals, which no peer looks at. What was chosen is scored on held-out images afterwards.
`at NNCF's accuracy` is the fastest member of our last frontier that reaches the held-out accuracy
of NNCF's result; it looks at held-out data and so is no choice that a user has. `images` are those
of validation and those held out; drop is that of validation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from peer_subjects import MAX_DROP, OUTLIERS, PAIRS, PLAIN, load
from report import Row, show
from torch import nn

from autoquant import metrics
from autoquant.backends.boundaries import find_edges
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import FLOAT_PLAN, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.job import Job, load_job
from autoquant.model.building import build_subject
from autoquant.model.graph.captured import Capture
from autoquant.model.recipes import HeldRecipe
from autoquant.model.subject import Subject
from autoquant.searching.measuring.evaluator import PlanEvaluator
from autoquant.searching.preparing.preparation import Preparation, prepare
from autoquant.searching.result import SearchResult
from autoquant.searching.search import run_search

ROOT = Path(__file__).parents[2]
JOB = ROOT / "experiments" / "resnet20_cifar10.yaml"
TORCH = "torch==2.13.0"
PATIENCE_S = 900
TORCH_ENGINE = "onednn"
EFFORTS = ("quick", "normal")
BATCH = 64
HEADS = (
    "subject",
    "images",
    "tool",
    "result",
    "validation",
    "held out",
    "drop",
    "speedup",
    "over own fp32",
    "evaluations",
    "s",
    "CPU s",
    "plan",
)


@dataclass(frozen=True)
class Peer:
    """A tool of somebody else.

    Attributes:
        name: In the table, and of its environment.
        packages: What its environment needs besides torch.
        script: What runs in its environment.
    """

    name: str
    packages: tuple[str, ...]
    script: str


NNCF = Peer("nncf", ("nncf", "openvino", "safetensors"), "nncf_run.py")
MODELOPT = Peer(
    "nvidia-modelopt",
    # requests and huggingface_hub: it imports both and asks for neither
    ("nvidia-modelopt", "safetensors", "requests", "huggingface_hub"),
    "modelopt_run.py",
)


class PeerFailedError(Exception):
    """A peer does not install or does not run; says why in one line."""


def install(peer: Peer, venvs: Path) -> Path:
    """Give the Python of a peer's environment; make the environment where there is none."""
    folder = venvs / peer.name
    python = folder / "bin" / "python"
    complete, packages = folder / "complete", "\n".join(peer.packages)
    if not complete.exists() or complete.read_text() != packages:
        _call([sys.executable, "-m", "venv", str(folder)], "no environment")
        for names in ((TORCH,), (TORCH, *peer.packages)):
            _call([str(python), "-m", "pip", "install", "-q", *names], "does not install")
        complete.write_text(packages)
    version = _call([str(python), "-c", "import torch; print(torch.__version__)"], "no torch")
    listed = _call([str(python), "-m", "pip", "list", "--format=freeze"], "no list of packages")
    cuda = [line for line in listed.splitlines() if line.startswith(("nvidia-cu", "triton"))]
    if cuda or not version.strip().endswith("+cpu"):
        raise PeerFailedError(f"a CUDA build came in: torch {version.strip()} {' '.join(cuda)}")
    named = [line for line in listed.splitlines() if line.split("==")[0] in peer.packages]
    print(f"{peer.name}: {', '.join(named)}, torch {version.strip()}", flush=True)
    return python


def _call(command: Sequence[str], failure: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command; what it prints."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailedError(f"{failure}: not done after {PATIENCE_S} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PeerFailedError(f"{failure}: {lines[-1]}")
    return done.stdout


def run_peer(
    peer: Peer, subject: str, arguments: argparse.Namespace, *more: str
) -> list[dict[str, Any]]:
    """Run a peer's script in its environment; the rows that it writes."""
    python = install(peer, arguments.venvs)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "rows.json"
        command = [
            str(python),
            str(ROOT / "scripts" / "bench" / "peer_runs" / peer.script),
            *("--folder", str(arguments.folder.resolve()), "--subject", subject),
            *("--validation", str(arguments.validation), "--heldout", str(arguments.heldout)),
            *("--output", str(output), *more),
        ]
        path = os.pathsep.join((str(ROOT), str(ROOT / "scripts" / "bench")))
        _call(command, "does not run", {**os.environ, "PYTHONPATH": path})
        rows: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
    return rows


class Bench:
    """Our own measurements of plans of one subject, and what the peers are held against."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        data = load(name, arguments.folder, arguments.validation, arguments.heldout)
        self.subject: Subject = build_subject(
            data.model,
            calibration=data.calibration,
            evaluation=data.validation,
            heldout=data.heldout,
            metric=metrics.accuracy,
        )
        self.given = replace(self.subject, heldout=None)
        self.trials: int = arguments.trials
        self.images = f"{arguments.validation} + {arguments.heldout}"

    def search(self, backend: str, effort: str) -> tuple[SearchResult, dict[str, float]]:
        """Run the job's search; its result with its seconds and CPU seconds."""
        with tempfile.TemporaryDirectory() as scratch:
            warm = self._job(Path(scratch) / "first", backend, f"budget.effort={effort}")
            run_search(warm, HeldRecipe(_small_subject()), Silent(), resume=False)
            wall, cpu = time.perf_counter(), time.process_time()
            job = self._job(Path(scratch) / "out", backend, f"budget.effort={effort}")
            result = run_search(job, HeldRecipe(self.given), Silent(), resume=False)
            spent = {"s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
        return result, spent

    def prepare(self, backend: str) -> None:
        """Get ready to measure plans on an engine."""
        with tempfile.TemporaryDirectory() as scratch:
            job = self._job(Path(scratch) / "out", backend)
            prepared: Preparation = prepare(job, self.subject, Silent())
        settings = replace(prepared.settings, latency_pairs=PAIRS)
        self.evaluator: PlanEvaluator = replace(prepared, settings=settings).evaluator
        self.captured = prepared.captured
        self.sites = tuple(site.name for site in prepared.captured.sites)
        baseline = self.evaluator.baseline() | self.evaluator.heldout_baseline()
        self.own_fp32 = baseline[f"{FLOAT_PLAN}{Scheme.FP32.value}"].value
        self.fp32 = baseline["accuracy"].value
        self.fp32_heldout = baseline["heldout_accuracy"].value

    def measure(self, plan: Plan) -> dict[str, str | float | int]:
        """Measure a plan's columns."""
        found: dict[str, Measurement] = {}
        for phase in (Phase.QUALITY, Phase.HELDOUT, Phase.LATENCY):
            outcome = self.evaluator.run(phase, Task(0, plan))
            if outcome.failure is not None:
                return {"plan": f"failed: {outcome.failure.reason}"}
            found |= outcome.measurements
        return {
            "validation": found["accuracy"].value,
            "held out": found["heldout_accuracy"].value,
            "drop": self.fp32 - found["accuracy"].value,
            "speedup": _with_error(found["speedup"].value, found["speedup"].stderr or 0.0),
            "over own fp32": f"{found['speedup'].value / self.own_fp32:.2f}",
            "plan": _counts(plan),
        }

    def row(self, tool: str, result: str, values: Mapping[str, str | float | int]) -> Row:
        """A row of the table; accuracies with four digits, gaps as dashes."""
        filled = {
            "subject": self.name,
            "images": self.images,
            "tool": tool,
            "result": result,
            **values,
        }
        row: dict[str, str | float | int] = {head: filled.get(head, "-") for head in HEADS}
        for head in ("validation", "held out", "drop"):
            if isinstance(row[head], float):
                row[head] = f"{row[head]:.4f}"
        return row

    def _job(self, output: Path, backend: str, *changes: str) -> Job:
        job = load_job(
            JOB,
            [
                f"backend={backend}",
                *changes,
                "execution.kind=local",
                "tracking.enabled=false",
                "cache=false",
                "rivals=[]",
                f"constraints.accuracy_drop={MAX_DROP}",
                f"budget.trials={self.trials}",
                f"output={output}",
            ],
        )
        timed = job.backend.model_copy(update={"batch_size": BATCH})
        return job.model_copy(update={"backend": timed})


def compare(name: str, arguments: argparse.Namespace) -> list[Row]:
    """All rows of one subject."""
    bench = Bench(name, arguments)
    bench.prepare(TORCH_ENGINE)
    fp32: dict[str, str | float | int] = {
        "validation": bench.fp32,
        "held out": bench.fp32_heldout,
        "speedup": "1",
    }
    rows = [bench.row("torch", "eager fp32", fp32)]
    rows += _nncf_rows(bench, arguments)
    rows += _modelopt_rows(bench, arguments, TORCH_ENGINE)
    for backend, effort in itertools.product(arguments.backends, arguments.efforts):
        result, spent = bench.search(backend, effort)
        bench.prepare(backend)
        best = result.best(max_drop=MAX_DROP)
        counted: dict[str, str | float | int] = {"evaluations": len(result.candidates), **spent}
        values = bench.measure(best.plan) | counted
        rows.append(bench.row("autoquant", f"{effort}, {backend}", values))
    controlled = [row for row in rows if str(row["result"]).startswith("accuracy control")]
    for target in sorted({str(row["held out"]) for row in controlled}):
        values = _fastest(bench, result, float(target))
        rows.append(bench.row("autoquant", f"at NNCF's accuracy, {target}", values))
    return rows


def _small_subject() -> Subject:
    """A model whose search takes no time: what ours imports is imported after it."""
    images = torch.randn(2 * BATCH, 3, 32, 32)
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    return build_subject(
        nn.Sequential(*layers).eval(),
        calibration=images,
        evaluation=(images, torch.arange(len(images)) % 10),
        metric=metrics.accuracy,
    )


def _nncf_rows(bench: Bench, arguments: argparse.Namespace) -> list[Row]:
    try:
        found = run_peer(NNCF, bench.name, arguments)
    except PeerFailedError as error:
        return [bench.row(NNCF.name, str(error), {})]
    return [
        bench.row(
            "OpenVINO" if "OpenVINO" in item["result"] else NNCF.name,
            item["result"],
            _shared_columns(bench, item)
            | {
                "speedup": _with_error(item["speedup"], item["speedup_stderr"]),
                "over own fp32": item["over own fp32"],
                "plan": ", ".join(f"{kind} {n}" for kind, n in sorted(item["executed"].items())),
            },
        )
        for item in found
    ]


def _modelopt_rows(bench: Bench, arguments: argparse.Namespace, engine: str) -> list[Row]:
    """Each plan as ModelOpt simulates it, and carried over to torch's engine."""
    bits = ("--bits", *(f"{item:g}" for item in arguments.bits))
    try:
        found = run_peer(MODELOPT, bench.name, arguments, *bits)
    except PeerFailedError as error:
        return [bench.row(MODELOPT.name, str(error), {})]
    rows = []
    for item in found:
        kept = item["kept"]
        simulated = {"speedup": "simulated", "plan": f"kept: {', '.join(kept) or 'none'}"}
        rows.append(
            bench.row(MODELOPT.name, item["result"], _shared_columns(bench, item) | simulated)
        )
        exact = _with_producers(kept, bench.captured)
        plan = Plan.of({s: Scheme.FP32 if s in exact else Scheme.INT8 for s in bench.sites})
        label = f"{item['result']}, plan carried over ({engine})"
        rows.append(bench.row(MODELOPT.name, label, bench.measure(plan)))
    return rows


def _with_producers(kept: Sequence[str], captured: Capture) -> frozenset[str]:
    """The sites, and those that write what they read: ModelOpt leaves their inputs in float too."""
    edges = find_edges(captured)
    return frozenset(kept) | {writer for writer, reader in edges if reader in kept}


def _shared_columns(bench: Bench, item: Mapping[str, Any]) -> dict[str, str | float | int]:
    """The columns that every peer writes."""
    columns: dict[str, str | float | int] = {
        "validation": item["validation"],
        "held out": item["heldout"],
        "drop": bench.fp32 - item["validation"],
    }
    names = {"evaluations": "evaluations", "seconds": "s", "cpu": "CPU s"}
    return columns | {head: item[name] for name, head in names.items() if name in item}


def _fastest(bench: Bench, result: SearchResult, target: float) -> dict[str, str | float | int]:
    """The columns of the fastest frontier member with at least this held-out accuracy."""
    for member in sorted(result.frontier, key=lambda item: -item.value("speedup")):
        values = bench.measure(member.plan)
        if float(values.get("held out", 0.0)) >= target - 1e-4:
            return values
    return {"plan": "none reaches it"}


def _counts(plan: Plan) -> str:
    return ", ".join(f"{scheme} {count}" for scheme, count in plan.counts().items())


def _with_error(value: float, stderr: float) -> str:
    return f"{value:.2f} ± {stderr:.2f}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--venvs", type=Path, default=cache / "autoquant-peers")
    parser.add_argument("--validation", type=int, default=2000, help="images")
    parser.add_argument("--heldout", type=int, default=3000, help="images")
    parser.add_argument("--efforts", nargs="+", default=EFFORTS, choices=EFFORTS)
    parser.add_argument("--bits", type=float, nargs="+", default=[9.5], help="for ModelOpt")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--backends", nargs="+", default=["onednn", "openvino"])
    parser.add_argument("--subjects", nargs="+", choices=(PLAIN, OUTLIERS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in arguments.subjects or (PLAIN, OUTLIERS):
        rows += compare(name, arguments)
        show("peers", rows, arguments.json)  # after each subject, for a run may be cut short


if __name__ == "__main__":
    main()
