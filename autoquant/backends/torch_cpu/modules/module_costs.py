"""What each module costs in each scheme: a few plans, timed module by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from torch import nn

from autoquant.backends.torch_cpu.modules.readback import wrapped_calls
from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

_ROUNDS = 12
_WARM_UP = 2

Clock = Callable[[], float]
Built = tuple[Callable[[], object], Mapping[str, nn.Module]]


def time_modules(space: SearchSpace, build: Callable[[Plan], Built], clock: Clock) -> CostTable:
    """Time every module in every scheme where it stands, in turns.

    Modules convert their own inputs and outputs, so nothing is paid between them: the table has
    no boundaries. What lies outside the sites is the constant.
    """
    plans = [space.uniform(scheme) for scheme in space.schemes]
    built = {plan: build(plan) for plan in plans}
    times: dict[tuple[str, Scheme], list[float]] = defaultdict(list)
    rests: list[float] = []
    for turn in range(_WARM_UP + _ROUNDS):
        for plan, (run, modules) in built.items():
            found, whole = _time_once(run, modules, clock)
            if turn < _WARM_UP:
                continue
            rests.append(whole - sum(found.values()))
            for site, seconds in found.items():
                times[site, plan[site]].append(seconds)
    ops = {
        (site, scheme): 1e3 * median(times.get((site, scheme), [0.0]))
        for knob in space.knobs
        for site in knob.sites
        for scheme in knob.schemes
    }
    return CostTable(1e3 * median(rests), ops, {}, Kind.MEASURED, "ms")


def _time_once(
    run: Callable[[], object], modules: Mapping[str, nn.Module], clock: Clock
) -> tuple[dict[str, float], float]:
    """Seconds of each module, and of the whole."""
    found: dict[str, float] = defaultdict(float)

    def timed(
        name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        started = clock()
        result = forward(*args, **kwargs)
        found[name] += clock() - started
        return result

    with wrapped_calls(modules, timed):
        started = clock()
        run()
        whole = clock() - started
    return dict(found), whole
