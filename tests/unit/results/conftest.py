from __future__ import annotations

import pytest

from autoquant.results.findings import Findings
from tests.unit.results.synthetic import make_findings


@pytest.fixture(scope="session")
def findings() -> Findings:
    return make_findings()
