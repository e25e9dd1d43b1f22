"""YAML -> job, with all mistakes at once and before any model is loaded."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from autoquant.core.calls import find_unwritable
from autoquant.core.plan import load_plans
from autoquant.core.secrets import masked
from autoquant.errors import JobError, PlanError
from autoquant.job.backend import backend_from_text, resolve_backend
from autoquant.job.mistakes import explain_mistakes
from autoquant.job.schema import METRICS, Job, SearchSettings
from autoquant.job.section import shipped_folders
from autoquant.job.yaml_text import parse_yaml, read_yaml_mapping

SPACES = "search_spaces"

_ENTRY_KEYS = {
    "data": ("calibration", "evaluation", "heldout", "loss", "metric"),
    "finetune": ("data", "loss", "float_schedule"),
}


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read, override and check a job file.

    Files that the job names (entry points, the search space) are relative to the job file's
    folder; `output` and `seeds` are relative to the current one.

    Raises:
        JobError: Whatever is wrong, all of it in one error.
    """
    path = Path(path)
    document = read_yaml_mapping(path)
    mistakes: list[str] = []
    for override in overrides:
        mistakes += _override(document, override)
    if unwritable := list(find_unwritable(document)):
        raise JobError.of(str(path), unwritable)
    mistakes += [f"{key}: is missing; add it" for key in ("model", "data") if key not in document]
    mistakes += list(_resolve(document, path.resolve().parent))
    document.setdefault("output", f"out/{document.get('name', path.stem)}")
    try:
        job = Job.model_validate(document)
    except ValidationError as error:
        mistakes += explain_mistakes(error, Job)
    if mistakes:
        raise JobError.of(str(path), list(dict.fromkeys(mistakes)))
    return job


def dump_job(job: SearchSettings) -> str:
    """Write a job as YAML that `load_job` reads back, with absolute paths and without passwords.

    The settings of a search alone are written as a job that names no model and no data.
    """
    document = job.model_dump(mode="json")
    for section, key in (("tracking", "uri"), ("execution", "address")):
        document[section][key] = _masked(document[section][key])
    tags = document["tracking"]["tags"]
    document["tracking"]["tags"] = {name: masked(value) for name, value in tags.items()}
    first = {key: document.get(key) for key in ("name", "model", "data")}
    return yaml.safe_dump(first | document, sort_keys=False, allow_unicode=True)


def _masked(address: str | None) -> str | None:
    return None if address is None else masked(address)


def find_space_rules(name: str, folder: Path = Path()) -> dict[str, Any]:
    """Read a search space by path (relative to `folder`) or by the name of a shipped one."""
    shipped = [place / f"{name}.yaml" for place in shipped_folders(SPACES)]
    for candidate in (folder / name, *shipped):
        if _is_file(candidate):
            return read_yaml_mapping(candidate)
    raise JobError(
        f"no search space {name!r}: no such file, and no shipped space of that name",
        hint=f"give a path, or one of {', '.join(shipped_spaces())}",
    )


def shipped_spaces() -> tuple[str, ...]:
    """Names of the search spaces that come with autoquant."""
    names = {file.stem for folder in shipped_folders(SPACES) for file in folder.glob("*.yaml")}
    return tuple(sorted(names))


def _is_file(path: Path) -> bool:
    """Whether a file is there; a name that is too long or none at all names no file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _override(document: dict[str, Any], override: str) -> list[str]:
    """Apply one `dotted.key=value`; give the mistake, if it is one."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return [f"--set {override}: write --set dotted.key=value"]
    section = document
    for place, part in enumerate(parts[:-1], 1):
        inner = section.setdefault(part, {})
        if isinstance(inner, str):
            inner = section[part] = _long_form(tuple(parts[:place]), inner)
        if not isinstance(inner, dict):
            return [f"--set {override}: {part!r} is no section; its value is {inner!r}"]
        section = inner
    try:
        section[parts[-1]] = parse_yaml(text, f"--set {key}")
    except JobError as error:
        return [error.message]
    return []


def _long_form(section: tuple[str, ...], text: str) -> object:
    """The mapping that a section stands for which is written as text; the text where none is."""
    if section == ("backend",):
        return backend_from_text(text)
    if section == ("model",) or section[-1] in _ENTRY_KEYS.get(section[0], ()):
        return {"entry": text}
    return text


