"""`autoquant.search`: a search of a model that lives in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autoquant import metrics
from autoquant.core.calls import Count, checked
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress
from autoquant.errors import DataError
from autoquant.job import SearchSettings, backend_from_text
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.data.scoring import Metric
from autoquant.model.recipes import HeldRecipe
from autoquant.results.terminal import shown
from autoquant.searching.measuring.workers.alarm import float_in_time
from autoquant.searching.result import SearchResult
from autoquant.searching.search import run_search
from autoquant.searching.templates import load_templates


@checked
def search(
    model: nn.Module,
    data: object = None,
    *,
    calibration: object = None,
    evaluation: object = None,
    metric: Metric | str = metrics.accuracy,
    loss: Metric | str | None = None,
    heldout: object | None = None,
    backend: str | Mapping[str, Any] = "auto",
    max_drop: float | None = 0.01,
    trials: int = 64,
    minutes: float | None = None,
    effort: str = "normal",
    space: str | Mapping[str, Any] = "server_cpu",
    objectives: Sequence[str | Mapping[str, Any]] = ("output_error", "latency"),
    batch_size: int | None = None,
    threads: int | None = None,
    sampler: str = "guided",
    seed: int = 0,
    seeds: Sequence[Plan | str | Path] = (),
    workers: int | None = None,
    output: str | Path | None = None,
    tracking_uri: str | None = None,
    capture: str = "auto",
    leaf_modules: Sequence[str] = (),
    equalise: str = "auto",
    ranges: Mapping[str, Any] | None = None,
    name: str = "search",
    resume: bool = False,
    target: str | None = None,
    prepare: Prepare | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    cache_mb: Count = 256,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> SearchResult:
    """Search mixed-precision plans for a model.

    Args:
        model: The trained float model; it is never changed.
        data: Inputs and targets, to be shared out: up to a quarter to calibrate on, of the rest one
            half to compare candidates on, the other held out. A DataLoader, a list of batches, or
            `(inputs, targets)` tensors.
        calibration: Instead of `data`, what to calibrate on; targets are not needed.
        evaluation: Instead of `data`, what to compare candidates on, with targets.
        metric: `metric(outputs, targets)`, one score a sample (or one a batch), higher is better;
            the name of a shipped one (`"accuracy"`); or an object with `update(outputs, targets)`
            and `compute()`, as those of torchmetrics, which scores the data set.
        loss: As `metric`, but lower is better; measured beside it.
        heldout: Data that only the frontier is scored on; not shared out of `data` then.
        backend: A backend (`openvino`, `onnxruntime`, `litert`...; `autoquant backends` lists
            them), or one of torch's engines (`x86`, `onednn`, `fbgemm`, `qnnpack`), `auto`: the
            fastest of these, or `per-op`: the faster kernel of each op. A mapping is the section
            `backend` of a job file (`{"name": "openvino", "pairs": 60}`).
        max_drop: Largest accuracy drop of a frontier member, in the metric's unit; None: no limit.
        trials: The most candidates, seeds included; 0: the seeds alone.
        minutes: What all of it may take, set-up included; None: any time.
        effort: `quick`, `normal` or `thorough`; see docs/job-file.md.
        space: Name or path of a search space, or its rules.
        objectives: What to optimize, by name; a cost of your own is a mapping (`{"name": "energy",
            "table": "energy.csv", "unit": "mJ"}`, or with `function`); see docs/job-file.md.
        batch_size: Samples of a latency batch; None: those that `backend` names, else those of the
            first evaluation batch.
        threads: Threads of a latency measurement; None: those that `backend` names, else one.
        sampler: `guided`, `tpe`, `nsga2` or `random`; see docs/job-file.md.
        seed: Decides everything that is drawn.
        seeds: Plans to try first, or files of plans: `aq.raise_most_sensitive`, `tune.json`.
        workers: Ray workers; None: evaluate in this process.
        output: Result folder; None: a new temporary one.
        tracking_uri: MLflow store; None: no tracking.
        capture: What finds the model's sites: `export` (torch.export's graph), `modules` (weighted
            modules alone), or `auto`: the first where it can.
        leaf_modules: Paths that capture must not look into.
        equalise: Whether channels are rescaled before plans are built, which keeps the function:
            `auto`, where that lowers the error of the all-int8 plan; `always`; or `never`.
        ranges: The section `calibration` of a job file (`{"observer": "mse"}`).
        name: Of the search, for reports.
        resume: Continue the search that `output` holds.
        target: The key of the targets, where batches are mappings (`{"image": ..., "label": ...}`).
        prepare: Called with each item of the data; returns inputs or `(inputs, targets)`.
        dynamic: By input, the axes whose size may change (`{"input_ids": [0, 1]}`); the first of
            them counts samples. What differs between batches is found without being named.
        cache_mb: A data set that is larger than so many MiB, and can be read again (a DataLoader, a
            function, an iterable), is read again for each use.
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Any other section of a job file, as a mapping (`execution={"timeout": 60}`).

    Returns:
        The frontier, and everything that was tried.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    _check_data(data, calibration, evaluation)
    document = {
        "name": name,
        "space": space,
        "objectives": list(objectives),
        "sampler": sampler,
        "seed": seed,
        "output": str(output or tempfile.mkdtemp(prefix="autoquant-")),
        "backend": {
            **(backend_from_text(backend) if isinstance(backend, str) else backend),
            **({} if threads is None else {"threads": threads}),
            **({} if batch_size is None else {"batch_size": batch_size}),
        },
        "constraints": {"accuracy_drop": max_drop},
        "budget": {"trials": trials, "effort": effort, "minutes": minutes},
        "tracking": {"enabled": tracking_uri is not None, "uri": tracking_uri},
        "execution": {"kind": "local"} if workers is None else {"kind": "ray", "workers": workers},
    }
    job = settings_from(
        SearchSettings, "autoquant.search", document, ranges=ranges, sections=settings
    )
    templates = load_templates(seeds)
    with float_in_time(job.execution.timeout, "trying the model and the metric"):
        subject = build_subject(
            model,
            calibration=calibration,
            evaluation=evaluation if data is None else data,
            heldout=heldout,
            metric=metric,
            loss=loss,
            leaf_modules=leaf_modules,
            capture=capture,
            equalise=equalise,
            calibration_samples=job.calibration.samples,
            form=DataForm.of_call(target, prepare, dynamic, cache_mb),
            outputs=job.outputs,
        )
    return run_search(job, HeldRecipe(subject), shown(progress), resume=resume, templates=templates)


def _check_data(data: object, calibration: object, evaluation: object) -> None:
    """Refuse data that are given twice, or of which half is missing."""
    given = (calibration is not None) + (evaluation is not None)
    if data is not None and given:
        raise DataError(
            "autoquant.search got `data` to share out, and `calibration` or `evaluation` beside it",
            hint="give `data` alone, or `calibration` and `evaluation`",
        )
    if data is None and given < 2:
        missing = "evaluation" if calibration is not None else "calibration"
        raise DataError(
            "autoquant.search got no data" if not given else f"autoquant.search got no {missing}",
            hint="give data with targets, to be shared out (aq.search(model, loader, "
            "metric=...)), or `calibration` and `evaluation`",
        )
