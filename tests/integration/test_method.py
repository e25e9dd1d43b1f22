"""docs/method.md: every row is numbered, and its command, call or test shows what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import nn

import autoquant as aq
from autoquant.backends.profile.reading import shipped_profiles
from autoquant.cli import main
from docs.extending.own_module import SquaredLinear
from tests.networks import LinearNet, images, seeded
from tests.seeded_faults import SharedNet, outlier_channels

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
_ENTRY = """
import torch
from tests.seeded_faults import {fault}

fault = {fault}()

def model():
    return fault.model

def labelled(inputs):
    with torch.no_grad():
        return inputs, fault.model(inputs).argmax(1)

def calibration():
    return fault.calibration

def evaluation():
    return labelled(fault.evaluation)

def training():
    return [labelled(part) for part in fault.calibration.split(16)]
"""
_ERRORS = """
def largest(expected, found):
    return (expected - found).abs().flatten(1).amax(1)
"""
_JOBS = {"JOB": "outlier_channels", "SAMPLES": "outlier_sample", "VARYING": "varying_range"}


class Row(NamedTuple):
    """A row of the page."""

    number: int
    item: str
    shown_by: str
    text: str


def rows() -> list[Row]:
    """The rows of the page, in order."""
    found = _ROW.findall((ROOT / "docs" / "method.md").read_text())
    return [Row(int(n), item, how.strip("`"), text.strip("`")) for n, item, how, text in found]


def test_rows_are_numbered_in_order() -> None:
    assert [row.number for row in rows()] == list(range(1, len(rows()) + 1))
    assert len(rows()) > 130
    assert sum(row.shown_by.startswith("not here") for row in rows()) <= 5


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.number))
def test_a_row_names_a_command_a_call_a_test_or_a_reason(row: Row) -> None:
    if row.shown_by.startswith("tests/"):
        assert (ROOT / row.shown_by).exists()
    elif not row.shown_by.startswith("not here"):
        assert row.shown_by.startswith(("autoquant ", "aq."))
        assert row.text


def write_jobs(folder: Path) -> dict[str, str]:
    """A job file for each network that the page names, by its placeholder."""
    (folder / "errors.py").write_text(_ERRORS)
    described = yaml.safe_load(shipped_profiles()["npu_int8_int16_fp16"])
    described["functions"] = {
        "add": {"schemes": ["int16", "fp16"]},
        "conv2d": {"range": [-8.0, 8.0]},
    }
    (folder / "chip.yaml").write_text(yaml.safe_dump(described))
    for name, fault in _JOBS.items():
        (folder / f"{fault}.py").write_text(_ENTRY.format(fault=fault))
        document = {
            "name": fault,
            "model": {"entry": f"{fault}.py:model"},
            "data": {
                "calibration": f"{fault}.py:calibration",
                "evaluation": f"{fault}.py:evaluation",
                "metric": "accuracy",
            },
            "backend": {"engine": "onednn", "pairs": 3},
            "space": {"schemes": ["int8", "int16", "fp16", "bf16", "fp32"]},
            "sensitivity": {"samples": 16},
            "objectives": ["output_error", "bops"],
            "constraints": {"accuracy_drop": 0.1},
            "budget": {"trials": 2},
            "execution": {"kind": "local"},
            "tracking": {"enabled": False},
            "finetune": {
                "data": f"{fault}.py:training",
                "loss": "torch.nn.functional:cross_entropy",
                "float_steps": 20,
                "share": 1.0,
                "checks": 2,
                "learning_rates": [0.001],
            },
            "output": str(folder / name),
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return {name: f"{name}.yaml" for name in _JOBS}


class Recurrent(nn.Module):
    """An embedding, an LSTM, a GRU and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.lstm(self.table(x))[0])[0][:, -1])


class Bag(nn.Module):
    """The mean of embeddings, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(50, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(x))


class Steps(nn.Module):
    """An LSTM over steps, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    """Self-attention over steps, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


class Ranking(LinearNet):
    """Hands out the class alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


class Observer:
    """All that was seen."""

    def __call__(self, seen: Any) -> tuple[float, float]:
        return seen.low, seen.high