def _resolve(document: dict[str, Any], folder: Path) -> Iterator[str]:
    """Make the paths of a document absolute, in place; give what is missing."""
    space = document.get("space")
    if isinstance(space, str):
        try:
            document["space"] = find_space_rules(space, folder)
        except JobError as error:
            yield f"space: {error.message}; {error.hint}"
            document["space"] = {"schemes": ["fp32"]}
    yield from _resolve_seeds(document)
    yield from _resolve_files(document, folder)
    if "backend" in document:
        yield from _resolve_backend(document, folder)
    yield from _resolve_objectives(document, folder)
    yield from _resolve_observers(document, folder)
    yield from _resolve_entry(document, "model", "model", folder)
    for name, keys in _ENTRY_KEYS.items():
        section = document.get(name)
        if isinstance(section, dict):
            for key in keys:
                yield from _resolve_entry(section, key, f"{name}.{key}", folder)


def _resolve_seeds(document: dict[str, Any]) -> Iterator[str]:
    """Each seed is a file of plans that can be read."""
    seeds = document.get("seeds")
    if not isinstance(seeds, list):
        return
    for index, seed in enumerate(seeds):
        if isinstance(seed, str):
            path = seeds[index] = str(Path(seed).resolve())
            try:
                load_plans(path)
            except PlanError as error:
                yield f"seeds.{index}: {error.message}; {error.hint}"


def _resolve_files(document: dict[str, Any], folder: Path) -> Iterator[str]:
    """What goes to the nodes of a cluster is there."""
    execution = document.get("execution")
    files = execution.get("files") if isinstance(execution, dict) else None
    if not isinstance(files, list):
        return
    for index, name in enumerate(files):
        if isinstance(name, str):
            path = (folder / name).resolve()
            files[index] = str(path)
            if not path.exists():
                yield (
                    f"execution.files.{index}: no file or folder {path}; the path is relative to "
                    "the job file"
                )


def _resolve_objectives(document: dict[str, Any], folder: Path) -> Iterator[str]:
    """The table of an objective of the user's own is a file, its function an entry point."""
    objectives = document.get("objectives")
    for index, own in enumerate(objectives if isinstance(objectives, list) else ()):
        if not isinstance(own, dict):
            continue
        if isinstance(own.get("table"), str):
            table = (folder / own["table"]).resolve()
            own["table"] = str(table)
            if not table.is_file():
                yield (
                    f"objectives.{index}.table: no file {table}; the path is relative to the job "
                    "file"
                )
        yield from _resolve_entry(own, "function", f"objectives.{index}.function", folder)


def _resolve_observers(document: dict[str, Any], folder: Path) -> Iterator[str]:
    """An observer that is no name is an entry point."""
    section = document.get("calibration")
    if not isinstance(section, dict):
        return
    sites = section.get("sites")
    places = [(section, "observer", "calibration.observer")]
    if isinstance(sites, dict):
        places += [(sites, key, f"calibration.sites.{key}") for key in sites]
    for holder, key, name in places:
        value = holder.get(key)
        if isinstance(value, dict) or (isinstance(value, str) and ":" in value):
            yield from _resolve_entry(holder, key, name, folder)


def _resolve_backend(document: dict[str, Any], folder: Path) -> Iterator[str]:
    try:
        document["backend"] = resolve_backend(document["backend"], folder)
    except JobError as error:
        yield f"{error.message}; {error.hint}"


def _resolve_entry(section: dict[str, Any], key: str, name: str, folder: Path) -> Iterator[str]:
    value = section.get(key)
    if isinstance(value, str):
        value = section[key] = {"entry": value}
    if not isinstance(value, dict) or not isinstance(value.get("entry"), str):
        return
    entry = METRICS.get(value["entry"], value["entry"]) if key == "metric" else value["entry"]
    place, _, function = entry.rpartition(":")
    if place.endswith(".py"):
        file = (folder / place).resolve()
        value["entry"] = f"{file}:{function}"
        yield from _check_file(file, function, f"{name}.entry")
    elif place:
        value["entry"] = entry
        yield from _check_module(place, f"{name}.entry")


def _check_file(file: Path, function: str, name: str) -> Iterator[str]:
    if not _is_file(file):
        yield f"{name}: no file {file}; the path is relative to the job file"
        return
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        yield f"{name}: {file} is not valid Python: {error}"
        return
    defined = [item.name for item in tree.body if isinstance(item, (ast.FunctionDef, ast.ClassDef))]
    imported = [
        alias.asname or alias.name
        for item in tree.body
        if isinstance(item, (ast.ImportFrom, ast.Import))
        for alias in item.names
    ]
    assigned = [
        target.id
        for item in tree.body
        if isinstance(item, ast.Assign)
        for target in item.targets
        if isinstance(target, ast.Name)
    ]
    if function not in (*defined, *imported, *assigned):
        known = ", ".join(defined) or "nothing"
        yield f"{name}: {file} defines no {function!r}; it defines {known}"


def _check_module(module: str, name: str) -> Iterator[str]:
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        found = None
    if found is None:
        yield (
            f"{name}: no module {module!r} can be imported; install it, or write "
            "path/file.py:function"
        )
