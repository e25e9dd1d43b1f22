from __future__ import annotations

import pytest

from autoquant.record.findings import Findings
from tests.unit.record.synthetic import make_findings


@pytest.fixture(scope="session")
def findings() -> Findings:
    return make_findings()
