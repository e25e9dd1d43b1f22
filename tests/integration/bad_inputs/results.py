"""Commands and calls on a finished search."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

import autoquant as aq
from autoquant.results import files
from tests.integration.bad_inputs.case import Scene
from tests.integration.bad_inputs.stage import Stage, search


def export(stage: Stage, *words: object) -> str:
    return stage.command("export", stage.origin / "out", "-o", stage.folder / "model.ts", *words)


def export_below_a_file(stage: Stage) -> str:
    notes = stage.write("notes", "")
    return stage.command("export", stage.origin / "out", "-o", notes / "model.ts")


def export_a_search_from_python(stage: Stage) -> str:
    folder = search(output=stage.folder / "out", trials=0, progress=False).folder
    return stage.command("export", folder, "-o", stage.folder / "model.ts")


def report_a_damaged_history(stage: Stage) -> str:
    history = (stage.out / files.HISTORY).read_text().splitlines()
    history[1] = history[1][:40]
    return stage.command("report", stage.damage(files.HISTORY, "\n".join(history) + "\n"))


def limit_out_of_reach(stage: Stage) -> str:
    limits = {"size_ratio": 0.001}
    return stage.raised(lambda: search(output=stage.folder / "out", trials=0, constraints=limits))


def quantize_another_model(stage: Stage) -> str:
    result = aq.load_result(stage.origin / "out")
    return stage.raised(lambda: result.best().quantize(nn.Sequential(nn.Linear(16, 4))))


def edited_plan(stage: Stage, scheme: str) -> Path:
    """A plan of the finished search, one of whose schemes was changed by hand."""
    path = stage.folder / "plan.json"
    document = json.loads((stage.origin / "out" / "plans" / "0.json").read_text())
    document["plan"]["conv"] = scheme
    path.write_text(json.dumps(document))
    return path


RESULTS = [
    Scene(
        "no-result-folder",
        "`autoquant report nowhere`",
        "no folder nowhere",
        "give the output folder of a search",
        lambda stage: stage.command("report", "nowhere"),
    ),
    Scene(
        "no-result",
        "`autoquant report` of a folder that holds no search",
        "... holds no search.json",
        "give the output folder of a search; one that was interrupted goes on with --resume",
        lambda stage: stage.command("report", stage.folder),
    ),
    Scene(
        "damaged-history",
        "a result folder whose `history.jsonl` was damaged",
        ".../out/history.jsonl is damaged: line 2: ...",
        "restore it from a copy, or search again",
        report_a_damaged_history,
    ),
    Scene(
        "damaged-frontier",
        "a result folder whose `frontier.json` was damaged",
        ".../out/frontier.json is damaged: axes: Field required",
        "restore it from a copy, or search again",
        lambda stage: stage.command("report", stage.damage(files.FRONTIER, "{}")),
    ),
    Scene(
        "newer-format",
        "a result folder of a newer version of autoquant",
        ".../out/search.json has the format 2; this version reads 1",
        "read it with the version of autoquant that wrote it (see environment.json)",
        lambda stage: stage.command("report", stage.damage(files.FACTS, '{"format": 2}')),
    ),
    Scene(
        "no-store",
        "`autoquant ui` of a job that was never searched with tracking",
        "no MLflow store at .../mlflow.db",
        "run a search first, or give the job file or result folder whose store you mean",
        lambda stage: stage.command("ui", stage.origin / "job.yaml"),
    ),
    Scene(
        "table-below-a-file",
        "`autoquant sensitivity --output` below a file",
        "cannot write .../notes/table.csv: Not a directory",
        "a part of that path is a file; choose another output",
        lambda stage: stage.command(
            "sensitivity",
            stage.origin / "job.yaml",
            "--output",
            stage.write("notes", "") / "table.csv",
        ),
        before="searching ...",
    ),
]

EXPORTS = [
    Scene(
        "unknown-candidate",
        "`autoquant export --number 99`",
        "no candidate 99 in .../out",
        "frontier members: ..., 0",
        lambda stage: export(stage, "--number", 99),
    ),
    Scene(
        "failed-candidate",
        "`autoquant export --number 1`, a candidate that failed",
        "candidate 1 failed: outputs hold NaN or infinity ...",
        "choose a frontier member",
        lambda stage: export(stage, "--number", 1),
    ),
    Scene(
        "number-and-drop",
        "`autoquant export --number 0 --max-drop 0.01`",
        "--number 0 names a candidate and --max-drop 0.01 looks for one",
        "give one of them",
        lambda stage: export(stage, "--number", 0, "--max-drop", 0.01),
    ),
    Scene(
        "no-candidate-within-the-drop",
        "`autoquant export --max-drop -1`, or `result.best(max_drop=-1)`",
        "no frontier member drops at most -1.0; the least drop is 0",
        "allow a larger drop, widen the search space, or search for longer",
        lambda stage: export(stage, "--max-drop", -1),
    ),
    Scene(
        "limit-out-of-reach",
        "`constraints: {size_ratio: 0.001}`, which no plan of the space keeps",
        "limit on constraints.size_ratio (bytes): ... bytes is below ... bytes, the least",
        "loosen the limit, unpin ops, or allow cheaper schemes",
        limit_out_of_reach,
    ),
    Scene(
        "export-below-a-file",
        "`autoquant export -o` below a file",
        ".../notes/model.ts cannot be written: ...",
        "give a writable path",
        export_below_a_file,
    ),
    Scene(
        "export-without-model",
        "`autoquant export` of a search from Python",
        "this job names no model: its search ran on one in memory",
        "use autoquant.load_result(folder) and candidate.quantize(model) in Python",
        export_a_search_from_python,
    ),
    Scene(
        "another-model",
        "`candidate.quantize(other_model)`",
        "the search lacks the site '0'",
        "give the same model, with the same module names",
        quantize_another_model,
    ),
]

PLANS = [
    Scene(
        "missing-plan",
        '`aq.load_plan("nowhere.json")`',
        "no plan at nowhere.json",
        "give the path of a plan.json",
        lambda stage: stage.raised(lambda: aq.load_plan("nowhere.json")),
    ),
    Scene(
        "no-plan",
        "`aq.load_plan` of another file",
        ".../frontier.json is not a plan: no key 'plan'",
        "save it with plan.save",
        lambda stage: stage.raised(lambda: aq.load_plan(stage.origin / "out" / "frontier.json")),
    ),
    Scene(
        "edited-plan",
        "`aq.load_plan` of a plan that was edited",
        ".../plan.json: digest '...' is not that of its plan (...)",
        "the file was edited; remove its 'digest' to accept the edit",
        lambda stage: stage.raised(lambda: aq.load_plan(edited_plan(stage, "int8"))),
    ),
    Scene(
        "unknown-scheme-of-a-plan",
        "`aq.load_plan` of a plan with the scheme `int4`",
        ".../plan.json: site 'conv' has the unknown scheme 'int4'",
        "choose one of int4_weight_only_128, int4_weight_only_64, int4_weight_only, int8, "
        "int8_dynamic, int8_weight_only_bf16, int8_weight_only, int16, int16_weight, fp16, bf16, "
        "fp32",
        lambda stage: stage.raised(lambda: aq.load_plan(edited_plan(stage, "int4"))),
    ),
]
