"""The subject: one model with its data and metric, and the recipes that load it in a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import cloudpickle
import torch
from torch import Tensor, nn

from autoquant.core.equalisation import Equalisation, Equalise
from autoquant.errors import DataError, JobError, MetricError, ModelError
from autoquant.job import DataSource, Entry, Job
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.calling import Calling, OnCopies, failing
from autoquant.model.data.data_set import StreamedBatches, shapes_of
from autoquant.model.data.entry_points import call_entry, load_entry
from autoquant.model.data.number_outputs import NumberSources, with_sources, without_sources
from autoquant.model.data.outputs import (
    OutputWeights,
    difference,
    floating_outputs,
    named_outputs,
    opaque_outputs,
    output_rows,
    without_opaque,
)
from autoquant.model.data.reader import DataReader
from autoquant.model.data.readings import DataForm
from autoquant.model.data.scoring import (
    Metric,
    check_metric,
    doubt_direction,
    find_metric,
    is_against_float,
    score_batch,
)
from autoquant.model.data.shares import share_out
from autoquant.model.equalisation.rewrite import rescaled
from autoquant.model.graph.capture import capture
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.export_capture import fixed_sizes
from autoquant.model.graph.faithfulness import (
    Difference,
    batches_to_compare,
    find_difference,
    is_same_in_float64,
    places_to_compare,
)
from autoquant.model.graph.float_model import (
    buffers_kept,
    check_float_model,
    compute_padding,
    copy_of,
    in_eval_mode,
    packs_padding,
    same_values,
    unwrapped,
)
from autoquant.model.numerics.float64_run import model_in_float64

__all__ = [
    "HeldRecipe",
    "JobRecipe",
    "Metric",
    "Subject",
    "SubjectRecipe",
    "build_subject",
    "load_model",
    "load_unscored",
    "output_rows",
    "score_batch",
]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is searched.

    Attributes:
        model: The float model, in eval mode; where it returns whole numbers, one that hands out
            what they are computed from too (`Sourced`).
        calibration: Batches to calibrate on.
        evaluation: Batches to compare candidates on.
        heldout: Batches that the search never sees; None where there are none.
        functions: What scores outputs against targets, by the name of its measurement: the metric
            (`accuracy`, higher is better), and perhaps a `loss`. Empty where outputs alone are
            compared.
        calling: How the model is called with the tensors of a batch.
        dynamic: By tensor of a batch, the axes whose size may change.
        leaf_modules: Paths of modules that capture must not look into.
        capture: What finds its sites: `auto`, `export`, `modules`.
        form: Of the user's data.
        outputs: Which outputs guide the search.
        equalise: Whether its channels are rescaled before plans are built.
        given: The model as its user gave it, where `model` has rescaled channels, is a copy or
            hands out more; else None.
        writes_inputs: Whether the model's forward changes its inputs: it is given copies.
        notices: What was done to the user's model, in one line each.
    """

    model: nn.Module
    calibration: Sequence[Batch]
    evaluation: Sequence[Batch]
    heldout: Sequence[Batch] | None
    functions: Mapping[str, Metric]
    calling: Calling
    dynamic: tuple[tuple[int, ...], ...]
    leaf_modules: tuple[str, ...] = ()
    capture: str = "auto"
    form: DataForm = field(default_factory=DataForm)
    outputs: OutputWeights = field(default_factory=OutputWeights)
    equalise: Equalise = Equalise.NEVER
    given: nn.Module | None = None
    writes_inputs: bool = False
    notices: tuple[str, ...] = ()

    @property
    def metric(self) -> Metric:
        """The user's metric.

        Raises:
            KeyError: Nothing is scored.
        """
        return self.functions["accuracy"]

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the first calibration batch."""
        return self.calibration[0].inputs

    @property
    def telling(self) -> tuple[Batch, ...]:
        """Two batches on which computations are compared: of both data sets, first and last."""
        other = self.evaluation or self.calibration
        return self.calibration[0], other[0] if isinstance(other, StreamedBatches) else other[-1]

    def compared(self, captured: Capture) -> tuple[Batch, ...]:
        """Batches on which what is built is compared with the model.

        Those that tell, one with fewer samples, those of the smallest and the largest samples, and
        of each kind of sizes that the graph was not made for.
        """
        chosen = list(batches_to_compare(captured, self.telling))
        known = {shapes_of([batch])[0] for batch in chosen}
        for batches in (self.calibration, self.evaluation, self.heldout or ()):
            shapes = shapes_of(batches)
            for place in places_to_compare(captured, shapes):
                if shapes[place] not in known:
                    known.add(shapes[place])
                    chosen.append(batches[place])
        return tuple(chosen)

    def run(self, batch: Batch) -> Any:
        """Call the float model with a batch."""
        inputs = batch.inputs
        if self.writes_inputs:
            inputs = tuple(item.clone() for item in inputs)
        return self.calling.call(self.model, inputs)

    @property
    def flat(self) -> nn.Module:
        """The float model as a module that takes the tensors of a batch, and leaves them alone."""
        return self._flat(self.model)

    @property
    def timed(self) -> nn.Module:
        """`flat` with the model's own outputs alone: the rival whose latency is measured."""
        return self._flat(without_sources(self.model))

    def _flat(self, model: nn.Module) -> nn.Module:
        flat = self.calling.flatten(model)
        return OnCopies(flat) if self.writes_inputs else flat

    def find_sites(self) -> Capture:
        """Capture the model; module by module where the graph computes something else."""
        found = self._capture(self.capture)
        if found.how == "modules":
            return found
        different = self._difference(found)
        if different is None:
            return found
        if self._is_rounding(found, different):
            notice = (
                f"in the exported graph {different}, by rounding alone: in float64 they are the "
                "same; what float32 computes of this model is that far off."
            )
            return replace(found, notices=(notice, *found.notices))
        if self.capture == "auto":
            fixed = fixed_sizes(self.calling, self.dynamic, found.dynamic, self.example)
            said = "".join(
                f"; it is made for one size of {name} alone ({sizes}), and whole batches of that "
                "size (drop_last=True) would be captured by it"
                for name, sizes in fixed.items()
            )
            notice = (
                f"captured module by module, since in the exported graph {different}{said}; what "
                "lies between weighted modules stays in fp32, and there are no reference numerics."
            )
            modules = self._capture("modules")
            return replace(modules, notices=(notice, *modules.notices))
        raise ModelError(
            f"the captured graph computes something else than the model: {different}",
            hint="remove state and control flow that depend on the call; or model.capture: "
            "modules, which runs the model as it is",
        )

    def _capture(self, how: str) -> Capture:
        return capture(
            self.model,
            self.example,
            self.leaf_modules,
            how,
            calling=self.calling,
            dynamic=self.dynamic,
        )

    def _difference(self, found: Capture) -> Difference | None:
        return find_difference(
            lambda inputs: self.calling.call(self.model, inputs),
            lambda inputs: found.graph(*inputs),
            self.compared(found),
        )

    def _is_rounding(self, found: Capture, different: Difference) -> bool:
        """Whether a graph that differs from the model is the same function in float64.

        A difference that is another one at a second look comes from the model's state.
        """
        if different.failure or self._difference(found) != different:
            return False
        wide = model_in_float64(self.model, self.calling)
        return is_same_in_float64(wide, found, self.compared(found))

    def equalised(self, equalisation: Equalisation) -> Subject:
        """The same with rescaled channels; itself where there is nothing to rescale.

        Raises:
            ModelError: The model has no such parameters.
        """
        if not equalisation:
            return self
        given = self.given or self.model
        return replace(self, model=rescaled(self.model, equalisation), given=given)

    def reader(self) -> DataReader:
        """Reads more data for the same model."""
        return DataReader(without_sources(self.model), self.form, self.calling)


