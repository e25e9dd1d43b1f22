"""Plans among the seeds, chosen samples, raised plans."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import autoquant as aq
from autoquant.results.lock import FolderLock
from tests import faulty
from tests.integration.bad_inputs.case import (
    CALIBRATING,
    READING,
    SEARCHING,
    SENSITIVITY,
    Case,
    Scene,
)
from tests.integration.bad_inputs.stage import Stage, write_job

SITES = ("first", "second", "last")


def search_from(stage: Stage, plan: dict[str, str]) -> str:
    """Search a good job with a plan among its seeds."""
    path = stage.folder / "plan.json"
    aq.Plan.from_json(plan).save(path)
    return stage.command("search", write_job(stage.folder, {"seeds": [str(path)]}))


def rank(stage: Stage, *words: object, **changes: Any) -> str:
    """Rank the ops of a good job, with more words on the command line."""
    return stage.command("sensitivity", write_job(stage.folder, changes), *words)


def tune(stage: Stage, **changes: Any) -> str:
    """Tune a good job with some sections changed."""
    return stage.command("tune", write_job(stage.folder, changes))


def tune_twice(stage: Stage) -> str:
    folder = stage.folder / "out" / "tuning"
    folder.mkdir(parents=True)
    with closing(FolderLock(folder / ".lock")):
        return tune(stage, space="npu", constraints={"accuracy_drop": 0.01})


SEEDS = [
    Case(
        "missing-seed",
        "`seeds: [nowhere.json]`",
        "seeds.0: no plan at .../nowhere.json",
        "give the path of a plan.json",
        {"seeds": ["nowhere.json"]},
    ),
    Scene(
        "seed-is-no-plan",
        "a file among `seeds` that holds no plan",
        "seeds.0: .../entry.json is not a plan: no key 'plan'",
        "save it with plan.save",
        lambda stage: stage.command(
            "search",
            write_job(stage.folder, {"seeds": [str(stage.write("entry.json", "{}"))]}),
        ),
    ),
    Scene(
        "seed-of-another-model",
        "a plan among `seeds` of another model",
        "seeds.0 (.../plan.json) lacks the site 'last'",
        "give a plan of this very model; --dry-run lists its sites",
        lambda stage: search_from(stage, dict.fromkeys(SITES[:2], "int8")),
        before=CALIBRATING,
    ),
    Scene(
        "seed-beyond-the-space",
        "a plan among `seeds` with a scheme that the space does not allow",
        "seeds.0 (.../plan.json): the plan does not fit knob 'first' (sites first)",
        "give all its sites one of int8, fp32",
        lambda stage: search_from(stage, dict.fromkeys(SITES, "bf16")),
        before=CALIBRATING,
    ),
    Scene(
        "seed-from-python",
        "`aq.search(..., seeds=[plan])` with a plan of another model",
        "seeds.0 names the site 'strange', which this model does not have",
        "give a plan of this very model; --dry-run lists its sites",
        lambda stage: stage.refused_search(
            seeds=[aq.Plan.from_json(dict.fromkeys((*SITES, "strange"), "int8"))]
        ),
        before=SEARCHING,
    ),
]

TUNING = [
    Scene(
        "no-goal",
        "`autoquant tune` of a job with `accuracy_drop: null`",
        "constraints.accuracy_drop: null is no goal to tune for",
        "give the largest accuracy drop that you accept, for instance 0.01",
        lambda stage: tune(stage, space="npu"),
    ),
    Scene(
        "nothing-between-int8-and-fp32",
        "`autoquant tune` in a space without int16",
        "space: tuning goes from int8 to int16 and fp16, and 'inline' has no int16",
        "--set space=npu has int8, int16 and fp16",
        lambda stage: tune(stage, constraints={"accuracy_drop": 0.01}),
    ),
    Scene(
        "goal-from-python",
        "`aq.tune(..., max_drop=-1)`",
        "constraints.accuracy_drop: -1 is below 0",
        "",
        lambda stage: stage.raised(
            lambda: aq.tune(
                faulty.good_model(),
                calibration=faulty.good_data(),
                evaluation=faulty.good_data(),
                max_drop=-1,
            )
        ),
    ),
    Scene(
        "tuning-in-use",
        "`autoquant tune` into a folder that another process tunes into",
        ".../tuning is in use by process ...",
        "wait until that search ends (or stop it), or choose another output",
        tune_twice,
    ),
]

RANKINGS = [
    Scene(
        "index-outside",
        "`autoquant sensitivity --indices 3,900`, with 64 samples",
        "no sample 900 among 64",
        "samples are numbered from 0 to 63",
        lambda stage: rank(stage, "--indices", "3,900"),
        before=READING,
    ),
    Scene(
        "indices-nowhere",
        "`autoquant sensitivity --indices bad.json`, which is not there",
        "--indices bad.json: neither numbers nor a file",
        "write 3,17 or give a JSON file",
        lambda stage: rank(stage, "--indices", "bad.json"),
    ),
    Scene(
        "ratio-to-nowhere",
        "`autoquant sensitivity --ratio 0.2` without `--output`",
        "--ratio makes a plan, and no file to write it to",
        "add -o plan.json",
        lambda stage: rank(stage, "--ratio", "0.2"),
    ),
    Scene(
        "ratio-of-no-scheme",
        "`autoquant sensitivity --ratio 0.2 --scheme int16` in a space without int16",
        "--ratio raises int8 ops to int16, and this search space has no int16",
        "it has int8, fp32; --scheme names another, --set space=npu has int8, int16 and fp16",
        lambda stage: rank(stage, "--ratio", "0.2", "-o", "plan.json"),
    ),
    Scene(
        "ratio-of-an-emulated-scheme",
        "the same in a space with int16, with the objective `latency`",
        "no op of this model may take int16 here; what is left is int8, fp16",
        "while latency is an objective, what the engine only emulates is left out: --set "
        "objectives=[output_error,bops]",
        lambda stage: rank(
            stage,
            *("--ratio", "0.2", "-o", "plan.json"),
            space="npu",
            objectives=["output_error", "latency"],
        ),
        before=SENSITIVITY,
    ),
]
