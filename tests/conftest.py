"""Marks the tests of whole engines, commands and searches as slow, and spares what they share.

Each test, and what a module's tests share, has a cache folder of its own: what one search leaves
for later ones reaches neither another test nor the user.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent
WHOLE = ("contract", "fuzz", "integration", "situations")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the quick set, `-m "not slow"`, to the units."""
    for item in items:
        if item.path.is_relative_to(ROOT) and item.path.relative_to(ROOT).parts[0] in WHOLE:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Look for garbage in what the tests make alone, and seldom: it took a sixth of an export."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True, scope="session")
def _rivals_on_request() -> Iterator[None]:
    """Time the float model on other engines in the tests that are about them."""
    from autoquant.job import schema

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "installed_rivals", lambda own: ())
        yield


@pytest.fixture(autouse=True, scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export and convert models that are alike in all they hold once in a process.

    So are tables made for MLflow's stores, where a test has use for them.
    """
    from torch._export import utils as operators

    from autoquant.model.graph import export_capture
    from tests.kept_conversions import keeping_litert, keeping_onnx
    from tests.kept_operators import once_for_namespaces
    from tests.kept_programs import keeping

    kept: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (export_capture, "export_program", keeping),
        (operators, "_materialize_cpp_cia_ops", once_for_namespaces),
    ]
    if importlib.util.find_spec("litert_torch") is not None:
        from autoquant.backends.litert import convert

        kept.append((convert, "_converted", keeping_litert))
    if importlib.util.find_spec("onnxscript") is not None:
        from autoquant.backends.onnxruntime import backend

        kept.append((backend, "convert_float", keeping_onnx))
    if "mlflow" in sys.modules:
        import mlflow.store.db.utils as stores

        from tests.kept_stores import copying

        tables = tmp_path_factory.mktemp("kept") / "mlflow.db"
        kept.append((stores, "_initialize_tables", partial(copying, kept=tables)))
    with pytest.MonkeyPatch.context() as patch:
        for module, name, keep in kept:
            patch.setattr(module, name, keep(getattr(module, name)))
        yield


@pytest.fixture(autouse=True, scope="session")
def _short_slices() -> Iterator[None]:
    """Time calls for a tenth of the time that a search takes."""
    from tests.time_slices import time_briefly, time_wholly

    time_briefly()
    yield
    time_wholly()


@pytest.fixture
def whole_slices() -> Iterator[None]:
    """Time calls as long as a search does: for tests of times."""
    from tests.time_slices import time_briefly, time_wholly

    time_wholly()
    yield
    time_briefly()


@pytest.fixture(autouse=True, scope="module")
def _cache_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give what a module's tests share a cache folder."""
    yield from _cache_in(tmp_path_factory.getbasetemp() / "caches" / "module")


@pytest.fixture(autouse=True)
def _cache_of_test(
    _cache_of_module: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Give a test a cache folder."""
    yield from _cache_in(tmp_path_factory.getbasetemp() / "caches" / "test")


def _cache_in(folder: Path) -> Iterator[None]:
    """Have an empty cache folder for a while."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    shutil.rmtree(folder, ignore_errors=True)
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
