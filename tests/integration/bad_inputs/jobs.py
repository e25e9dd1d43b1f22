"""Mistakes on the command line and in the job file."""

from __future__ import annotations

from tests.integration.bad_inputs.case import READING, Case, Scene
from tests.integration.bad_inputs.stage import Stage, write_job


def search_model_of(stage: Stage, text: str) -> str:
    """Search with a file of the user's that has some text."""
    stage.write("model.py", text)
    return stage.command("search", write_job(stage.folder, {"model": "model.py:build"}))


COMMANDS = [
    Scene(
        "unknown-command",
        "`autoquant serach job.yaml`",
        "No such command 'serach'.",
        "Did you mean 'search'?",
        lambda stage: stage.command("serach", "job.yaml"),
    ),
    Scene(
        "no-job",
        "`autoquant search`",
        "Missing argument 'job_file'",
        "",
        lambda stage: stage.command("search"),
    ),
    Case(
        "unknown-option",
        "`--frobnicate 8`",
        "No such option",
        "--help lists what there is",
        arguments=("--frobnicate", "8"),
    ),
    Case(
        "misspelt-option",
        "`--resum`",
        "No such option",
        "--resume",
        arguments=("--resum",),
    ),
    Case(
        "option-without-value",
        "`--budget.trials`",
        "--budget.trials needs a value",
        arguments=("--budget.trials",),
    ),
    Case(
        "malformed-set",
        "`--set budget.trials`",
        "--set budget.trials",
        "write --set dotted.key=value",
        arguments=("--set", "budget.trials"),
    ),
    Case(
        "set-below-a-value",
        "`--set seed.first=1`",
        "--set seed.first=1: 'seed' is no section; its value is 3",
        job={"seed": 3},
        arguments=("--set", "seed.first=1"),
    ),
    Scene(
        "port",
        "`autoquant ui job.yaml --port 99999`",
        "Invalid value for '--port': Input should be less than or equal to 65535",
        "",
        lambda stage: stage.command("ui", "job.yaml", "--port", "99999"),
    ),
]

FILES = [
    Scene(
        "missing-job",
        "a job file that is not there",
        "no file nowhere.yaml",
        "give the path of a YAML file",
        lambda stage: stage.command("search", "nowhere.yaml"),
    ),
    Scene(
        "folder-for-job",
        "a folder for a job file",
        "... cannot be read: [Errno 21] Is a directory: ...",
        "give a readable file",
        lambda stage: stage.command("search", stage.folder),
    ),
    Scene(
        "not-yaml",
        "a job file that is no YAML",
        "job.yaml, line 3: expected ',' or ']', but got '<stream end>'",
        "correct the YAML there",
        lambda stage: stage.command("search", stage.write("job.yaml", "name: job\nmodel: [x\n")),
    ),
    Scene(
        "key-twice",
        "a job file with the key `name` twice",
        "job.yaml, line 2: the key 'name' stands twice",
        "correct the YAML there",
        lambda stage: stage.command("search", stage.write("job.yaml", "name: one\nname: two\n")),
    ),
    Scene(
        "no-mapping",
        "a job file that holds a list",
        "job.yaml holds a list, not keys and values",
        "see docs/job-file.md for the keys",
        lambda stage: stage.command("search", stage.write("job.yaml", "- name\n- model\n")),
    ),
    Scene(
        "empty-job",
        "an empty job file",
        "job.yaml holds nothing, not keys and values",
        "see docs/job-file.md for the keys",
        lambda stage: stage.command("search", stage.write("job.yaml", "")),
    ),
]

