"""Whether the channels of a model are rescaled, and how: by the error of its all-int8 plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoquant.core.build import BuildSettings
from autoquant.core.equalisation import Equalisation, Equalise
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import Part
from autoquant.core.sites import OpKind
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import ModelError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.data_set import InputsOf
from autoquant.model.data.few_samples import few_samples
from autoquant.model.equalisation.groups import find_groups
from autoquant.model.equalisation.rewrite import equalisation_of, rebound, signed
from autoquant.model.equalisation.scales import balanced, channel_ranges, even_ranges
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.faithfulness import find_difference
from autoquant.model.graph.float_model import named_tensors
from autoquant.model.heap import free_large
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.model.subject import Subject
from autoquant.searching.preparing.emulated import emulated_decibels

_TOLD_APART = 4
SAMPLES = 32
_LEAST_GAINS_DB: Mapping[int, float] = {_TOLD_APART: -1.0, 16: 0.25, SAMPLES: 0.25}
"""By samples, the gain from which on a form is worth more of them; at last, a change of the model.
Where all forms lose on the first few, as in most transformers, they cost no more than those."""

_SHARES: Mapping[str, float] = {"channel ranges": 0.0, "channel ranges and weights": 0.5}
"""What scales even out, and the share of it that the weights have."""

_IN_FLOAT = frozenset({OpKind.ACTIVATION, OpKind.ATTENTION, OpKind.NORM})
"""Kinds that most engines run in float, or within the op before."""

FewStatistics = Callable[[], CalibrationStatistics]


def equalised(
    subject: Subject, captured: Capture, equalisation: Equalisation
) -> tuple[Subject, Capture]:
    """The same model with rescaled channels, and its graph.

    Raises:
        ModelError: It is another model.
    """
    if not equalisation:
        return subject, captured
    found = subject.equalised(equalisation)
    return found, rebound(captured, found.model)


def few_statistics(
    subject: Subject, captured: Capture, samples: int = SAMPLES
) -> CalibrationStatistics:
    """Calibrate on the first few samples."""
    return calibrate(captured, InputsOf(take_samples(subject.calibration, samples)))


def find_equalisation(
    subject: Subject,
    captured: Capture,
    build: BuildSettings,
    progress: Progress,
    few: FewStatistics,
    *,
    tries: bool,
) -> Equalisation:
    """Find a rescaling of channels after which all int8 is better; none where there is none.

    Each way of scaling is tried on a few samples by reference numerics, beside the model as given,
    of which `few` gives the `few_statistics`.
    """
    wish = subject.equalise
    if wish is Equalise.NEVER or (wish is Equalise.AUTO and not tries):
        return Equalisation()
    refusal = None
    if captured.how == "modules":
        refusal = "the model was captured module by module, and only a graph says what is tied"
    else:
        with progress.stage("equalising channels", None):
            forms = _forms(subject, captured, build)
        if not forms:
            refusal = "no channels of this model can be rescaled"
    if refusal is None:
        return _choose(subject, captured, build, forms, progress, few)
    if wish is Equalise.ALWAYS:
        raise ModelError(f"model.equalise: {refusal}", hint="leave model.equalise out")
    return Equalisation()


def _forms(subject: Subject, captured: Capture, build: BuildSettings) -> dict[str, Equalisation]:
    """By what is evened out, the rescaling."""
    example = few_samples(captured, subject.calibration[0])
    groups = find_groups(captured, subject.model, example, fixed=build.ranges.fixed_tensors)
    if not groups.tensors:
        return {}
    ranges = channel_ranges(captured, groups, InputsOf(subject.calibration))
    scales = even_ranges(groups, ranges)
    weights = named_tensors(captured.graph)
    found = {
        name: equalisation_of(groups, balanced(groups, scales, weights, share), subject.model)
        for name, share in _SHARES.items()
    }
    return {name: form for name, form in found.items() if form}


def _choose(
    subject: Subject,
    captured: Capture,
    build: BuildSettings,
    forms: Mapping[str, Equalisation],
    progress: Progress,
    few: FewStatistics,
) -> Equalisation:
    """The form with the least error; the model as given where none is better by enough.

    A few samples tell which forms are worth comparing on more; there a form has the ranges of
    these samples alone, and the model as given those of more, lest a channel that is rarely active
    be missed in the model that it spoils. Each form is a model of its own: no two are held at once.
    """

    def graph_of(name: str) -> Capture:
        free_large(captured.float_bytes)
        return equalised(subject, captured, forms[name])[1]

    seen: dict[tuple[str, int], CalibrationStatistics] = {}

    def decibels_of(name: str, samples: int) -> float:
        form, key = graph_of(name), (name, samples if samples == _TOLD_APART else SAMPLES)
        if key not in seen:
            seen[key] = few_statistics(subject, form, key[1])
        return _int8_decibels(subject, form, seen[key], build, samples)

    with progress.stage("comparing all int8 with and without", None):
        told_apart = [Batch(few_samples(captured, it, _TOLD_APART)) for it in subject.telling]
        names = [name for name in forms if _is_same(captured, graph_of(name), told_apart)]
        if not names:
            progress.note(
                "not equalised: rescaling would change what the model computes, by rounding"
            )
            return Equalisation()
        for samples, least in _LEAST_GAINS_DB.items():
            before = _int8_decibels(subject, captured, few(), build, samples)
            found = {name: decibels_of(name, samples) for name in names}
            best = max(found, key=found.__getitem__)
            told = (
                f"all int8 at {found[best]:.1f} dB, at {before:.1f} dB as given "
                f"({samples} samples, emulated)"
            )
            if subject.equalise is Equalise.AUTO:
                names = [name for name, own in found.items() if own - before >= least]
                if not names:
                    progress.note(f"not equalised, since that gains nothing: {told}")
                    return Equalisation()
    free_large(captured.float_bytes)
    progress.note(f"equalised {best}, which keeps the model's function: {told}")
    return signed(forms[best], subject.model)


def _is_same(captured: Capture, other: Capture, batches: Sequence[Batch]) -> bool:
    """Whether two graphs compute the same."""
    before, after = captured.graph, other.graph
    found = find_difference(lambda inputs: before(*inputs), lambda inputs: after(*inputs), batches)
    return found is None


def _int8_decibels(
    subject: Subject,
    captured: Capture,
    statistics: CalibrationStatistics,
    build: BuildSettings,
    samples: int,
) -> float:
    """SQNR of the all-int8 plan, by reference numerics."""
    rounding = SchemeRounding(TensorRanges(captured, statistics, build))
    choices = {
        site.name: (Scheme.INT8, Part.BOTH) for site in captured.sites if site.kind not in _IN_FLOAT
    }
    return emulated_decibels(subject, captured, rounding, choices, samples)
