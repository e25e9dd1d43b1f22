"""Pydantic's findings in plain words: one line a mistake, with key, value and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from autoquant.core.calls import show
from autoquant.job.backend import MISSING_OPTION, UNKNOWN_OPTION

NAMED, OWN = "<named>", "<own>"
"""Of the two forms of an objective; no part of its key."""
_WORDS = {
    "missing": "is missing; add it",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "string_type": "is not text",
    "bool_type": "is not true or false",
    "dict_type": "is not a mapping of keys and values",
    "tuple_type": "is not a list",
    "model_type": "is not a mapping of keys and values",
    "finite_number": "is not a finite number",
}


def explain_mistakes(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn a validation error into lines, in the order of the file."""
    found = error.errors()
    wrong = [item["loc"] for item in found if item["type"] != "too_short"]
    lines = (_line(item, model) for item in found if not _follows(item, wrong))
    return list(dict.fromkeys(lines))


def _follows(item: Any, wrong: Sequence[tuple[Any, ...]]) -> bool:
    """Whether a list is called too short only because items of it were refused."""
    place = item["loc"]
    return item["type"] == "too_short" and any(one[: len(place)] == place for one in wrong)


def _line(item: Any, model: type[BaseModel]) -> str:
    location = [part for part in item["loc"] if part not in (NAMED, OWN)]
    key = ".".join(str(part) for part in location) or "the job"
    kind, context, value = item["type"], item.get("ctx") or {}, item.get("input")
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(location, model)}"
    if kind == MISSING_OPTION:
        return f"{key}: {item['msg']}"
    if kind == "missing":
        return f"{key}: {_WORDS[kind]}"
    if kind == "value_error" and not location:
        return str(context["error"])  # of several keys at once: it names them
    if kind == "value_error" and isinstance(value, Mapping | BaseModel):
        return _of_section(key, str(context["error"]))
    return f"{key}: {show(value)} {_problem(kind, context, item['msg'], value)}"


def _of_section(key: str, error: str) -> str:
    """The mistake in a whole section, which is too long to show, at the key that it begins with."""
    first, colon, rest = error.partition(": ")
    return f"{key}.{first}: {rest}" if colon and first.isidentifier() else f"{key}: {error}"


def _problem(kind: str, context: Mapping[str, Any], message: str, value: object) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    if kind == "greater_than_equal":
        return f"is below {context['ge']}"
    if kind == "less_than_equal":
        return f"is above {context['le']}"
    if kind == "greater_than":
        return f"is not above {context['gt']}"
    if kind in ("enum", "literal_error"):
        choices = _choices(str(context["expected"]))
        return f"is none of {choices}{_close_choice(value, choices)}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} item"
    if kind == "string_too_short":
        return "is too short; write package.module:function or path/file.py:function"
    if kind == "string_pattern_mismatch":
        return "may hold letters, digits, '.', '_' and '-' only"
    if kind == UNKNOWN_OPTION:
        return message
    if kind == "value_error":
        return f"is wrong: {context['error']}"
    return f"is wrong: {message}"


def _choices(expected: str) -> str:
    """What pydantic expects, as YAML writes it."""
    words = expected.replace(" or ", ", ")
    return words.replace("True", "true").replace("False", "false")


def _close_choice(value: object, choices: str) -> str:
    known = [word.strip("'") for word in choices.split(", ")]
    close = difflib.get_close_matches(str(value), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _did_you_mean(location: Sequence[Any], model: type[BaseModel]) -> str:
    elsewhere = list(_sections_with(str(location[-1]), model))
    if len(elsewhere) == 1:
        return f"; it belongs to {elsewhere[0]!r}"
    known = _keys_at(location[:-1], model)
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _sections_with(key: str, model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The sections of a model, by dotted names, that know a key."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None:
            path = f"{above}{name}"
            if key in section.model_fields:
                yield path
            yield from _sections_with(key, section, f"{path}.")


def _keys_at(path: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """Keys of the section at a location, as far as it can be followed."""
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(str(part))
        inner = _section_of(field.annotation) if field is not None else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _section_of(annotation: object) -> type[BaseModel] | None:
    """The section in an annotation such as `tuple[Rule, ...]` or `Entry | None`."""
    is_alias = get_origin(annotation) is not None  # Python 3.10 takes list[str] for a type
    if not is_alias and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _section_of(part)
        if found is not None:
            return found
    return None
