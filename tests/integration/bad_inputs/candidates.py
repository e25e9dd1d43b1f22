"""Candidates that fail while the search goes on, and rounds that fail as a whole."""

from __future__ import annotations

from tests.integration.bad_inputs.case import Scene, data, model
from tests.integration.bad_inputs.stage import Stage, write_job


def fail_a_whole_round(stage: Stage) -> str:
    changes = {**model("same_padding_model"), "space": {"schemes": ["int8", "int8_dynamic"]}}
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
        "op-that-the-engine-refuses",
        'a plan with an op that the engine refuses (`Conv2d(padding="same")` in int8)',
        "torch/fbgemm refuses plan ...: quantized::conv2d_prepack() Expected a value of type "
        "'List[int]' for argument 'padding' ...",
        "pin the op that it names to fp32 in the search space",
        lambda stage: stage.failures(model("same_padding_model")),
    ),
    Scene(
        "whole-round-fails",
        "a search all of whose plans the engine refuses",
        "all 2 candidates of a round failed; the first: torch/fbgemm refuses plan ...",
        "once that is mended, --resume goes on with the same job; a changed job needs another "
        "output",
        fail_a_whole_round,
        before="writing the report ...",
    ),
]
