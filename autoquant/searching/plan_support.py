"""What a backend would run of a plan that was found on another one, site by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from autoquant.backends.targets import load_target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.calls import checked
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site, check_sites
from autoquant.model.graph.capture import capture
from autoquant.model.graph.float_model import check_float_model


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A site whose scheme a backend cannot run.

    Attributes:
        site: Its name.
        kind: What it computes.
        scheme: What the plan gives it.
        instead: What the backend runs there.
    """

    site: str
    kind: OpKind
    scheme: Scheme
    instead: tuple[Scheme, ...]


@checked
def plan_support(
    plan: Plan,
    model: nn.Module,
    example: tuple[Tensor, ...],
    *,
    leaf_modules: Sequence[str] = (),
) -> Mapping[str, tuple[Unsupported, ...]]:
    """List, for every backend that is installed here, the sites where it cannot run a plan.

    Args:
        plan: From any search of this model, whatever its backend.
        model: The float model.
        example: One batch of its inputs.
        leaf_modules: Paths that capture must not look into.

    Returns:
        By title of a backend's table (`autoquant backends`); empty where it runs all of the plan.

    Raises:
        PlanError: The plan has other sites than the model.
    """
    leaves = tuple(leaf_modules)
    sites = capture(check_float_model(model, leaves), example, leaves).sites
    check_sites("the plan", dict.fromkeys(plan.schemes), sites)
    return {
        title: tuple(_unsupported(plan, sites, name, settings))
        for name, row in find_rows().items()
        if not row.missing
        for title, settings in load_target(name).variants().items()
    }


def _unsupported(
    plan: Plan, sites: Sequence[Site], name: str, settings: BuildSettings
) -> list[Unsupported]:
    """The sites of a plan that one backend cannot run; those that follow another go with it."""
    support = load_target(name).site_support
    return [
        Unsupported(
            site.name,
            site.kind,
            plan[site.name],
            tuple(
                scheme
                for scheme in Scheme
                if support(settings, site, scheme) is not Support.UNSUPPORTED
            ),
        )
        for site in sites
        if site.follows is None and support(settings, site, plan[site.name]) is Support.UNSUPPORTED
    ]
