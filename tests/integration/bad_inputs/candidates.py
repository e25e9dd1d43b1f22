"""Candidates that fail while the search goes on, and rounds that fail as a whole."""

from __future__ import annotations

from tests.integration.bad_inputs.case import Scene, data, model
from tests.integration.bad_inputs.stage import Stage, write_job


def fail_a_whole_round(stage: Stage) -> str:
    steps = data(calibration="steps", evaluation="steps")
    changes = {**model("ratio_model"), **steps, "space": {"schemes": ["int8", "int8_dynamic"]}}
    return stage.command("search", write_job(stage.folder, changes))


CANDIDATES = [
    Scene(
        "nan-outputs-of-a-candidate",
        "a plan whose outputs hold NaN or infinity",
        "outputs hold NaN or infinity on batch 0",
        "where many plans fail so, pin the op to a wider scheme",
        lambda stage: stage.failures(
            {**model("ratio_model"), **data(calibration="steps", evaluation="steps")}
        ),
    ),
    Scene(
        "whole-round-fails",
        "a search all of whose plans fail",
        "all ... candidates failed; the first: outputs hold NaN or infinity on batch 0 ...",
        "once that is mended, --resume goes on with the same job; a changed job needs another "
        "output",
        fail_a_whole_round,
        before="timing the frontier again",
    ),
]
