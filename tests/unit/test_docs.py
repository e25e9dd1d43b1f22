"""The documentation names what the code has, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from click import Context
from click.exceptions import Exit
from pydantic import BaseModel
from typer.main import get_command

from autoquant.cli.app import app
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind
from autoquant.job import Job, load_job, shipped_spaces
from autoquant.model.graph.aten import ATEN_KINDS
from autoquant.results import files
from autoquant.results.sensitivity_file import COLUMNS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


def commands(path: Path) -> list[list[str]]:
    """The words of each `autoquant` command in a page's blocks."""
    found = []
    for language, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines():
            command = re.match(r"(\$ )?autoquant (.*)", line)
            if command and (command[1] or language in ("sh", "bash")):
                found.append(shlex.split(command[2], comments=True))
    return found


def links(path: Path) -> list[str]:
    prose = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return [link for link in LINK.findall(prose) if "://" not in link]


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    prose = BLOCK.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that holds a value by its dotted name; `[]` stands for the items of a list."""
    for name, field in model.model_fields.items():
        sections = list(sections_in(field.annotation))
        if not sections:
            yield prefix + name
        for inner, mark in sections:
            yield from keys_of(inner, f"{prefix}{name}{mark}.")


def sections_in(annotation: object, mark: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    is_alias = get_origin(annotation) is not None  # Python 3.10 takes list[str] for a type
    if not is_alias and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, mark
    elif getattr(annotation, "__origin__", None) is tuple:
        yield from (pair for part in get_args(annotation) for pair in sections_in(part, "[]"))
    else:
        yield from (pair for part in get_args(annotation) for pair in sections_in(part, mark))


@page
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for link in links(path):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", PAGES[1:], ids=lambda path: path.stem)
def test_every_page_stands_in_the_index(path: Path) -> None:
    if path.name == "index.md":
        return
    inside = path.relative_to(ROOT / "docs")
    above = f"{inside.parts[0]}.md"
    has_one = len(inside.parts) > 1 and (ROOT / "docs" / above).exists()
    assert f"({inside})" in text_of(above if has_one else "index.md")


@pytest.mark.parametrize("key", list(keys_of(Job)))
def test_every_key_of_a_job_is_described(key: str) -> None:
    assert f"`{key}`" in text_of("job-file.md")


@pytest.mark.parametrize("name", [*(scheme.value for scheme in Scheme), *shipped_spaces()])
def test_every_scheme_and_shipped_space_is_described(name: str) -> None:
    assert f"| `{name}` |" in text_of("search-spaces.md")


FILES = [value for name, value in vars(files).items() if name.isupper() and isinstance(value, str)]


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_result_folder_is_described(name: str) -> None:
    head = name if name != files.PLANS else f"{name}/<number>.ts"
    assert f"| `{head}` |" in text_of("result-folder.md")


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_of_the_sensitivity_file_is_described(column: str) -> None:
    items = text_of("result-folder.md").split("\n- ")
    described = next(text for text in items if text.startswith("`sensitivity.csv`"))
    assert f"`{column}`" in described


@pytest.mark.parametrize("kind", list(OpKind), ids=lambda kind: kind.value)
def test_every_kind_of_site_is_described_and_has_an_op(kind: OpKind) -> None:
    assert f"`{kind.value}`" in text_of("sites.md")
    assert kind is OpKind.CUSTOM or kind in ATEN_KINDS.values()


@page
def test_yaml_and_python_examples_are_valid(path: Path) -> None:
    for example in blocks(path, "yaml"):
        assert isinstance(yaml.safe_load(example), dict)
    for example in blocks(path, "python"):
        compile(example, str(path), "exec")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{path.stem}: {' '.join(words)}")
        for path in PAGES
        for words in commands(path)
    ],
)
def test_every_command_in_the_text_is_one_that_the_command_line_takes(words: list[str]) -> None:
    group = get_command(app)
    with Context(group) as context:
        if words == ["--help"]:
            return
        name, command, rest = group.resolve_command(context, words)
        assert command is not None
        with suppress(Exit):  # --help
            command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", list(get_command(app).commands))
def test_every_command_is_described(name: str) -> None:
    assert f"`autoquant {name} " in text_of("command-line.md") or (
        f"`autoquant {name}`" in text_of("command-line.md")
    )


def test_the_job_file_of_its_page_runs_as_it_stands(tmp_path: Path) -> None:
    entries = "\n".join(
        f"def {name}(): ..." for name in ("model", "calibration", "evaluation", "heldout")
    )
    (tmp_path / "digits.py").write_text(entries)
    (tmp_path / "job.yaml").write_text(blocks(ROOT / "docs" / "job-file.md", "yaml")[0])
    assert load_job(tmp_path / "job.yaml").name == "digits"
