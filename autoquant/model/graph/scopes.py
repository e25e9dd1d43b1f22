"""Whose forward an op of an exported graph comes from."""

from __future__ import annotations

from torch.fx import Node


def scope_of(node: Node) -> str:
    """Path of the module whose forward made a call; calls of one module share it."""
    return call_of(node).partition("@")[0]


def call_of(node: Node) -> str:
    """Path of that module and, where it runs several times, `@` and which call this was."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    key, (path, _) = list(stack.items())[-1]
    path = str(path).removeprefix("L['self'].")
    if path.startswith(("_empty", "L['self']")):
        return ""
    _, at, number = str(key).rpartition("@")
    plain = path.partition("@")[0]
    return f"{plain}@{number}" if at and number.isdigit() else plain