class Cells(nn.Module):
    """One step of each kind of recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(16, 16), nn.GRUCell(16, 16)
        self.plain = nn.RNNCell(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(x)
        return self.plain(self.gru(x, hidden))


def names() -> dict[str, Any]:
    """What the calls of the page name."""
    from torch.ao import quantization as ao
    from torch.ao.nn.quantizable import LSTM
    from torch.ao.quantization import quantize_fx as fx

    model, data = seeded(LinearNet), torch.randn(64, 16)
    static = ao.get_default_qconfig_mapping("x86")
    prepared = [fx.prepare_fx(seeded(LinearNet), static, (data,)) for _ in range(2)]
    for item in prepared:
        item(data)
    by_batch = ao.QConfigMapping().set_global(ao.default_dynamic_qconfig)
    fx_dynamic = fx.convert_fx(fx.prepare_fx(seeded(LinearNet), by_batch, (data,)))
    fake = fx.prepare_qat_fx(
        seeded(LinearNet).train(), ao.get_default_qat_qconfig_mapping("x86"), (data,)
    )
    fake(data)
    stubbed = ao.QuantWrapper(seeded(LinearNet)).eval()
    eager = ao.QuantWrapper(seeded(LinearNet)).eval()
    eager.qconfig = ao.get_default_qconfig("x86")
    ao.prepare(eager, inplace=True)(data)
    written_out = seeded(Steps)
    written_out.lstm.qconfig = None
    written_out.lstm = LSTM.from_float(written_out.lstm)
    weight = ao.default_weight_observer  # one scale for the tensor
    activation = ao.HistogramObserver.with_args(reduce_range=False)
    per_tensor = ao.QConfig(activation=activation, weight=weight)
    return {
        "aq": aq,
        "model": model,
        "data": data,
        "fx_converted": fx.convert_fx(prepared[0]),
        "fx_reference": fx.convert_to_reference_fx(prepared[1]),
        "fx_dynamic": fx_dynamic,
        "fx_fake": fake.eval(),
        "stubbed": stubbed,
        "eager": ao.convert(eager),
        "pt2e": _pt2e(model, data),
        "classes": torch.tensor([0, 1, 2] * 21 + [3]),
        "dynamic": ao.quantize_dynamic(model, {nn.Linear}),
        "per_tensor": ao.QConfigMapping().set_global(per_tensor),
        "typo": ao.QConfigMapping().set_module_name("frist", per_tensor),
        "observer": lambda seen: (seen.low, seen.high),
        "Observer": Observer,
        "cells": seeded(Cells),
        "recurrent": seeded(Recurrent),
        "bag": seeded(Bag),
        "custom": seeded(lambda: nn.Sequential(SquaredLinear(16, 32), nn.Linear(32, 4))),
        "wide": seeded(lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))),
        "vectors": torch.randn(64, 64),
        "attention": seeded(Attention),
        "written_out": written_out.eval(),
        "steps": torch.randn(32, 4, 16),
        "ranking": seeded(Ranking),
        "tokens": torch.randint(0, 50, (64, 8)),
        "shared": seeded(SharedNet),
        "images": images(8),
    }


def _pt2e(model: nn.Module, data: torch.Tensor) -> nn.Module:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (data,)).module(), quantizer)
    prepared(data)
    converted: nn.Module = convert_pt2e(prepared)
    return converted


def test_the_network_of_the_page_is_ruined_by_int8() -> None:
    """So that what its rows find is there."""
    fault = outlier_channels()
    report = aq.diagnose(
        fault.model, calibration=fault.calibration, evaluation=fault.evaluation, backend="onednn"
    )
    assert report.sqnr_db < report.limit_db


@pytest.mark.slow  # a few minutes: it runs every command of the page
def test_every_command_and_call_shows_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, since files of one are read by the next."""
    monkeypatch.chdir(tmp_path)
    jobs, known, shown = write_jobs(tmp_path), names(), {}
    wrong = []
    for row in rows():
        if not row.shown_by.startswith(("autoquant ", "aq.")):
            continue
        if row.shown_by not in shown:
            shown[row.shown_by] = _show(row.shown_by, jobs, known, capsys)
        if row.text not in shown[row.shown_by]:
            wrong.append(f"{row.number} {row.shown_by}: no {row.text!r} in {shown[row.shown_by]}")
    assert not wrong, "\n".join(wrong)


def _show(
    how: str, jobs: dict[str, str], known: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> str:
    """What a command prints, or what a call gives, as text."""
    if how.startswith("aq."):
        try:
            return "\n".join(_texts(eval(how, dict(known))))
        except aq.AutoquantError as error:
            return f"{type(error).__name__}: {error}"
    words = [jobs.get(word, word) for word in shlex.split(how)[1:]]
    code = main(words)
    printed = capsys.readouterr()
    return printed.out if code in (0, 1) else f"(exit code {code})"


def _texts(found: Any) -> Iterator[str]:
    yield type(found).__name__
    yield repr(found)
    if hasattr(found, "to_json"):
        yield repr(found.to_json())
