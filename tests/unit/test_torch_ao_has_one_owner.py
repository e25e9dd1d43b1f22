"""torch.ao is known to one folder, which nothing imports before it is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import autoquant

ROOT = Path(autoquant.__file__).parent
OWNER = ROOT / "torch_ao"
DEPRECATED = ("torch.ao", "torch.quantization", "torch.nn.quantized", "torch.nn.qat")
LAZY = ROOT / "searching" / "mapping_latency.py"  # which is itself imported where it is called


def names_used(tree: ast.AST) -> Iterator[str]:
    """Modules that are imported, and dotted names that are read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{item.name}" for item in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """Modules that importing a file imports, but for those of type checkers."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from names_used(ast.Module([node], []))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting.extend(
                item for item in ast.iter_child_nodes(node) if isinstance(item, ast.stmt)
            )


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def others() -> dict[str, ast.Module]:
    found = [path for path in ROOT.rglob("*.py") if OWNER not in path.parents and path != LAZY]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in found}


@pytest.mark.slow
def test_no_other_file_names_it() -> None:
    wrong = {
        path: name
        for path, tree in others().items()
        for name in names_used(tree)
        if is_in(name, DEPRECATED)
    }
    assert wrong == {}


def test_no_other_file_imports_its_owner_before_a_function_needs_it() -> None:
    wrong = {
        path: name
        for path, tree in others().items()
        for name in imported_at_once(tree)
        if is_in(name, ("autoquant.torch_ao", "autoquant.searching.mapping_latency"))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "text",
    [
        "import torch.ao.quantization",
        "import torch.ao.nn as x",
        "from torch import ao",
        "from torch.ao.quantization import QConfig",
        "def f():\n    return torch.ao.quantization.QConfig",
    ],
)
def test_each_way_to_name_it_is_seen(text: str) -> None:
    assert any(is_in(name, DEPRECATED) for name in names_used(ast.parse(text)))


@pytest.mark.parametrize(
    ("text", "at_once"),
    [
        ("from autoquant.torch_ao import way_out", True),
        ("try:\n    import autoquant.torch_ao.calls\nexcept ImportError: pass", True),
        ("class A:\n    from autoquant.torch_ao.calls import CALLS", True),
        ("def f():\n    import autoquant.torch_ao.calls", False),
        ("if TYPE_CHECKING:\n    import autoquant.torch_ao.calls", False),
    ],
)
def test_an_import_that_waits_for_a_function_is_told_from_one_that_does_not(
    text: str, at_once: bool
) -> None:
    found = any(is_in(name, ("autoquant.torch_ao",)) for name in imported_at_once(ast.parse(text)))
    assert found is at_once