class SubjectRecipe(Protocol):
    """Picklable: loads the subject in whatever process calls it."""

    def __call__(self) -> Subject:
        """Load the subject."""


@dataclass(frozen=True, slots=True)
class JobRecipe:
    """Loads the subject from a job's entry points."""

    job: Job

    def __call__(self) -> Subject:
        """Call the entry points.

        Raises:
            AutoquantError: One of them fails or gives something unusable.
        """
        model_source, data = self.job.model, self.job.data
        if model_source is None or data is None:
            raise JobError(
                "the job names no model or no data: `model` or `data` is empty",
                hint="name the functions that give them; see docs/job-file.md",
            )
        model = load_model(self.job)
        sources = {
            name: _load_data(entry, data.arguments)
            for name in ("calibration", "evaluation", "heldout")
            if (entry := getattr(data, name)) is not None
        }
        return build_subject(
            model,
            calibration=sources["calibration"],
            evaluation=sources["evaluation"],
            heldout=sources.get("heldout"),
            metric=load_entry(data.metric.entry),
            loss=None if data.loss is None else load_entry(data.loss.entry),
            leaf_modules=model_source.leaf_modules,
            capture=model_source.capture,
            equalise=model_source.equalise,
            calibration_samples=self.job.calibration.samples,
            form=_form_of(data),
            outputs=self.job.outputs,
        )


