"""YAML without its traps: duplicate keys are mistakes, not overrides."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from autoquant.errors import JobError


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} cannot be a key", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML document."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise JobError(
            f"{source}, line {line}: {error.problem}", hint="correct the YAML there"
        ) from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # what PyYAML makes of an odd number, date or tag
        raise JobError(f"{source}: not YAML: {error}", hint="correct the YAML") from error


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise JobError(f"no file {path}", hint="give the path of a YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path} cannot be read: {error}", hint="give a readable file") from error
    return parse_mapping(text, str(path), "see docs/job-file.md for the keys")


def parse_mapping(text: str, source: str, hint: str) -> dict[str, Any]:
    """Parse a document whose top level is a mapping."""
    document = parse_yaml(text, source)
    if not isinstance(document, dict):
        holds = "nothing" if document is None else f"a {type(document).__name__}"
        raise JobError(f"{source} holds {holds}, not keys and values", hint=hint)
    return document
