"""`autoquant check`: exit codes, tables and JSON, as a user meets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoquant.cli import main
from tests.integration.conftest import WriteJob

SHARED = """
import torch
from tests.misbuilt import Shared, misbuilt

def model():
    return misbuilt(Shared(6.0))

def batches(count, seed):
    return [torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))]
"""


def test_a_healthy_job_exits_with_0_and_prints_every_op(
    write_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(write_job())]) == 0
    printed = capsys.readouterr().out
    assert "nothing needs attention" in printed
    assert "b2.conv2" in printed
    assert "largest" in printed


def test_a_job_with_a_finding_exits_with_1_and_says_what_why_and_the_mend(
    write_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job()
    (tmp_path / "entry.py").write_text(SHARED)
    assert main(["check", str(job)]) == 1
    printed = capsys.readouterr().out
    assert "attention [calls] spare" in printed
    assert "why:  what is configured for them has no effect" in printed
    assert "mend: delete them for inference (del model.spare)" in printed
    assert "model = aq.split_shared(model, batch, ['conv'])" in printed
    assert "1 thing needs attention" in printed


@pytest.mark.parametrize("name", ["report.txt", "report.html"])
def test_the_report_is_kept_as_text_or_as_a_page(
    write_job: WriteJob, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    assert main(["check", str(write_job()), "-o", str(path)]) == 0
    printed, kept = capsys.readouterr().out, path.read_text()
    assert f"report: {path}" in printed
    assert kept.startswith("<!DOCTYPE html>") == (name == "report.html")
    for text in ("nothing needs attention", "b2.conv2", "handed out as", "float32, unrounded"):
        assert text in kept
        assert text in printed


def test_a_mistake_exits_with_2_and_says_the_mend(
    write_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(write_job()), "--plan", "nowhere"]) == 2
    assert re.search(r"mend: schemes: .*\bint8\b", capsys.readouterr().err)


def test_json_is_all_that_standard_output_holds(
    write_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(write_job()), "--plan", "int16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["runs"] for row in document["ops"] if row["kind"] == "conv2d"} == {"int16 emulated"}


def test_a_setting_of_the_job_is_judged(
    write_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    from autoquant.backends.torch_cpu.engines import saturates

    wrong = "false" if saturates("fbgemm") else "true"
    assert main(["check", str(write_job()), "--set", f"backend.reduce_range={wrong}"]) == 1
    assert "set backend.reduce_range: auto" in capsys.readouterr().out


def test_kernels_of_several_engines_are_not_timed(
    write_job: WriteJob, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = {"engine": "per-op"}
    job = write_job(backend=backend, objectives=["output_error", "latency"])
    assert main(["check", str(job)]) == 0
    assert "timing" not in capsys.readouterr().err


def test_evaluation_data_are_not_needed(write_job: WriteJob) -> None:
    job = write_job()
    entry = job.parent / "entry.py"
    entry.write_text(entry.read_text().replace("seeded(MixedNet)(inputs).argmax(1)", "inputs"))
    assert main(["check", str(job)]) == 0


def test_a_check_imports_no_plots_and_no_trackers(write_job: WriteJob) -> None:
    code = (
        "import sys; from autoquant.cli import main\n"
        f"main(['check', {str(write_job())!r}])\n"
        "print([name for name in ('plotly', 'pandas', 'mlflow', 'ray') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
