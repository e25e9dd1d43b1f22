"""What the target refuses of a space, or runs slowly for nothing, is left out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autoquant.backends.protocol import Executable
from autoquant.core.backends import find_rows
from autoquant.core.measurement import Measurements, float_plans
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import BackendError
from autoquant.searching.measuring.latency import FAR_SLOWER
from autoquant.searching.preparing.preparation import Preparation


@dataclass(frozen=True, slots=True)
class Refused:
    """A choice that the target does not build.

    Attributes:
        knob: Its name.
        scheme: What was chosen.
        reason: The target's own words.
    """

    knob: str
    scheme: Scheme
    reason: str


class Builder(Protocol):
    """Builds plans: a backend, or an evaluator, which keeps what it built."""

    def build(self, plan: Plan) -> Executable:
        """Build a plan."""


def narrow_space(prepared: Preparation, progress: Progress) -> Preparation:
    """Build the uniform plans, and drop each choice that the target refuses, with a notice.

    What is refused together and not alone (a pair of neighbours) stays: such plans fail one by
    one. Nothing changes where not even one uniform plan can be built, nor on a target that is slow
    to build.
    """
    if find_rows()[prepared.settings.build.backend].is_slow:
        return prepared
    with progress.stage("asking the target", None):
        refused = find_refused(prepared.space, prepared.evaluator)
    notices = tuple(_notices(refused))
    for notice in notices:
        progress.note(notice)
    return prepared.with_space(without(prepared.space, refused), notices) if refused else prepared


def find_refused(space: SearchSpace, builder: Builder) -> tuple[Refused, ...]:
    """Find the choices that a backend refuses by themselves, in a plan that it builds."""
    probe = _Probe(space, builder)
    order = sorted(space.schemes, key=lambda scheme: scheme is not Scheme.FP32)
    base = next((scheme for scheme in order if probe.refusal(scheme) is None), None)
    if base is None:
        return ()
    found: list[Refused] = []
    for scheme in order:
        if scheme is not base:
            knobs = [knob for knob in space.free if scheme in knob.schemes]
            found += probe.among(knobs, base, scheme)
    return tuple(found)


def without(space: SearchSpace, refused: Sequence[Refused]) -> SearchSpace:
    """A space without some choices; a knob keeps its last one."""
    dropped = {(item.knob, item.scheme) for item in refused}
    return SearchSpace(
        tuple(
            replace(knob, schemes=tuple(s for s in knob.schemes if (knob.name, s) not in dropped))
            for knob in space.knobs
        )
    )


def without_slow_floats(
    space: SearchSpace, baseline: Measurements, kept: Collection[Scheme] = ()
) -> tuple[SearchSpace, tuple[str, ...]]:
    """A space without floats that make the model both slower by far and less exact than fp32.

    So is torch's bf16 on CPUs without such instructions: 12 to 35 times as long as fp32. A float of
    fewer bits that takes four times as long has no arithmetic here, and plans that hold some of it
    would take most of a search's time.

    Args:
        space: The search space.
        baseline: The float model's measurements, with those of the engine's own float plans.
        kept: Schemes that stay whatever they take.

    Returns:
        The space, and a sentence for each that is left out.
    """
    timed = float_plans(baseline)
    speeds = {scheme: timed[scheme].value for scheme in space.schemes if scheme in timed}
    fp32 = speeds.pop(Scheme.FP32, 0.0)
    notices = []
    for scheme, speed in speeds.items():
        if scheme in kept or fp32 < FAR_SLOWER * speed:
            continue
        knobs = [knob for knob in space.free if {scheme, Scheme.FP32} <= set(knob.schemes)]
        space = without(space, [Refused(knob.name, scheme, "slow") for knob in knobs])
        notices.append(
            f"{scheme.value} is left out at {len(knobs)} of {len(space.knobs)} knobs: all "
            f"{scheme.value} takes {fp32 / speed:.0f} times as long as all fp32 here (measured), "
            "which is more exact."
        )
    return space, tuple(notices)


class _Probe:
    """Builds plans to see which choices are refused."""

    def __init__(self, space: SearchSpace, builder: Builder) -> None:
        self._space = space
        self._builder = builder

    def refusal(
        self, base: Scheme, knobs: Sequence[Knob] = (), scheme: Scheme | None = None
    ) -> BackendError | None:
        """What the backend says of a uniform plan in which some knobs take another scheme."""
        choices = self._space.choices(self._space.uniform(base))
        if scheme is not None:
            choices.update({knob.name: scheme for knob in knobs})
        try:
            self._builder.build(self._space.plan(choices))
        except BackendError as error:
            return error
        return None

    def among(self, knobs: Sequence[Knob], base: Scheme, scheme: Scheme) -> list[Refused]:
        """Those of some knobs that are refused by themselves: named in an error, or by halving."""
        error = self.refusal(base, knobs, scheme) if knobs else None
        if error is None:
            return []
        if len(knobs) == 1:
            return [Refused(knobs[0].name, scheme, error.message)]
        named = [knob for knob in knobs if not set(error.sites).isdisjoint(knob.sites)]
        elsewhere = not named and bool(error.sites)
        if (elsewhere or len(named) == len(knobs)) and self._each_refuses(
            knobs, base, scheme, error.sites[:1] if elsewhere else ()
        ):
            return [Refused(knob.name, scheme, error.message) for knob in knobs]
        if 0 < len(named) < len(knobs):
            rest = [knob for knob in knobs if knob not in named]
        else:
            half = len(knobs) // 2
            named, rest = list(knobs[:half]), list(knobs[half:])
        return [*self.among(named, base, scheme), *self.among(rest, base, scheme)]

    def _each_refuses(
        self, knobs: Sequence[Knob], base: Scheme, scheme: Scheme, elsewhere: tuple[str, ...]
    ) -> bool:
        """Whether all of some knobs are refused a scheme, whichever takes it alone.

        Each by itself, as sums that the engine adds in floats in every block, or by a site
        elsewhere: an attention must run in bf16 with anything in bf16. The first and the last knob
        speak for all: to ask each would take a hundred builds.
        """
        for knob in (knobs[0], knobs[-1]):
            error = self.refusal(base, [knob], scheme)
            if error is None or set(error.sites).isdisjoint(elsewhere or knob.sites):
                return False
        return True


def _notices(refused: Sequence[Refused]) -> Iterator[str]:
    """One sentence for each scheme."""
    counts = Counter(item.scheme for item in refused)
    for scheme, count in counts.items():
        first = next(item for item in refused if item.scheme is scheme)
        more = f" and {count - 1} more" if count > 1 else ""
        yield (
            f"{scheme.value} is left out at {first.knob}{more}: the target refuses it there "
            f"({first.reason})."
        )
