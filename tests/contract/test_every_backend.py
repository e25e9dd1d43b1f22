"""What every backend promises, held by each that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from tests.backend_contract import Opened, check_all

BACKENDS = {
    "torch": BuildSettings(options={"engine": "fbgemm"}),
    "openvino": BuildSettings(backend="openvino"),
    "onnxruntime": BuildSettings(backend="onnxruntime"),
    "litert": BuildSettings(backend="litert"),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_keeps_what_all_promise(name: str, tmp_path: Path) -> None:
    row = find_rows()[name]
    if row.missing:
        pytest.skip(f"{name} is not installed: {', '.join(row.missing)}")
    check_all(Opened(BACKENDS[name]), tmp_path)
