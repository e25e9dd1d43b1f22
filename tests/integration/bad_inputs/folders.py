"""Output folders that cannot be written, and searches that cannot be resumed."""

from __future__ import annotations

from autoquant.results import files
from autoquant.results.lock import FolderLock
from tests import faulty
from tests.integration.bad_inputs.case import SEARCHING, Case, Scene
from tests.integration.bad_inputs.stage import Stage, search, write_job


def write_to_a_file(stage: Stage) -> str:
    stage.write("out", "notes")
    return stage.command("search", write_job(stage.folder))


def write_below_a_file(stage: Stage) -> str:
    notes = stage.write("notes", "")
    return stage.command("search", write_job(stage.folder, {"output": str(notes / "out")}))


def search_in_a_folder_in_use(stage: Stage) -> str:
    lock = FolderLock(stage.out / files.LOCK)
    try:
        return stage.resume()
    finally:
        lock.close()


def search_again(stage: Stage) -> str:
    folder = stage.out
    return stage.command("search", write_job(stage.folder, {"output": str(folder)}))


def resume_with_other_data(stage: Stage) -> str:
    search(output=stage.folder / "out")
    others = faulty.good_data(seed=9)
    return stage.refused_search(calibration=others, resume=True)


def resume_with_other_targets(stage: Stage) -> str:
    search(output=stage.folder / "out")
    others = [(inputs, (targets + 1) % 4) for inputs, targets in faulty.good_data()]
    return stage.refused_search(evaluation=others, resume=True)


def resume_without_history(stage: Stage) -> str:
    history = stage.out / files.HISTORY
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[1:]))
    return stage.resume()


def resume_a_damaged_job(stage: Stage) -> str:
    stage.damage(files.JOB, "name: [job\n")
    return stage.resume()


OUTPUTS = [
    Scene(
        "output-is-a-file",
        "`output` is a file",
        "cannot write to .../out: File exists",
        "a file stands where the folder belongs; move it away, or choose another output",
        write_to_a_file,
    ),
    Scene(
        "output-below-a-file",
        "`output` is below a file",
        "cannot write to .../notes/out: Not a directory",
        "a part of that path is a file; choose another output",
        write_below_a_file,
    ),
    Scene(
        "output-in-use",
        "`output` is that of a search that still runs",
        ".../out is in use by process ...",
        "wait until that search ends (or stop it), or choose another output",
        search_in_a_folder_in_use,
    ),
    Scene(
        "output-taken",
        "`output` holds a search already",
        ".../out already holds a search of ... candidates",
        "--resume (Python: resume=True) continues it; or choose another output",
        search_again,
    ),
]

RESUMES = [
    Case(
        "nothing-to-resume",
        "`--resume` with an empty output folder",
        ".../out holds no search to resume",
        "start one without --resume",
        arguments=("--resume",),
    ),
    Scene(
        "resumed-job-changed",
        "`--resume --set seed=9`",
        "seed: 9, but the search in this folder has 0",
        "put it back, or choose another output",
        lambda stage: stage.resume("--set", "seed=9"),
    ),
    Scene(
        "resumed-with-other-ranges",
        "`--resume --set calibration.observer=mse`",
        "calibration.observer: mse, but the search in this folder has histogram",
        "put it back, or choose another output",
        lambda stage: stage.resume("--set", "calibration.observer=mse"),
    ),
    Scene(
        "resumed-data-changed",
        "`resume=True` with other calibration data, or other weights",
        "the model's weights or the calibration data are not those of .../out",
        "--resume needs the same (seed what shuffles); or choose another output",
        resume_with_other_data,
    ),
    Scene(
        "resumed-evaluation-changed",
        "`resume=True` with other evaluation data, or another metric",
        "the evaluation data or the metric are others",
        "--resume (Python: resume=True) needs the same; or choose another output",
        resume_with_other_targets,
    ),
    Scene(
        "resumed-job-damaged",
        "`--resume` where `job.yaml` in the output folder was damaged",
        ".../out/job.yaml, line 2: expected ',' or ']', ...",
        "correct the YAML there",
        resume_a_damaged_job,
    ),
    Scene(
        "resumed-history-lost",
        "`--resume` where lines of `history.jsonl` were lost",
        ".../out/history.jsonl is damaged: line ...: no line before it holds the plan of "
        "candidate 0",
        "restore it from a copy, or search again",
        resume_without_history,
        before=SEARCHING,
    ),
]
