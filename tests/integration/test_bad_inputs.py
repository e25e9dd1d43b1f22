"""Bad input gets an error that names the input, the value and the mend.

`docs/errors.md` shows these cases to users; a test here holds the two together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.cli import main
from tests.networks import LinearNet, seeded

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "errors.md"
X = torch.randn(120, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(120) % 4


class Counting(nn.Module):
    """Gives something else at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) + self.calls


class Branching(nn.Module):
    """torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Labels(nn.Module):
    """Returns integers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).argmax(1)


def broken_weights() -> nn.Module:
    model = seeded(LinearNet)
    with torch.no_grad():
        model.last.weight[0, 0] = float("nan")
    return model


def nan_batch() -> list[Tensor]:
    batches = [item.clone() for item in X.split(30)]
    batches[2][0, 0] = float("nan")
    return batches


def failing_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("no such class")


def search(**changes: object) -> None:
    arguments: dict[str, object] = {
        "model": seeded(LinearNet),
        "calibration": X,
        "evaluation": (X, Y),
        "backend": "fbgemm",
        "trials": 0,
        "space": {"schemes": ["int8", "fp32"]},
        "objectives": ("output_error", "size"),
        "max_drop": None,
    }
    aq.search(**(arguments | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One bad input of `autoquant.search`, and what the user is told."""

    given: str
    changes: Callable[[], dict[str, object]]
    message: str
    mend: str


CASES = (
    Case(
        "a model that is no module",
        lambda: {"model": print},
        "the model is a builtin_function_or_method, not a torch.nn.Module",
        "return the module itself",
    ),
    Case(
        "a checkpoint with NaN",
        lambda: {"model": broken_weights()},
        "the model's last.weight holds NaN or infinity",
        "load a finite checkpoint",
    ),
    Case(
        "a model that changes with each call",
        lambda: {"model": Counting()},
        "the model gives different outputs for the same batch",
        "remove randomness",
    ),
    Case(
        "a model with a branch on tensor values",
        lambda: {"model": Branching()},
        "torch.fx cannot trace the model itself (Branching)",
        "rewrite the line without control flow",
    ),
    Case(
        "a model that returns integers",
        lambda: {"model": Labels()},
        "the model returns Tensor without a floating tensor",
        "return logits or other floats",
    ),
    Case(
        "a model without ops to quantize",
        lambda: {"model": nn.Flatten()},
        "the model has no op that a scheme could be chosen for",
        "docs/sites.md",
    ),
    Case(
        "a leaf module that does not exist",
        lambda: {"leaf_modules": ["layer9"]},
        "model.leaf_modules: the model has no module 'layer9'",
        "give a path of model.named_modules()",
    ),
    Case(
        "no calibration batches",
        lambda: {"calibration": []},
        "calibration: no batches",
        "give at least one batch",
    ),
    Case(
        "an empty batch",
        lambda: {"calibration": [X, X[:0]]},
        "calibration batch 1 is empty",
        "drop it, or give it samples",
    ),
    Case(
        "a batch with NaN",
        lambda: {"calibration": nan_batch()},
        "calibration batch 2 holds NaN or infinity",
        "clean the data",
    ),
    Case(
        "batches of different shapes",
        lambda: {"calibration": [X, X[:, :8]]},
        "calibration batch 1 has samples of shape (8,), batch 0 of (16,)",
        "give every batch samples of one shape",
    ),
    Case(
        "batches of a wrong shape",
        lambda: {"evaluation": (X[:, :8], Y)},
        "the model failed on evaluation batch 0 of shape (64, 8)",
        "check that the batches are what model.forward takes",
    ),
    Case(
        "calibration of another shape than the model takes",
        lambda: {"calibration": X[:, :8]},
        "the model failed on the example inputs of shape (64, 8)",
        "check that the calibration batches are what model.forward takes",
    ),
    Case(
        "evaluation without targets",
        lambda: {"evaluation": [X]},
        "evaluation batch 0 has no targets",
        "give (inputs, targets), for the metric",
    ),
    Case(
        "more inputs than targets",
        lambda: {"evaluation": (X, Y[:100])},
        "evaluation: inputs and targets have 120 and 100 samples",
        "give as many targets as inputs",
    ),
    Case(
        "data of a wrong kind",
        lambda: {"evaluation": 3},
        "evaluation: got int",
        "give (inputs, targets) tensors, a list of batches, or a DataLoader",
    ),
    Case(
        "a batch that is no tensor",
        lambda: {"calibration": [("text", Y)]},
        "calibration batch 0: inputs are a str, not a tensor",
        "convert them with torch.as_tensor",
    ),
    Case(
        "a metric that fails",
        lambda: {"metric": failing_metric},
        "metric 'failing_metric' failed: RuntimeError: no such class",
        "it is called as metric(outputs, targets)",
    ),
    Case(
        "a metric of a wrong shape",
        lambda: {"metric": lambda outputs, targets: outputs},
        "returned shape (64, 4) for a batch of 64",
        "return one score for each sample, or one number for the batch",
    ),
    Case(
        "a metric that gives NaN",
        lambda: {"metric": lambda outputs, targets: float("nan")},
        "returned NaN or infinity",
        "return finite scores",
    ),
    Case(
        "an unknown engine",
        lambda: {"backend": "tpu"},
        "backend.engine: 'tpu' is none of 'auto', 'x86', 'onednn', 'fbgemm', 'qnnpack'",
        "",
    ),
    Case(
        "an unknown search space",
        lambda: {"space": "nowhere"},
        "no file 'nowhere' there, and no shipped space of that name",
        "give a path, or one of linear_only, npu, server_cpu",
    ),
    Case(
        "an unknown scheme",
        lambda: {"space": {"schemes": ["int3"]}},
        "space.schemes.0: 'int3' is none of 'int8'",
        "",
    ),
    Case(
        "a rule that matches no site",
        lambda: {
            "space": {"schemes": ["int8"], "rules": [{"path": "frist", "pin": "fp32"}]},
        },
        "space.rules.0 (path: frist) matches no site of this model",
        "sites are named like first",
    ),
    Case(
        "a pin that the engine refuses",
        lambda: {
            "space": {
                "schemes": ["int8"],
                "rules": [{"path": "first", "pin": "int8_weight_only"}],
            },
        },
        "site 'first' (linear) is pinned to int8_weight_only, which this target does not run",
        "it runs int8, int8_dynamic",
    ),
    Case(
        "objectives without a cost",
        lambda: {"objectives": ("output_error", "accuracy")},
        "a frontier trades quality for cost",
        "name at least one of output_error, kl, accuracy and at least one of latency, size, bops",
    ),
    Case(
        "a negative budget",
        lambda: {"trials": -1},
        "budget.trials: -1 is below 0",
        "",
    ),
    Case(
        "MLflow that does not answer",
        lambda: {"tracking_uri": "http://127.0.0.1:9"},
        "127.0.0.1:9",
        "tracking.uri",
    ),
    Case(
        "MLflow's old file store",
        lambda: {"tracking_uri": "file:///tmp/mlruns"},
        "file:///tmp/mlruns",
        "sqlite:///",
    ),
    Case(
        "a Ray cluster that does not answer",
        lambda: {"execution": {"kind": "ray", "address": "127.0.0.1:9", "workers": 1}},
        "execution.address: Ray 127.0.0.1:9 cannot be reached",
        "start it with `ray start --head`, correct the address, or leave it out",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.given)
def test_a_bad_argument_is_named_with_its_mend(case: Case, tmp_path: Path) -> None:
    with pytest.raises(aq.AutoquantError) as caught:
        search(output=tmp_path / "out", **case.changes())
    assert case.message in str(caught.value)
    assert case.mend in str(caught.value)
    assert (
        not (tmp_path / "out" / "history.jsonl").exists()
        or not (tmp_path / "out" / "history.jsonl").read_text()
    )


def test_the_table_for_users_holds_every_case() -> None:
    table = DOCS.read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) - 1 >= 25
    for case in CASES:
        assert case.given in table, case.given
        assert case.message.replace("|", "\\|") in table, case.message


def write_job(folder: Path, text: str = "", entry: str = "") -> Path:
    (folder / "entry.py").write_text(
        "import torch\nfrom tests.networks import LinearNet, seeded\n"
        "def model():\n    return seeded(LinearNet)\n"
        "def data():\n    return [(torch.ones(8, 16) * i, torch.arange(8) % 4)"
        " for i in range(1, 15)]\n" + entry
    )
    job = folder / "job.yaml"
    job.write_text(
        textwrap.dedent(
            f"""
            name: bad
            model: {{entry: entry.py:model}}
            data: {{calibration: entry.py:data, evaluation: entry.py:data, metric: accuracy}}
            backend: {{engine: fbgemm}}
            space: {{schemes: [int8, fp32]}}
            objectives: [output_error, size]
            constraints: {{accuracy_drop: null}}
            budget: {{trials: 0}}
            execution: {{kind: local}}
            tracking: {{enabled: false}}
            output: {folder / "out"}
            """
        )
        + text
    )
    return job


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere.yaml"], "no file nowhere.yaml"),
        (["search", "{job}", "--set", "budget"], "--set budget: write --set dotted.key=value"),
        (["search", "{job}", "--set", "bugdet.trials=1"], "unknown key; did you mean 'budget'?"),
        (["search", "{job}", "--bugdet", "1"], "unknown option '--bugdet'"),
        (["search", "{job}", "--resume"], "holds no search to resume"),
        (["report", "{folder}/nothing"], "give the output folder of a search"),
        (["export", "{folder}/nothing", "-o", "x.ts"], "give the output folder of a search"),
    ],
    ids=["no job", "set without value", "unknown key", "option", "resume", "report", "export"],
)
def test_the_command_line_exits_with_two_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    job = write_job(tmp_path)
    filled = [item.format(job=job, folder=tmp_path) for item in arguments]
    assert main(filled) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert message in shown
    assert "Traceback" not in shown


def test_an_entry_point_that_raises_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, entry="raise OSError('no licence')\n")
    assert main(["search", str(job)]) == 2
    assert "OSError: no licence" in " ".join(capsys.readouterr().err.split())


def test_arguments_that_an_entry_point_does_not_take_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path)
    assert main(["search", str(job), "--set", "model.arguments.width=3"]) == 2
    assert "unexpected keyword argument 'width'" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_holds_a_search_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path)
    assert main(["search", str(job)]) == 0
    assert main(["search", str(job)]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "already holds a search of 2 candidates" in shown
    assert "--resume continues it; or choose another output" in shown


def test_a_resumed_job_may_not_change_what_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path)
    assert main(["search", str(job)]) == 0
    assert main(["search", str(job), "--resume", "--set", "seed=9"]) == 2
    assert "seed: differs from the search in this folder" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_full_disk_is_named_and_what_was_finished_is_kept(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    assert main(["search", str(job)]) == 0
    history = tmp_path / "out" / "history.jsonl"
    before = history.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from autoquant.record.history import History\n"
        "from autoquant.core.measurement import Candidate\n"
        "from autoquant.core.plan import Plan\n"
        "from autoquant.core.precision import Scheme\n"
        "from autoquant.errors import StorageError\n"
        "from pathlib import Path\n"
        f"path = Path({str(history)!r})\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 10},) * 2)\n"
        "try:\n"
        "    History(path).append(Candidate(9, Plan.of({'a': Scheme.INT8}), 'test'))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "history.jsonl" in done.stdout
    assert "mend:" in done.stdout
    assert history.read_bytes() == before


def test_nan_outputs_of_a_candidate_are_its_failure_and_no_other() -> None:
    class Fragile(nn.Module):
        """Divides by the distance from float, which rounding makes zero."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y + torch.log(y.clamp_min(-5.0) + 5.0 + 1e-30) * 0.0

    model = Fragile().eval()
    with torch.no_grad():
        model.layer.bias.fill_(-4.99)
        model.layer.weight.mul_(0.001)
    result = aq.search(
        model,
        calibration=X,
        evaluation=(X, Y),
        backend="fbgemm",
        trials=0,
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "size"),
        max_drop=None,
    )
    outcomes = {item.origin: item.failure for item in result.candidates}
    assert outcomes["seed:uniform-fp32"] is None
    assert json.dumps([c.candidate.to_json() for c in result.candidates])
