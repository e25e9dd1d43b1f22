"""What ran, as a value: in files of today and of yesterday, and held against its plan."""

from __future__ import annotations

import json

import pytest

from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import Ran, refuse_substitution
from autoquant.errors import BackendError

PLAN = Plan.of({"stem": Scheme.INT8, "head": Scheme.INT16})


@pytest.mark.parametrize(
    "ran",
    [
        Ran(Scheme.INT8, kernel="quantized::conv2d"),
        Ran(Scheme.INT16, Support.EMULATED),
        Ran(None, kernel="int8 and fp32"),
    ],
    ids=str,
)
def test_what_ran_comes_back_from_a_file(ran: Ran) -> None:
    assert Ran.from_json(json.loads(json.dumps(ran.to_json()))) == ran


def test_the_words_of_older_histories_are_read() -> None:
    document = Candidate(3, PLAN, "tpe").to_json()
    document["executed"] = {"stem": "int8 native", "head": "int16 emulated", "tail": "mixed types"}
    found = Candidate.from_json(document).executed
    assert found["stem"] == Ran(Scheme.INT8)
    assert found["head"] == Ran(Scheme.INT16, Support.EMULATED)
    assert (found["tail"].scheme, str(found["tail"])) == (None, "mixed types")


@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (Ran(Scheme.FP32), "fp32 native"),
        (Ran(None, kernel="int8 and fp32"), "int8 and fp32"),
        (None, "nothing"),
    ],
    ids=["other", "mixture", "nothing"],
)
def test_what_was_not_planned_is_refused_by_the_name_of_its_site(
    ran: Ran | None, words: str
) -> None:
    found = {"head": Ran(Scheme.INT16)} | ({} if ran is None else {"stem": ran})
    with pytest.raises(BackendError, match=f"stem is planned as int8 but runs {words}") as caught:
        refuse_substitution("torch", PLAN, found, lambda _, planned: (planned,))
    assert caught.value.sites == ("stem",)


def test_what_a_backend_accepts_is_not_refused() -> None:
    found = {"stem": Ran(Scheme.FP32), "head": Ran(Scheme.INT16)}
    refuse_substitution("torch", PLAN, found, lambda *_: tuple(Scheme))