def load_unscored(job: Job) -> Subject:
    """Load the model and the calibration data of a job alone.

    Raises:
        JobError: The job names none (it was a search from Python), or the call is wrong.
        ModelError: The model is no float module.
        DataError: The data fail, or are unusable.
    """
    model = load_model(job)
    if job.data is None or job.model is None:
        raise JobError(
            "this job names no data: its search ran on some in memory",
            hint="give a job file that names them, or use the Python function",
        )
    return build_subject(
        model,
        calibration=_load_data(job.data.calibration, job.data.arguments),
        leaf_modules=job.model.leaf_modules,
        capture=job.model.capture,
        equalise=job.model.equalise,
        calibration_samples=job.calibration.samples,
        form=_form_of(job.data),
    )


def _form_of(data: DataSource) -> DataForm:
    prepare = None if data.prepare is None else load_entry(data.prepare.entry)
    return DataForm.of_call(data.target, prepare, data.dynamic, data.cache_mb)


def _load_data(entry: Entry, shared: Mapping[str, Any]) -> object:
    """Call the entry point of a data set; None would mean that the job names none."""
    found = call_entry(entry.entry, {**shared, **entry.arguments}, DataError)
    if found is None:
        raise DataError(f"{entry.entry} returned None", hint="return the data that it makes")
    return found


def load_model(job: Job) -> nn.Module:
    """Call the entry point of a job's model."""
    if job.model is None:
        raise JobError(
            "this job names no model: its search ran on one in memory",
            hint="use autoquant.load_result(folder) and candidate.quantize(model) in Python",
        )
    model = call_entry(job.model.entry, job.model.arguments, ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{job.model.entry} returned a {type(model).__name__}, not a torch.nn.Module",
            hint="return the module itself",
        )
    return model


@dataclass(frozen=True, slots=True, eq=False)
class HeldRecipe:
    """Carries a subject that lives in this process already; pickled by value for workers."""

    subject: Subject

    def __call__(self) -> Subject:
        """Give it."""
        return self.subject

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return (_unpickle, (cloudpickle.dumps(self.subject),))
        except (TypeError, AttributeError) as error:
            raise ModelError(
                f"model, data or metric cannot be sent to workers: {error}",
                hint="search in this process (workers=None), or by a job file, whose functions "
                "every worker calls itself",
            ) from error


def _unpickle(data: bytes) -> HeldRecipe:
    return HeldRecipe(cloudpickle.loads(data))


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
    subject = _protected(subject, model)
    first = _check_outputs(subject, scored, "evaluation") if is_scored else None
    if others is not None:
        _check_outputs(subject, others, "heldout")
    _check_runs(subject, batches, "calibration")
    if not is_scored:
        _check_runs(subject, scored, "evaluation")
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


