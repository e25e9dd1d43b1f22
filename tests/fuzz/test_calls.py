"""Whatever `aq.search` is called with, it searches or says in a sentence what is wrong."""

from __future__ import annotations

import datetime
import os
from contextlib import suppress
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoquant.errors import AutoquantError
from tests.integration.bad_inputs.stage import search

ODD = (
    *(None, True, "", "\x00", "\ud800", "sys:exit", 0, -1, 10**400, 1e11, float("nan"), 1.5),
    *([], {}, [[]], {"a": 1}, datetime.date(2026, 1, 1), b"x", object(), "jit", print, int, [None]),
    *({"": None}, (1, 2), "../..", torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")),
)
ARGUMENTS = (
    *("capture", "objectives", "space", "trials", "max_drop", "metric", "calibration", "model"),
    *("evaluation", "backend", "sensitivity", "ranges", "cache_mb", "heldout", "loss", "effort"),
    *("constraints", "budget", "seed", "name", "leaf_modules", "target", "prepare", "outputs"),
    *("seeds", "dynamic", "equalise", "sampler", "batch_size", "threads"),
)
SHORT = 25
"""Of those that are right some search."""


@settings(max_examples=int(os.environ.get("AUTOQUANT_FUZZ", "0")) // 2 or SHORT)
@given(
    changes=st.dictionaries(
        st.sampled_from(ARGUMENTS), st.sampled_from(ODD), min_size=1, max_size=2
    )
)
def test_a_call_searches_or_is_refused_in_a_sentence(changes: dict[str, Any]) -> None:
    with suppress(AutoquantError):
        search(**{"trials": 0, "progress": False, **changes})
