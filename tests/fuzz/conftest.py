"""How long the fuzzers run: `AUTOQUANT_FUZZ=2000 pytest tests/fuzz` for a long run."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("AUTOQUANT_FUZZ", "100"))

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="AUTOQUANT_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")
