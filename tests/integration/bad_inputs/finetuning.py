"""Mistakes with `autoquant finetune` and `aq.finetune`."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

import autoquant as aq
from tests import faulty
from tests.integration.bad_inputs.case import READING, Scene
from tests.integration.bad_inputs.stage import FAULTY, Stage, write_job

TRAINING = {
    "data": FAULTY + "good_data",
    "loss": "torch.nn.functional:cross_entropy",
    "float_steps": 100,
}


def refused(stage: Stage, changes: dict[str, Any], *words: object) -> str:
    """Fine-tune a job with some keys of its section changed."""
    job = write_job(stage.folder, {"finetune": TRAINING | changes})
    return stage.command("finetune", job, "--plan", "int8", *words)


def finetune(stage: Stage, **changes: Any) -> object:
    """Fine-tune from Python with some arguments changed."""
    arguments: dict[str, Any] = {
        "model": faulty.good_model(),
        "plan": "int8",
        "train_loader": faulty.good_data(),
        "loss": F.cross_entropy,
        "float_steps": 100,
        "calibration": faulty.good_data(),
        "evaluation": faulty.good_data(),
        "backend": "fbgemm",
        "output": stage.folder / "out",
    }
    return aq.finetune(**(arguments | changes))


def begun(stage: Stage) -> str:
    """Fine-tune into a folder that holds a fine-tuning."""
    (stage.folder / "out" / "finetune").mkdir(parents=True)
    (stage.folder / "out" / "finetune" / "checkpoint.pt").write_text("")
    return refused(stage, {})


FINETUNING = [
    Scene(
        "finetune-no-section",
        "`autoquant finetune job.yaml --plan int8`, where the job has no section `finetune`",
        "job 'job' has no section finetune",
        "add finetune: {data: ..., loss: ..., float_steps: ...}; see docs/job-file.md",
        lambda stage: stage.command("finetune", write_job(stage.folder), "--plan", "int8"),
    ),
    Scene(
        "finetune-no-plan",
        "`autoquant finetune job.yaml`",
        "Missing option '--plan'",
        "",
        lambda stage: stage.command("finetune", write_job(stage.folder, {"finetune": TRAINING})),
    ),
    Scene(
        "finetune-steps",
        "`finetune: {float_steps: 100, share: 0.1, steps: 50}`",
        "finetune.steps: 50 is above 10, the share 0.1 of 100 float_steps",
        "lower steps, or raise share",
        lambda stage: refused(stage, {"steps": 50}),
    ),
    Scene(
        "finetune-few-steps",
        "`finetune: {float_steps: 20, share: 0.1, learning_rates: [0.1, 0.01]}`",
        "finetune.learning_rates: 2 steps in all are too few to try 2 by more than one step each",
        "raise share or steps, or list fewer",
        lambda stage: refused(stage, {"float_steps": 20, "learning_rates": [0.1, 0.01]}),
    ),
    Scene(
        "finetune-read-once",
        "training data that can be read once only",
        "training: a generator can be read once only",
        "give a list, a DataLoader, or an object whose __iter__ starts anew",
        lambda stage: refused(stage, {"data": FAULTY + "broken_loader"}),
        before=READING,
    ),
    Scene(
        "finetune-shape",
        "training inputs of a shape that the model does not take",
        "the model failed on training batch 0 of shape (16, 3, 8, 8) float32: RuntimeError: ...",
        "give batches of the shape and dtype that model.forward takes",
        lambda stage: refused(stage, {"data": FAULTY + "wrong_shape"}),
        before=READING,
    ),
    Scene(
        "finetune-loss-without-gradient",
        "a loss that no gradient flows through, such as accuracy",
        "loss 'good_metric' returned a tensor without a gradient",
        "compute it from the outputs, without argmax, detach, item or no_grad",
        lambda stage: refused(stage, {"loss": FAULTY + "good_metric"}),
        before=READING,
    ),
    Scene(
        "finetune-begun",
        "a folder that holds a fine-tuning, without --resume",
        "... already holds a fine-tuning",
        "--resume continues it; or choose another output",
        begun,
    ),
    Scene(
        "finetune-nothing-to-resume",
        "--resume, where nothing was begun",
        "... holds no fine-tuning to resume",
        "start one without --resume",
        lambda stage: refused(stage, {}, "--resume"),
    ),
    Scene(
        "finetune-diverges",
        "learning rates that are all too high",
        "the loss diverges at every learning rate that was tried: 1e+30, 1e+35",
        "list lower learning_rates, or set gradient_norm",
        lambda stage: stage.raised(
            lambda: finetune(stage, plan="int8_dynamic", learning_rates=(1e30, 1e35))
        ),
    ),
    Scene(
        "finetune-other-plan",
        "`aq.finetune(model, plan, ...)` with the plan of another model",
        "the plan lacks the site 'first' and 2 more",
        "give a plan of this very model; --dry-run lists its sites",
        lambda stage: stage.raised(lambda: finetune(stage, plan=aq.Plan.from_json({"fc": "int8"}))),
    ),
]