def _protected(subject: Subject, given: object) -> Subject:
    """The same with what was done to the user's model, which stays as it is.

    It is given copies where it writes into its inputs, and is a copy where it writes into itself.

    Raises:
        ModelError: It fails on the first calibration batch.
    """
    notices = list(subject.notices)
    if isinstance(given, nn.Module) and unwrapped(given) is not given:
        notices.append(f"taken out of {type(given).__name__}: the module that it wraps is searched")
    batch = subject.calibration[0]
    inputs = tuple(item.clone() for item in batch.inputs)
    sources = NumberSources([*inputs, *subject.model.parameters(), *subject.model.buffers()])
    with torch.no_grad(), buffers_kept(subject.model) as changed, sources:
        outputs = _forward(subject, replace(batch, inputs=inputs), "calibration batch 0")
    writes = not all(map(same_values, inputs, batch.inputs))
    if writes:
        notices.append("the model's forward writes into its inputs; it is given copies of them")
    opaque = ", ".join(f"{name} ({kind})" for name, kind in opaque_outputs(outputs).items())
    if opaque:
        notices.append(
            f"the model returns what torch cannot look into, {opaque}: it is not compared, and "
            "what is built of the exported graph returns None for it"
        )
    sourced = sources.beside(without_opaque(outputs))
    silent = [name for name, value in floating_outputs(sourced).items() if not value.any()]
    if silent:
        notices.append(
            f"the model gives nothing but zeros on calibration batch 0 ({', '.join(silent)}): "
            "no plan can lose anything there, and SQNR says nothing of it"
        )
    if changed:
        subject, how = _of_copy(subject)
        notices.append(f"the model's forward writes into its buffers ({', '.join(changed)}); {how}")
    subject, notice = _without_nested_tensors(subject)
    if sourced.differs:
        given = subject.given or subject.model
        subject = replace(subject, model=with_sources(subject.model), given=given)
        notices.append(
            "the model returns whole numbers (class numbers, places): the floats that they are "
            "computed from are compared in their place, and metrics score what it returns"
        )
    return replace(subject, writes_inputs=writes, notices=(*notices, *notice))


def _without_nested_tensors(subject: Subject) -> tuple[Subject, tuple[str, ...]]:
    """The same with encoders that compute every position, as no graph can leave padding out."""
    if not packs_padding(subject.model, partial(subject.run, subject.calibration[0])):
        return subject, ()
    copied = subject if subject.given is not None else _of_copy(subject)[0]
    if copied.given is None:
        return subject, ()
    compute_padding(copied.model)
    return copied, (
        "nn.TransformerEncoder leaves padding out (by nested tensors), which no graph can: a copy "
        "that computes all positions is searched, and timed as fp32",
    )


def _of_copy(subject: Subject) -> tuple[Subject, str]:
    """The same of a copy of the model, where it can be copied, and what becomes of the user's."""
    try:
        copied = copy_of(subject.model)
    except (TypeError, RuntimeError) as error:
        return subject, f"it cannot be copied, so that a search changes them ({error})"
    how = "a copy of it is searched, and what is built leaves them alone"
    return replace(subject, model=copied, given=subject.model), how


_ROUNDOFF = 1e-5
"""Of the largest output: what sums in another order make of the same numbers, call by call."""


def _check_outputs(subject: Subject, batches: Sequence[Batch], name: str) -> Any:
    """Run the first batch of a data set twice: it must work, repeat itself, and be scored.

    Returns:
        The model's outputs on it.
    """
    batch = batches[0]
    with torch.no_grad():
        first, second = (_forward(subject, batch, f"{name} batch 0") for _ in range(2))
    before, again = named_outputs(first), named_outputs(second)
    subject.outputs.check(tuple(before))
    for key, value in before.items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"the float model's outputs hold NaN or infinity on {name} batch 0",
                hint="check the checkpoint and the preprocessing of the data",
            )
        apart = difference(value, again.get(key))
        least = _ROUNDOFF * _largest(value) if value.is_floating_point() else 0.0
        if _largest(apart) > least:
            raise ModelError(
                "the model gives different outputs for the same batch "
                f"(largest difference {_largest(apart):.3g})",
                hint="remove randomness (dropout outside eval mode, sampling) and state kept "
                "between calls",
            )
    for function in subject.functions.values():
        check_metric(function, first, batch)
    _check_runs(subject, batches, name)
    return first


def _largest(value: Tensor) -> float:
    """Largest magnitude; 0 where there is none."""
    return float(value.abs().max()) if value.numel() else 0.0


def _check_runs(subject: Subject, batches: Sequence[Batch], name: str) -> None:
    """Run the batches with the smallest and the largest samples: the model must take both."""
    if not batches:
        return
    smallest = largest = (0.0, 0, batches[0])
    for index, batch in enumerate(batches):
        size = sum(item.numel() for item in batch.inputs) / len(batch)
        if not index or size < smallest[0]:
            smallest = (size, index, batch)
        if not index or size > largest[0]:
            largest = (size, index, batch)
    for index, batch in {item[1]: item[2] for item in (smallest, largest)}.items():
        with torch.no_grad():
            _forward(subject, batch, f"{name} batch {index}")


def _forward(subject: Subject, batch: Batch, where: str) -> Any:
    with failing("the model", where, batch.inputs):
        return subject.run(batch)
