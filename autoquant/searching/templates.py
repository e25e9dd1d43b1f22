"""The user's own plans among the seeds of a search: read, named, and held against the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoquant.core.plan import Plan, load_plans
from autoquant.core.space import SearchSpace
from autoquant.errors import PlanError


@dataclass(frozen=True, slots=True)
class Template:
    """A plan to try, by the name that errors call it."""

    name: str
    plan: Plan


def load_templates(seeds: Iterable[Plan | str | Path]) -> tuple[Template, ...]:
    """Read plans where they are not given themselves.

    Raises:
        PlanError: A file is missing or holds no plan.
    """
    found: list[Template] = []
    for place, seed in enumerate(seeds):
        if isinstance(seed, Plan):
            found.append(Template(f"seeds.{place}", seed))
        else:
            name = f"seeds.{place} ({seed})"
            found += [Template(name, plan) for plan in load_plans(seed)]
    return tuple(found)


def check_fit(templates: Sequence[Template], space: SearchSpace) -> None:
    """Refuse a plan that the search could not have drawn.

    Raises:
        PlanError: It gives a knob what the space does not allow it, or splits it.
    """
    for template in templates:
        _check_choices(template, space)


def _check_choices(template: Template, space: SearchSpace) -> None:
    try:
        space.choices(template.plan)
    except PlanError as error:
        raise PlanError(f"{template.name}: {error.message}", hint=error.hint) from error
