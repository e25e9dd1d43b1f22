"""Makes the subject of what a user gave: checks model, data and metric together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoquant.core.equalisation import Equalise
from autoquant.errors import MetricError
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.outputs import OutputWeights
from autoquant.model.data.reader import DataReader
from autoquant.model.data.readings import DataForm
from autoquant.model.data.scoring import Metric, doubt_direction, find_metric, is_against_float
from autoquant.model.data.shares import share_out
from autoquant.model.graph.float_model import check_float_model, in_eval_mode
from autoquant.model.subject import Subject
from autoquant.model.trial_runs import check_outputs, check_runs, protected


def build_subject(
    model: object,
    *,
    calibration: object,
    evaluation: object = (),
    heldout: object | None = None,
    metric: Metric | str | None = None,
    loss: Metric | str | None = None,
    leaf_modules: Sequence[str] = (),
    capture: str = "auto",
    equalise: Equalise | str = Equalise.NEVER,
    calibration_samples: int | None = None,
    form: DataForm | None = None,
    outputs: Mapping[str, float] | None = None,
) -> Subject:
    """Check model, data and metric together, and give the subject.

    Without a metric outputs alone are compared: nothing is scored, and targets are not needed.
    Without data to calibrate on, the evaluation data are shared out.

    Raises:
        ModelError: `model` is no float module, holds NaN, or differs from call to call.
        DataError: Data are unusable; names the batch.
        MetricError: The metric fails on the float model's outputs.
    """
    if isinstance(equalise, str):
        equalise = Equalise.named(equalise)
    leaf_modules = tuple(leaf_modules)
    checked = in_eval_mode(check_float_model(model, leaf_modules))
    functions = {} if metric is None else _find_functions(metric, loss)
    is_scored = bool(functions)
    against_float = is_scored and is_against_float(functions["accuracy"])
    # evaluation first: it says what inputs are
    reader = DataReader(checked, form, against_float=against_float)
    scored: Sequence[Batch] = ()
    if is_scored or not isinstance(evaluation, tuple) or evaluation:  # an array has no truth value
        scored = reader.read(evaluation, "evaluation", needs_targets=is_scored)
    others = None if heldout is None else reader.read(heldout, "heldout", needs_targets=True)
    notices: tuple[str, ...] = ()
    if calibration is None:
        shares = share_out(scored, holds_out=others is None)
        batches, scored = shares.calibration, shares.evaluation
        others = shares.heldout or others
        notices = (str(shares),)
    else:
        batches = reader.read(calibration, "calibration", needs_targets=False)
    batches = take_samples(batches, calibration_samples)
    subject = Subject(
        model=checked,
        calibration=batches,
        evaluation=scored,
        heldout=others,
        functions=functions,
        calling=reader.calling,
        dynamic=reader.dynamic,
        leaf_modules=leaf_modules,
        capture=capture,
        equalise=equalise,
        form=form or DataForm(),
        outputs=OutputWeights(outputs or {}),
        notices=notices,
    )
    subject = protected(subject, model)
    first = check_outputs(subject, scored, "evaluation") if is_scored else None
    if others is not None:
        check_outputs(subject, others, "heldout")
    check_runs(subject, batches, "calibration")
    if not is_scored:
        check_runs(subject, scored, "evaluation")
        return subject
    doubt = doubt_direction(subject.metric, first, scored[0])
    return subject if doubt is None else replace(subject, notices=(*subject.notices, doubt))


def _find_functions(metric: Metric | str, loss: Metric | str | None) -> dict[str, Metric]:
    functions = {"accuracy": find_metric(metric)}
    if loss is not None:
        functions["loss"] = find_metric(loss, "loss")
    if len(set(map(is_against_float, functions.values()))) > 1:
        raise MetricError(
            "one of metric and loss compares with the float model, the other with targets",
            hint="give two that take the same: without labels 'agreement' or 'cosine' as metric "
            "and no loss",
        )
    return functions
