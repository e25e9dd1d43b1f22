"""`sensitivity.csv`: what a method does not give is blank, and old files stay readable."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, SensitivityTable
from autoquant.results.sensitivity_file import read_sensitivity, write_sensitivity
from tests.unit.results.synthetic import make_row

EXACT = make_row("stem", Scheme.INT8, Part.BOTH, 1e-3)
GRADIENT = replace(
    make_row("head", Scheme.INT8, Part.BOTH, 1e-4),
    cosine=None,
    mse=None,
    l1=None,
    kl=None,
    method=Method.GRADIENT,
)


def test_a_table_of_two_methods_is_read_back_exactly(tmp_path: Path) -> None:
    table = SensitivityTable((EXACT, GRADIENT), "both", 64, "d1", around="p1", around_noise=0.25)
    write_sensitivity(tmp_path / "table.csv", table)
    assert read_sensitivity(tmp_path / "table.csv") == table


def test_what_a_method_does_not_give_is_blank(tmp_path: Path) -> None:
    write_sensitivity(tmp_path / "table.csv", SensitivityTable((GRADIENT,), "m", 64))
    with (tmp_path / "table.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert [line[name] for name in ("cosine", "mse", "l1", "kl")] == ["", "", "", ""]
    assert line["method"] == "gradient"


def test_a_file_from_before_methods_by_row_holds_exact_rows(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(
        "knob,scheme,part,sqnr_db,cosine,mse,l1,kl,noise,noise_stderr,method,samples\n"
        'stem,int8,both,30.0,0.9995,0.003,0.03,0.0001,0.001,0.0001,"one knob at a time",128\n'
    )
    table = read_sensitivity(tmp_path / "old.csv")
    assert (table.method, table.samples, table.digest) == ("one knob at a time", 128, "")
    assert table.rows[0].method is Method.EXACT
    assert table.rows[0].cosine == 0.9995
