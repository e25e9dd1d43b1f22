"""`autoquant finetune`: the command and its tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from autoquant.cli.options import (
    JobFile,
    Overrides,
    PlanText,
    load_with,
    print_json,
    stdout,
    table_of,
    terminal,
)
from autoquant.core.frontier import NOISE_Z

if TYPE_CHECKING:
    from autoquant.core.findings.finetuning import Recovery
    from autoquant.core.measurement import Measurement
    from autoquant.finetuning.result import FinetuneResult


def finetune(
    job_file: JobFile,
    plan: PlanText,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write; default: `finetune` in the job's output folder."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the checkpoint in that folder stands.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained, and for how long.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> int:
    """Train a plan, quantization-aware, and say how much of what it had lost comes back.

    Where `search` finds no plan that is accurate enough, train one: short runs choose a learning
    rate, the rest of the steps follow a falling one, and the weights with the best metric on the
    evaluation data are kept. The trained plan is then built by the real engine: the accuracy that
    counts is `after`, on the held-out data. The job's section `finetune` names training data,
    loss and steps (docs/job-file.md).

    The folder holds weights.pt (for your model's load_state_dict), quantized.pt (runs in plain
    torch), plan.json, finetune.json and the checkpoint.
    """
    from autoquant.finetuning.finetune import run_finetune

    job = load_with(job_file, overrides)
    if dry_run:
        from autoquant.cli.dry_run import print_finetuning

        print_finetuning(job, plan, terminal(), stdout())
        return 0
    result = run_finetune(job, plan, terminal(), output=output, resume=resume)
    console = stdout()
    if as_json:
        print_json(result)
        return 0
    for item in finetune_tables(result):
        console.print(item)
    return 0


def finetune_tables(result: FinetuneResult) -> Iterator[Table | str]:
    """What was tried, how training went, and what came of it."""
    if result.trials:
        yield (
            f"learning rates tried, {result.trials[0].steps} steps each "
            "(emulated, on the evaluation data):"
        )
        yield _probe_table(result)
    yield (
        f"training, {result.steps} steps with those of the probe "
        "(emulated, on the evaluation data):"
    )
    yield _check_table(result)
    for recovery in result.recoveries:
        about = ", which chose the weights" if recovery.data == "evaluation" else ""
        yield f"{recovery.data} data{about}, {recovery.float_score.samples} samples:"
        yield _recovery_table(recovery)
        yield _sentence(recovery, is_trained=result.best.step > 0)
    if result.best.step == 0:
        yield _nothing_gained(result)
    if result.stopped:
        yield f"training ended early: {result.stopped}"
    yield f"written: {result.folder}"


def _probe_table(result: FinetuneResult) -> Table:
    table = _table("learning rate", "ranges", "loss", "metric", "")
    for trial in result.trials:
        taken = (trial.learning_rate, trial.ranges.value) == (result.learning_rate, result.ranges)
        table.add_row(
            f"{trial.learning_rate:g}",
            trial.ranges.value,
            "diverged" if trial.loss is None else f"{trial.loss:.4f}",
            "" if trial.metric is None else f"{trial.metric:.4f}",
            "taken" if taken else "",
        )
    return table


def _check_table(result: FinetuneResult) -> Table:
    table = _table("step", "learning rate", "training loss", "loss", "metric", "")
    for check in result.checks:
        table.add_row(
            str(check.step),
            f"{check.learning_rate:.2g}",
            "" if check.training_loss is None else f"{check.training_loss:.4f}",
            f"{check.loss:.4f}",
            f"{check.metric:.4f}",
            "kept" if check == result.best else "",
        )
    return table


def _recovery_table(recovery: Recovery) -> Table:
    table = _table("model", "metric", "drop against float", "figures")
    table.add_row("float", _with_error(recovery.float_score), "", recovery.float_score.kind.value)
    for name, standing in (
        ("plan before training", recovery.before),
        ("plan after training", recovery.after),
        ("the same, fake-quantized", recovery.emulated),
        ("float with the trained weights", recovery.trained_float),
    ):
        score, drop = _with_error(standing.score), _with_error(standing.drop)
        table.add_row(name, score, drop, standing.score.kind.value)
    return table


def _sentence(recovery: Recovery, *, is_trained: bool) -> str:
    share = recovery.recovered_share
    of_loss = "" if share is None else f", {share:.0%} of what the plan had lost"
    gain = f"gain {_with_error(recovery.gain)}{of_loss}; " if is_trained else ""
    return (
        f"{gain}engine minus fake-quantized "
        f"{_with_error(recovery.gap)}, outputs {recovery.gap_sqnr_db.value:.1f} dB apart"
    )


def _nothing_gained(result: FinetuneResult) -> str:
    """Why nothing may have been gained, and what was not tried yet."""
    drop = result.recoveries[-1].before.drop
    if drop.value <= NOISE_Z * (drop.stderr or 0.0):
        step = (
            f"the plan's drop of {_with_error(drop)} is within noise, so that there is nothing to "
            "bring back: train a plan of fewer bits, which loses more"
        )
    elif all(result.learning_rate <= trial.learning_rate for trial in result.trials):
        lower = f"{result.learning_rate / 10:g}, {result.learning_rate / 100:g}"
        step = (
            f"the lowest rate was taken and harms: try lower ones (finetune.learning_rates=[{lower}"
            "], not tried here)"
        )
    else:
        step = (
            "more steps (finetune.share), or trained scales (finetune.ranges=learned), were not "
            "tried here"
        )
    return f"nothing was gained, and step 0, the plan as it was, is kept: {step}"


def _table(*heads: str) -> Table:
    return table_of(heads, right=set(heads) - {"model", "ranges", "figures", ""})


def _with_error(item: Measurement) -> str:
    return f"{item.value:.4f}" if item.stderr is None else f"{item.value:.4f} ± {item.stderr:.4f}"
