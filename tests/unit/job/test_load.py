"""Job files: what is read, what is overridden, and mistakes by key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import JobError
from autoquant.job import dump_job, load_job, shipped_spaces
from autoquant.job.backend import Int8Settings, backend_settings

ENTRY = "def model():\n    ...\n\ndef batches():\n    ...\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "entry.py").write_text(ENTRY)
    document = {
        "name": "job",
        "model": {"entry": "entry.py:model"},
        "data": {
            "calibration": "entry.py:batches",
            "evaluation": {"entry": "entry.py:batches", "arguments": {}},
            "metric": "accuracy",
        },
        "space": "server_cpu",
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_defaults_fill_what_a_file_leaves_out(path: Path) -> None:
    job = load_job(path)
    assert job.objectives == (Objective.OUTPUT_ERROR, Objective.LATENCY)
    assert job.sampler == "guided"
    assert job.output == Path("out/job").resolve()
    assert job.tracking_uri == f"sqlite:///{Path('out/mlflow.db').resolve()}"


def test_entry_files_are_relative_to_the_job_file(path: Path) -> None:
    job = load_job(path)
    assert job.model is not None
    assert job.model.entry == f"{path.parent / 'entry.py'}:model"


def test_seeds_are_relative_to_the_current_folder_and_kept_with_the_job(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Plan.of({"a": Scheme.INT8}).save(elsewhere / "plan.json")
    monkeypatch.chdir(elsewhere)
    job = load_job(path, ["seeds=[plan.json]"])
    assert job.seeds == (elsewhere / "plan.json",)
    (tmp_path / "again.yaml").write_text(dump_job(job))
    monkeypatch.chdir(tmp_path)
    assert load_job(tmp_path / "again.yaml") == job


def test_a_dumped_job_loads_as_the_same_job(path: Path, tmp_path: Path) -> None:
    job = load_job(path, ["budget.minutes=2.5", "space={schemes: [int8, fp32]}"])
    (tmp_path / "again.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "again.yaml") == job


def test_overrides_replace_single_keys(path: Path) -> None:
    job = load_job(path, ["budget.trials=7", "data.arguments.count=3", "seed=5"])
    assert (job.budget.trials, job.seed) == (7, 5)
    assert job.data is not None
    assert job.data.arguments == {"count": 3}
    assert load_job(path).budget.trials == 64


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", True), ("true", True), ("no", False), ("auto", "auto")],
)
def test_reduce_range_is_what_yaml_makes_of_it(path: Path, text: str, value: object) -> None:
    assert load_job(path, [f"backend.reduce_range={text}"]).backend.reduce_range is value


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_loads_by_its_name(path: Path, name: str) -> None:
    assert load_job(path, [f"space={name}"]).space.name == name


def test_the_npu_space_is_int8_int16_and_fp16_with_fp32_to_fall_back_on(path: Path) -> None:
    space = load_job(path, ["space=npu"]).space
    assert space.schemes == (Scheme.INT8, Scheme.INT16, Scheme.FP16)
    assert space.fallback is Scheme.FP32


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("budget.round_size=0", "budget.round_size: 0 is below 1"),
        ("budget.trials=eight", "budget.trials: 'eight' is not a whole number"),
        ("budget.trails=8", "budget.trails: unknown key; did you mean 'trials'?"),
        ("trials=8", "trials: unknown key; it belongs to 'budget'"),
        ("budget.metric=mse", "budget.metric: unknown key; it belongs to 'data'"),
        ("sampler=gp", "sampler: 'gp' is none of 'guided', 'tpe', 'nsga2', 'random'"),
        ("backend.threads=0", "backend.threads: 0 is below 1"),
        ("constraints.accuracy_drop=-1", "constraints.accuracy_drop: -1 is below 0"),
        ("objectives=[latency, size]", "a frontier trades quality for cost"),
        ("objectives=[kl, kl, size]", "name each objective once"),
        ("space={schemes: [int3]}", "space.schemes.0: 'int3' is none of 'int4_weight_only_128'"),
        ("space={schemes: []}", "space.schemes: [] needs at least 1 item"),
        ("space={schemes: [int8], rules: [{pin: int8}]}", "a rule needs path, kind or block"),
        ("space=nowhere", "no shipped space of that name; give a path, or one of ethos_u"),
        ("model.entry=entry.py:nothing", "defines no 'nothing'; it defines model, batches"),
        ("model.entry=missing.py:model", "model.entry: no file"),
        ("model.entry=model", "write package.module:function or path/file.py:function"),
        ("data.metric=no_such_package.metrics:f", "no module 'no_such_package.metrics'"),
        ("backend.reduce_range=7", "backend.reduce_range: 7 is none of 'auto', true, false"),
        ("execution.workers=0", "execution.workers: 0 is below 1"),
        ("name=a/b", "name: 'a/b' may hold letters, digits"),
        ("budget.minutes=.inf", "budget.minutes: inf is not a finite number"),
        ("budget", "--set budget: write --set dotted.key=value"),
        ("name.first=x", "'name' is no section"),
    ],
    ids=lambda value: value if "=" in value or value == "budget" else "",
)
def test_a_mistake_is_named_by_key_and_value(path: Path, override: str, line: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(path, [override])
    assert line in str(caught.value)


def test_a_key_goes_into_a_section_that_is_written_as_text(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    model = "entry.py:model"
    path.write_text(yaml.safe_dump({**document, "model": model, "backend": "fbgemm"}))
    plain = load_job(path)
    job = load_job(path, ["model.capture=modules", "backend.pairs=7"])
    assert job.model is not None
    assert plain.model is not None
    assert (job.model.entry, job.model.capture) == (plain.model.entry, "modules")
    assert job.backend.model_copy(update={"pairs": plain.backend.pairs}) == plain.backend
    assert job.backend.pairs == 7


def test_all_mistakes_come_together(path: Path) -> None:
    with pytest.raises(JobError) as caught:
        load_job(path, ["budget.trials=-1", "seed=x", "bugdet.trials=1"])
    assert "3 mistakes" in str(caught.value)
    assert "bugdet: unknown key; did you mean 'budget'?" in str(caught.value)


def test_a_key_that_stands_twice_is_refused_with_its_line(path: Path) -> None:
    path.write_text(path.read_text() + "name: other\n")
    with pytest.raises(JobError, match=r"line \d+: the key 'name' stands twice"):
        load_job(path)


def test_broken_yaml_names_its_line(path: Path) -> None:
    path.write_text("name: job\nmodel: [unclosed\n")
    with pytest.raises(JobError, match="line 3"):
        load_job(path)


def test_a_job_without_model_or_data_is_refused(path: Path) -> None:
    path.write_text("name: job\nspace: server_cpu\n")
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert "model: is missing" in str(caught.value)
    assert "data: is missing" in str(caught.value)


@pytest.mark.parametrize(("old", "now"), [("fx", "auto"), ("eager", "modules")])
def test_names_of_captures_of_older_jobs_are_read_with_a_notice(
    path: Path, caplog: pytest.LogCaptureFixture, old: str, now: str
) -> None:
    job = load_job(path, [f"model.capture={old}"])
    assert job.model is not None
    assert job.model.capture == now
    assert f"{old} is an old name, read as {now}" in caplog.text


def test_a_backend_of_an_older_job_names_the_options_of_all_backends() -> None:
    section = {"name": "openvino", "engine": "auto", "accelerator": None, "profile": None}
    found = backend_settings({**section, "reduce_range": "auto", "threads": 2})
    assert found == Int8Settings(name="openvino", threads=2)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            {"finetune": {"data": "entry.py:batches", "loss": "entry.py:model", "float_steps": 9}},
            "finetune.learning_rates: 0 steps in all are too few to try 3",
        ),
        ({"execution": {"packages": ["timm"]}}, "execution.packages: is for the nodes"),
        ({"execution": {"address": "auto", "target": {}}}, "execution.target: name a resource"),
    ],
    ids=["steps", "packages", "target"],
)
def test_a_mistake_of_several_keys_shows_no_section_but_the_key_to_change(
    path: Path, section: dict[str, object], line: str
) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | section))
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert line in str(caught.value)
    assert "{" not in str(caught.value)


def test_a_list_is_not_too_short_where_its_items_are_wrong(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    section = {"data": "entry.py:batches", "loss": "entry.py:model", "float_steps": 900}
    document["finetune"] = section | {"learning_rates": [-1]}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(JobError, match=r"1 mistake\n  - finetune.learning_rates.0: -1 is"):
        load_job(path)
