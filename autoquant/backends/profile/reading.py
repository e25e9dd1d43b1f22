"""YAML -> accelerator, with all mistakes at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoquant.backends.profile.schema import SCHEMES, Accelerator
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Precision
from autoquant.core.sites import OpKind
from autoquant.errors import JobError
from autoquant.job.mistakes import explain_mistakes
from autoquant.job.section import shipped_folders
from autoquant.job.yaml_text import parse_mapping
from autoquant.model.graph.aten import ATEN_OUTPUT_RANGES

SOURCE = "backend.profile"
_UNFUSED = tuple(kind.value for kind in OpKind if kind.is_weighted)


def accelerator_of(settings: BuildSettings) -> Accelerator:
    """Read the accelerator that settings describe.

    Raises:
        JobError: Whatever is wrong with its file.
    """
    return read_accelerator(settings.options["profile"])


@lru_cache(maxsize=8)
def read_accelerator(text: str) -> Accelerator:
    """Read the YAML text that describes an accelerator."""
    hint = "give the YAML file of an accelerator; docs/backends/profile.md has the keys"
    document = parse_mapping(text, SOURCE, hint)
    mistakes: list[str] = []
    try:
        accelerator = Accelerator.model_validate(document)
    except ValidationError as error:
        # pydantic marks a wrong key of a mapping so, and the key's name stands before it
        mistakes = [line.replace(".[key]", "") for line in explain_mistakes(error, Accelerator)]
    mistakes += _contradictions(document)
    if mistakes:
        raise JobError.of(SOURCE, mistakes)
    return accelerator


def _contradictions(document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between keys; keys that are wrong themselves are passed over."""
    throughput = _mapping(document.get("throughput"))
    measured = _mapping(document.get("measured")).get("ops")
    if not throughput and measured is None:
        yield "throughput: is missing; give it, or measured, to say what the accelerator runs"
    if measured == []:
        yield "measured.ops: holds nothing; list measured times, or leave measured out"
    if throughput and "bandwidth" not in document:
        yield "bandwidth: is missing; throughput needs it, for ops that wait for the memory"
    for scheme, rates in throughput.items():
        for kind, rate in _mapping(rates).items():
            if rate == "fused" and kind in _UNFUSED:
                yield (
                    f"throughput.{scheme}.{kind}: an op with weights runs inside no other one; "
                    "write its rate"
                )
    for name in _mapping(document.get("functions")):
        defined = ATEN_OUTPUT_RANGES.get(name)
        if defined is not None and "range" in _mapping(document["functions"][name]):
            yield f"functions.{name}.range: its definition says {list(defined)}; leave it out"
    yield from _missing_conversions(document, throughput, measured)


def _missing_conversions(
    document: Mapping[str, Any], throughput: Mapping[str, Any], measured: object
) -> Iterator[str]:
    """Any two formats may meet in a mixed plan, in either order."""
    listed = measured if isinstance(measured, list) else []
    used = {*throughput, *(_mapping(item).get("scheme") for item in listed)}
    formats = {scheme.activation for scheme in SCHEMES if scheme.value in used}
    formats |= {item for item in Precision if item.value == document.get("outside")}
    conversions = _mapping(document.get("conversions"))
    for before in Precision:
        for after in Precision:
            if before is after or not formats.issuperset((before, after)):
                continue
            if after.value not in _mapping(conversions.get(before.value)):
                yield (
                    f"conversions.{before.value}.{after.value}: is missing; a mixed plan may need "
                    "it, so say what it costs"
                )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


PROFILES = "accelerators"


def shipped_profiles() -> dict[str, str]:
    """Texts of the files of accelerators, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in _files()}


def find_profile(name: str, folder: Path = Path()) -> Path:
    """The description of an accelerator, by path (relative to `folder`) or by a shipped name."""
    shipped = {file.stem: file for file in _files()}
    for candidate in (folder / name, shipped.get(name)):
        if candidate is not None and candidate.is_file():
            return candidate.resolve()
    raise JobError(
        f"backend.profile: no file {folder / name}, and no shipped profile of that name",
        hint=f"give a path, or one of {', '.join(sorted(shipped))}",
    )


def _files() -> list[Path]:
    folders = shipped_folders(PROFILES)
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