KEYS = [
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
        "budget.trials: 'many' is not a whole number",
        job={"budget": {"trials": "many"}},
    ),
    Case(
        "out-of-range",
        "`budget: {round_size: 0}`",
        "budget.round_size: 0 is below 1",
        job={"budget": {"round_size": 0}},
    ),
    Case(
        "not-finite",
        "`constraints: {accuracy_drop: .nan}`",
        "constraints.accuracy_drop: nan is not a finite number",
        job={"constraints": {"accuracy_drop": float("nan")}},
    ),
    Case(
        "no-section",
        "`budget: 8`",
        "budget: 8 is not a mapping of keys and values",
        job={"budget": 8},
    ),
    Case(
        "name",
        "`name: my search`",
        "name: 'my search' may hold letters, digits, '.', '_' and '-' only",
        job={"name": "my search"},
    ),
    Case(
        "several-mistakes",
        "three mistakes at once",
        "3 mistakes ... backend.threads: 0 is below 1 ... seed: -1 is below 0 ... sampler: 'best' "
        "is none of 'guided', 'tpe', 'nsga2', 'random'",
        job={"backend": {"threads": 0}, "sampler": "best", "seed": -1},
    ),
    Case(
        "no-model",
        "a job without `model`",
        "model: is missing",
        "add it",
        {"model": None},
    ),
    Case(
        "unknown-engine",
        "`backend: {engine: tensorrt}`",
        "backend.engine: 'tensorrt' is none of 'auto', 'per-op', 'x86', 'onednn', 'fbgemm', "
        "'qnnpack'",
        job={"backend": {"engine": "tensorrt"}},
    ),
    Case(
        "unknown-backend",
        "`backend: gpu`",
        "backend.name: 'gpu' is none of 'torch', 'openvino', 'onnxruntime', 'litert', 'ethos-u', "
        "'profile', 'inductor'",
        job={"backend": "gpu"},
    ),
    Case(
        "option-of-another-backend",
        "`backend: {name: openvino, engine: x86}`",
        "backend.engine: 'x86' is a choice of the backend torch, but backend.name is openvino",
        "leave it out, or choose torch",
        job={"backend": {"name": "openvino", "engine": "x86"}},
    ),
    Case(
        "no-profile",
        "`backend: profile`",
        "backend.profile: is missing",
        "name the YAML file that describes the accelerator",
        job={"backend": "profile"},
    ),
    Case(
        "unknown-profile",
        "`backend: {name: profile, profile: chip}`",
        "backend.profile: no file .../chip, and no shipped profile of that name",
        "give a path, or one of npu_int8_int16_fp16",
        job={"backend": {"name": "profile", "profile": "chip"}},
    ),
    Case(
        "unknown-capture",
        "`model.capture: jit`",
        "model.capture: 'jit' is none of 'auto', 'export', 'modules'",
        arguments=("--set", "model.capture=jit"),
    ),
    Case(
        "kernels-without-latency",
        "`backend: {engine: per-op}` without the objective `latency`",
        "backend.engine: per-op takes the faster kernel of each op, which needs latency among the "
        "objectives",
        "choose auto, or add latency",
        {"backend": {"engine": "per-op"}},
    ),
    Case(
        "objectives-without-cost",
        "`objectives: [output_error, kl]`",
        "objectives: ['output_error', 'kl'] is wrong: a frontier trades quality for cost",
        "name at least one of output_error, kl, accuracy and at least one of latency, size, "
        "bops, int16_share",
        {"objectives": ["output_error", "kl"]},
    ),
    Case(
        "objective-twice",
        "`objectives: [output_error, bops, bops]`",
        "objectives: ['output_error', 'bops', 'bops'] is wrong",
        "name each objective once",
        {"objectives": ["output_error", "bops", "bops"]},
    ),
]

ENTRY_POINTS = [
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
    Scene(
        "not-python",
        "a file with a syntax error",
        "model.entry: .../model.py is not valid Python: ...",
        "",
        lambda stage: search_model_of(stage, "def build(:\n"),
    ),
    Scene(
        "import-fails",
        "a file that cannot be imported",
        "importing .../model.py failed: OSError: no licence",
        "run the file on its own with the same Python to see the whole error",
        lambda stage: search_model_of(stage, "def build(): ...\nraise OSError('no licence')\n"),
        before=READING,
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
        "data.metric.entry: 'acuracy' is wrong",
        "write package.module:function or path/file.py:function, or one of accuracy, "
        "agreement, cosine, mse, top5",
        {"data": {"metric": "acuracy"}},
    ),
    Case(
        "missing-name",
        "`model: {entry: tests.faulty:modle}`",
        "tests.faulty:modle: tests.faulty has no function 'modle'",
        "name a function that is defined at the top of the module",
        {"model": {"entry": "tests.faulty:modle"}},
        before=READING,
    ),
]
