"""Whatever a job file holds, it is a job or a mistake with a sentence."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoquant.cli import main
from autoquant.errors import AutoquantError
from autoquant.job import dump_job, load_job
from tests.integration.bad_inputs.stage import write_job

TEXTS = (
    *("", " ", "{{ }}", "{{ name }}", "\x00", "a\x00b", "\ud800", "*", "../..", "/", "sys:exit"),
    *(":", "a:b:c", "a.py:", ".py:f", "1e400", "~", "${HOME}", "\n", "é" * 300, "2026-01-01"),
)
NUMBERS = (
    *(0, -1, 1, 2**31, 2**63, 10**400, -(10**400), 1e11, 1e308, -0.0),
    *(float("inf"), float("nan")),
)
NESTED = ([], {}, [[]], {"": ""}, {"entry": None}, [None], [{}], {1: 2}, b"\x00\xff")
ODD = (None, True, *TEXTS, *NUMBERS, *NESTED)
SCALARS = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
SYNTAX = (
    *("{{ }}", "\x00", "\t", "&a *a", "!!python/object:os.system x", "? ", "- ", "[", "'"),
    *("!!binary /w==", "2026-13-45", "2026-01-01", "!!timestamp x", "<<: *x", "<<: 3", "!!set {a}"),
    *("...", "%YAML 9", "&a [*a]", "? [a]\n: b", "? {a: b}\n: c", "0x", "1:99:99", "\ufeff"),
    *("\x85", "\udc80", "=", "!!int x"),
)


def good(folder: Path) -> dict[str, Any]:
    """A good job, as keys and values."""
    document: dict[str, Any] = yaml.safe_load(write_job(folder).read_text())
    return document


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a document can be changed."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def reads(path: Path) -> None:
    """Read a job file, and write the job back."""
    try:
        job = load_job(path)
    except AutoquantError:
        return
    dump_job(job)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


KEYS = (
    *("calibration", "sensitivity", "constraints", "budget", "execution", "tracking", "outputs"),
    *("finetune", "seeds", "seed", "name", "objectives", "sampler", "backend", "data", "model"),
    "space",
)


@given(data=st.data())
def test_a_job_with_any_value_anywhere_is_read_or_refused(
    folder: Path, data: st.DataObject
) -> None:
    document = copy.deepcopy(good(folder))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([*places(document), *((key,) for key in KEYS)]))
        section: Any = document
        for key in place[:-1]:
            section = section[key] if isinstance(section, dict) and key in section else {}
        if isinstance(section, dict):
            section[place[-1]] = data.draw(VALUES)
    path = folder / "changed.yaml"
    path.write_bytes(yaml.dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))
    reads(path)


@given(data=st.data())
def test_a_job_with_any_text_anywhere_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    text = yaml.safe_dump(good(folder), sort_keys=False)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.sampled_from((0, 0, 1, 5, 40)))
        put = data.draw(st.sampled_from(SYNTAX) | st.text(max_size=12))
        text = text[:start] + put + text[start + cut :]
    path = folder / "torn.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    reads(path)


@given(override=st.text(max_size=30) | st.sampled_from(KEYS).map(lambda key: f"{key}={{{{ }}}}"))
def test_any_override_is_taken_or_refused(folder: Path, override: str) -> None:
    with suppress(AutoquantError):
        load_job(write_job(folder), [override])


@pytest.mark.parametrize(
    "change",
    [
        "backend.batch_size=1e11",
        "backend.batch_size=100000000000",
        "backend.threads=100000000000000000000000",
        "model={entry: sys:exit}",
        "data.metric=sys:exit",
        "data.calibration=sys:exit",
        "execution.workers=1000000000000",
        "seed=1000000000000000000000000000000",
        'output="a\\0b"',
        "model=",
        "name=2026-01-01",
    ],
)
def test_a_search_of_what_cannot_be_ends_with_a_sentence(
    folder: Path, change: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["search", str(write_job(folder)), "--set", f"output={tmp_path}/out", "--set", change]
    code = main(words)
    shown = capsys.readouterr().err
    assert code in (0, 2)
    assert code == 0 or shown.startswith("error:") or "\nerror:" in shown
