"""Every mistake of docs/errors.md, through the public surface: what the user reads, and when."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoquant.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

FAULTY = "tests.faulty:"
NOTHING, READING, CALIBRATING, SENSITIVITY = (
    "loading model and data ...",
    "reading the model ...",
    "calibrating ...",
    "measuring sensitivity ...",
)
"""Stages of a search: a mistake must show before the one that its case names."""


@dataclass(frozen=True)
class Case:
    """A mistake in a job: what is given, and what the user reads.

    Attributes:
        name: Test id.
        given: The first column of docs/errors.md.
        message: Stands in the error; `...` stands for anything.
        mend: As `message`.
        job: Replaces or extends sections of a good job.
        arguments: Further words of the command line.
        before: The stage that must not begin.
    """

    name: str
    given: str
    message: str
    mend: str
    job: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    before: str = NOTHING


def model(name: str, **more: object) -> dict[str, Any]:
    return {"model": {"entry": FAULTY + name, **more}}


def data(**parts: str) -> dict[str, Any]:
    return {"data": {part: FAULTY + name for part, name in parts.items()}}


JOBS = [
    Case(
        "unknown-key",
        "`budget: {trails: 8}`",
        "budget.trails: unknown key",
        "did you mean 'trials'?",
        {"budget": {"trails": 8}},
    ),
    Case(
        "wrong-type",
        "`budget: {trials: many}`",
        "budget.trials: 'many'",
        "is not a whole number",
        {"budget": {"trials": "many"}},
    ),
    Case(
        "out-of-range",
        "`budget: {round_size: 0}`",
        "budget.round_size: 0",
        "is below 1",
        {"budget": {"round_size": 0}},
    ),
    Case(
        "not-a-number",
        "`constraints: {accuracy_drop: .nan}`",
        "constraints.accuracy_drop: nan",
        "is not a finite number",
        {"constraints": {"accuracy_drop": float("nan")}},
    ),
    Case(
        "several-mistakes",
        "three mistakes at once",
        "3 mistakes",
        "backend.threads: 0 is below 1...sampler: 'best' is none of 'tpe', 'nsga2', 'random'"
        "...seed: -1 is below 0",
        {"backend": {"threads": 0}, "sampler": "best", "seed": -1},
    ),
    Case(
        "no-model",
        "a job without `model`",
        "model: is missing",
        "add it",
        {"model": None},
    ),
    Case(
        "missing-entry-file",
        "`model: {entry: nowhere.py:build}`",
        "model.entry: no file .../nowhere.py",
        "the path is relative to the job file",
        {"model": {"entry": "nowhere.py:build"}},
    ),
    Case(
        "missing-function",
        "`model: {entry: entry.py:built}`, where entry.py defines `build`",
        "model.entry: .../entry.py defines no 'built'",
        "it defines build",
        {"model": {"entry": "entry.py:built"}},
    ),
    Case(
        "missing-module",
        "`metric: no_such_package:score`",
        "data.metric.entry: no module 'no_such_package' can be imported",
        "install it, or write path/file.py:function",
        {"data": {"metric": "no_such_package:score"}},
    ),
    Case(
        "no-entry-form",
        "`metric: acuracy`",
        "data.metric.entry: 'acuracy'",
        "write package.module:function or path/file.py:function, or one of accuracy, top5, mse",
        {"data": {"metric": "acuracy"}},
    ),
    Case(
        "unknown-engine",
        "`backend: {engine: tensorrt}`",
        "backend.engine: 'tensorrt'",
        "is none of 'auto', 'x86', 'onednn', 'fbgemm', 'qnnpack'",
        {"backend": {"engine": "tensorrt"}},
    ),
    Case(
        "objectives-without-cost",
        "`objectives: [output_error, kl]`",
        "objectives: ['output_error', 'kl'] is wrong: a frontier trades quality for cost",
        "at least one of latency, size, bops",
        {"objectives": ["output_error", "kl"]},
    ),
    Case(
        "objective-twice",
        "`objectives: [output_error, bops, bops]`",
        "objectives: ['output_error', 'bops', 'bops'] is wrong",
        "name each objective once",
        {"objectives": ["output_error", "bops", "bops"]},
    ),
    Case(
        "malformed-set",
        "`--set budget.trials`",
        "--set budget.trials",
        "write --set dotted.key=value",
        arguments=("--set", "budget.trials"),
    ),
    Case(
        "unknown-option",
        "`--trails 8`",
        "unknown option '--trails'",
        "--help lists the options",
        arguments=("--trails", "8"),
    ),
    Case(
        "tracking-scheme",
        "`tracking: {uri: mongodb://host/db}`",
        "tracking.uri: mongodb://host/db has the unknown scheme 'mongodb'",
        "known: sqlite, http, https, postgresql, mysql, mssql, databricks",
        {"tracking": {"enabled": True, "uri": "mongodb://host/db"}},
    ),
    Case(
        "nothing-to-resume",
        "`--resume` with an empty output folder",
        ".../out holds no search to resume",
        "start one without --resume",
        arguments=("--resume",),
    ),
]

SPACES = [
    Case(
        "unknown-scheme",
        "`space: {schemes: [int4, fp32]}`",
        "space.schemes.0: 'int4'",
        "is none of 'int8', 'int8_dynamic', 'int8_weight_only', 'int16', 'int16_weight', 'fp16'",
        {"space": {"schemes": ["int4", "fp32"]}},
    ),
    Case(
        "unknown-space",
        "`space: server_gpu`",
        "space: no file 'server_gpu' there, and no shipped space of that name",
        "give a path, or one of ...server_cpu",
        {"space": "server_gpu"},
    ),
    Case(
        "rule-without-pattern",
        "`rules: [{pin: fp32}]`",
        "space.rules.0: {'pin': 'fp32'} is wrong",
        "a rule needs path, kind or block, to say which sites it means",
        {"space": {"schemes": ["int8"], "rules": [{"pin": "fp32"}]}},
    ),
    Case(
        "rule-matches-no-site",
        "`rules: [{path: frist, pin: fp32}]`",
        "space.rules.0 (path: frist) matches no site of this model",
        "sites are named like first",
        {"space": {"schemes": ["int8"], "rules": [{"path": "frist", "pin": "fp32"}]}},
        before=CALIBRATING,
    ),
    Case(
        "pin-that-the-engine-refuses",
        "`rules: [{path: conv, pin: int8}]` on a Conv3d with `engine: qnnpack`",
        "space: site 'conv' (conv3d) is pinned to int8, which this target does not run",
        "it runs int16, int16_weight, fp16, bf16, fp32",
        {
            **model("volume_model"),
            "backend": {"engine": "qnnpack"},
            "space": {"schemes": ["int8"], "rules": [{"path": "conv", "pin": "int8"}]},
        },
        before=CALIBRATING,
    ),
    Case(
        "emulated-with-latency",
        "`schemes: [int16]` with the objective `latency`",
        "space: the target leaves no choice at any of the 3 sites",
        "widen space.schemes, or replace the objective latency by size or bops",
        {"space": {"schemes": ["int16"]}, "objectives": ["output_error", "latency"]},
        before=CALIBRATING,
    ),
]

MODELS = [
    Case(
        "model-arguments",
        "`arguments` that the model's function does not take",
        "good_model does not take these arguments: good_model() got an unexpected keyword "
        "argument 'width'",
        "change `arguments` in the job file, or the function's parameters",
        model("good_model", arguments={"width": 3}),
        before=READING,
    ),
    Case(
        "model-function-fails",
        "a model function that raises",
        "unloadable_model failed: FileNotFoundError: ...'checkpoint.pt' at .../faulty.py:",
        "mend the function, or the `arguments` that the job file gives it",
        model("unloadable_model"),
        before=READING,
    ),
    Case(
        "no-module",
        "a model function that returns a path",
        "model_file returned a str, not a torch.nn.Module",
        "return the module itself",
        model("model_file"),
        before=READING,
    ),
    Case(
        "nan-weights",
        "a checkpoint with NaN",
        "the model's second.weight holds NaN or infinity",
        "load a finite checkpoint",
        model("nan_weights"),
        before=READING,
    ),
    Case(
        "nan-outputs",
        "a float model whose outputs hold NaN",
        "the float model's outputs hold NaN or infinity on evaluation batch 0",
        "check the checkpoint and the preprocessing of the data",
        model("log_model"),
        before=READING,
    ),
    Case(
        "nan-outputs-later",
        "a float model whose outputs are infinite on a later batch",
        "the float model's outputs hold NaN or infinity on batch 4",
        "check that batch, and the model on it",
        data(evaluation="overflowing"),
        before=SENSITIVITY,
    ),
    Case(
        "dropout",
        "a model with dropout outside eval mode",
        "the model gives different outputs for the same batch (largest difference ",
        "remove randomness (dropout outside eval mode, sampling)",
        model("dropout_model"),
        before=READING,
    ),
    Case(
        "counter",
        "a model that counts its calls",
        "the model gives different outputs for the same batch (largest difference 1)",
        "and state kept between calls",
        model("counting_model"),
        before=READING,
    ),
    Case(
        "integer-outputs",
        "a model that returns class numbers",
        "the model returns Tensor without a floating tensor",
        "return logits or other floats",
        model("class_model"),
        before=READING,
    ),
    Case(
        "one-output-a-batch",
        "a model that returns one number for a batch",
        "an output of shape () does not start with the 16 samples of its batch",
        "return one row for each sample",
        model("mean_model"),
        before=READING,
    ),
    Case(
        "untraceable",
        "a model whose forward branches on values",
        "torch.fx cannot trace module 'head' (_BranchingHead): ...faulty.py:...(if y.sum() > 0:)",
        "list 'head' under model.leaf_modules to keep it whole in fp32, or rewrite the line",
        model("branching_model"),
        before=CALIBRATING,
    ),
    Case(
        "unknown-leaf-module",
        "`leaf_modules: [third]`",
        "model.leaf_modules: the model has no module 'third'",
        "give a path of model.named_modules(): first, second, last",
        model("good_model", leaf_modules=["third"]),
        before=CALIBRATING,
    ),
    Case(
        "nothing-to-quantize",
        "a model without an op to quantize",
        "the model has no op that a scheme could be chosen for",
        "sites are convolutions, linear layers",
        model("bare_model"),
        before=CALIBRATING,
    ),
]

DATA = [
    Case(
        "no-batches",
        "calibration data without a batch",
        "calibration: no batches",
        "give at least one batch",
        data(calibration="no_batches"),
        before=READING,
    ),
    Case(
        "empty-batch",
        "a batch of zero samples",
        "evaluation batch 4 is empty",
        "drop it, or give it samples",
        data(evaluation="empty_batch"),
        before=READING,
    ),
    Case(
        "nan-batch",
        "a batch with NaN",
        "calibration batch 2 holds NaN or infinity",
        "clean the data, or mend what prepares them",
        data(calibration="nan_batch"),
        before=READING,
    ),
    Case(
        "shapes-differ",
        "batches of different shapes",
        "heldout batch 4 has samples of shape (12,), batch 0 of (16,)",
        "give every batch samples of one shape",
        data(heldout="other_shape"),
        before=READING,
    ),
    *(
        Case(
            f"wrong-shape-{part}",
            f"{part} inputs of a shape that the model does not take",
            f"the model failed on {part} batch 0 of shape (16, 3, 8, 8) float32: RuntimeError",
            "give batches of the shape and dtype that model.forward takes",
            data(**{part: "wrong_shape"}),
            before=READING,
        )
        for part in ("calibration", "evaluation", "heldout")
    ),
    Case(
        "integers",
        "integers where the model takes floats",
        "the model failed on calibration batch 0 of shape (16, 16) int64: RuntimeError",
        "give batches of the shape and dtype that model.forward takes",
        data(calibration="integer_data"),
        before=READING,
    ),
    Case(
        "dtypes-differ",
        "batches of different dtypes",
        "evaluation batch 2 is of dtype int64, batch 0 of float32",
        "give every batch inputs of one dtype",
        data(evaluation="later_integers"),
        before=READING,
    ),
    Case(
        "targets-of-another-length",
        "fewer targets than inputs",
        "evaluation batch 0: 16 inputs but 15 targets",
        "give as many targets as inputs",
        data(evaluation="few_targets"),
        before=READING,
    ),
    Case(
        "no-targets",
        "evaluation data without targets",
        "evaluation batch 0 has no targets",
        "give (inputs, targets), for the metric",
        data(evaluation="no_targets"),
        before=READING,
    ),
    Case(
        "not-tensors",
        "a list of file names for data",
        "calibration batch 0: got str",
        "a batch is inputs or (inputs, targets)",
        data(calibration="paths"),
        before=READING,
    ),
    Case(
        "data-function-fails",
        "a data function that raises",
        "unreadable_data failed: PermissionError: ...'/data/images' at .../faulty.py:",
        "mend the function, or the `arguments` that the job file gives it",
        data(evaluation="unreadable_data"),
        before=READING,
    ),
    Case(
        "loader-fails",
        "a loader that fails at a batch",
        "calibration batch 2 cannot be read: OSError: image-3.png is truncated",
        "iterate over the data on their own to see the whole error",
        data(calibration="broken_loader"),
        before=READING,
    ),
    Case(
        "metric-raises",
        "a metric that raises",
        "metric 'raising_metric' failed: AttributeError: 'Tensor' object has no attribute",
        "it is called as metric(outputs, targets) with one batch of the model's outputs",
        data(metric="raising_metric"),
        before=READING,
    ),
    Case(
        "metric-nan",
        "a metric that returns NaN",
        "metric 'nan_metric' returned NaN or infinity",
        "return finite scores",
        data(metric="nan_metric"),
        before=READING,
    ),
    Case(
        "metric-shape",
        "a metric that returns a matrix",
        "metric 'matrix_metric' returned shape (16, 4) for a batch of 16",
        "return one score for each sample, or one number for the batch",
        data(metric="matrix_metric"),
        before=READING,
    ),
]


def write_job(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write a good job with some sections changed."""
    document: dict[str, Any] = {
        "name": "job",
        "model": {"entry": FAULTY + "good_model"},
        "data": {
            "calibration": FAULTY + "good_data",
            "evaluation": FAULTY + "good_data",
            "metric": FAULTY + "good_metric",
        },
        "sensitivity": {"samples": 16},
        "backend": {"engine": "fbgemm", "pairs": 3},
        "space": {"schemes": ["int8", "fp32"]},
        "objectives": ["output_error", "bops"],
        "constraints": {"accuracy_drop": None},
        "budget": {"trials": 4, "round_size": 4},
        "execution": {"kind": "local"},
        "tracking": {"enabled": False},
        "output": str(folder / "out"),
    }
    for key, value in (changes or {}).items():
        both = isinstance(value, dict) and isinstance(document.get(key), dict)
        document[key] = document[key] | value if both and key != "space" else value
    for key in [key for key, value in document.items() if value is None]:
        del document[key]
    (folder / "entry.py").write_text("def build():\n    return None\n")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def appears(fragment: str, text: str) -> bool:
    """Whether a fragment stands in a text, `...` for anything."""
    return re.search(".*?".join(map(re.escape, fragment.split("..."))), text, re.DOTALL) is not None


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must end with exit code 2; gives what stands on stderr."""

    def run(*arguments: object) -> str:
        code = main([str(item) for item in arguments])
        text = capsys.readouterr().err
        assert code == 2, text
        assert "Traceback" not in text
        return text

    return run


@pytest.mark.parametrize("case", [*JOBS, *SPACES, *MODELS, *DATA], ids=lambda case: case.name)
def test_a_mistake_in_a_job_is_named_with_its_mend_before_the_work(
    case: Case, tmp_path: Path, refused: Refused
) -> None:
    text = refused("search", write_job(tmp_path, case.job), *case.arguments)
    assert appears(case.message, text), text
    assert appears(case.mend, text), text
    assert case.before not in text
    assert not (tmp_path / "out" / "frontier.json").exists()
