"""Rules meet a model and a target: the search space."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autoquant.core.glance import few
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError
from autoquant.job import Rule, SpaceRules

SupportOf = Callable[[Site, Scheme], Support]


@dataclass(frozen=True, slots=True)
class BoundSpace:
    """A search space, and what the user should know of how it came about."""

    space: SearchSpace
    notices: tuple[str, ...]


def bind_space(
    rules: SpaceRules,
    sites: Sequence[Site],
    agreements: Iterable[tuple[str, ...]],
    support: SupportOf,
    *,
    real_kernels_only: bool,
) -> BoundSpace:
    """Give every site its schemes, and join the sites that must agree into knobs.

    A knob may take what all of its leading sites may take; sites that follow another (a pool, an
    activation) take what it takes. Where one of them has a kernel neither for that nor for fp32
    (a hard-swish in int16 on an NPU without floats), the knob loses the scheme.

    Args:
        rules: From the job.
        sites: Of the model, in graph order.
        agreements: Names of sites that must take the same scheme.
        support: How the target runs a scheme of a site.
        real_kernels_only: Drop what the target would only emulate: when latency is an objective,
            an emulated op has no time to measure.
    """
    check_rules(rules, sites)
    dropped: Counter[tuple[Scheme, str]] = Counter()
    allowed = {
        site.name: _schemes_of(site, rules, support, real_kernels_only, dropped) for site in sites
    }
    by_name = {site.name: site for site in sites}
    knobs = [
        _knob(names, by_name, allowed, rules.fallback, support)
        for names in _join(sites, [*agreements, *_grouped(rules, sites)])
    ]
    for knob in knobs:
        if knob.schemes == (rules.fallback,):
            _check_fallback(knob, by_name, support, real_kernels_only)
    space = SearchSpace(tuple(knobs))
    if dropped and not space.free:
        raise PlanError(
            f"space: the target leaves no choice at any of the {len(sites)} sites: it would only "
            f"emulate {', '.join(dict.fromkeys(scheme.value for scheme, _ in dropped))}",
            hint="widen space.schemes, or replace the objective latency by size or bops",
        )
    unable = _without_int8(rules, sites, allowed, support)
    return BoundSpace(space, (*_notices(dropped), *unable))


def _without_int8(
    rules: SpaceRules,
    sites: Sequence[Site],
    allowed: Mapping[str, tuple[Scheme, ...]],
    support: SupportOf,
) -> Iterator[str]:
    """Name the ops that all int8 leaves elsewhere, since the target has no kernel for them."""
    found: dict[tuple[OpKind, tuple[Scheme, ...]], list[str]] = {}
    for site in sites:
        is_wanted = site.follows is None and Scheme.INT8 in _wanted(site, rules)[0]
        if is_wanted and support(site, Scheme.INT8) is Support.UNSUPPORTED:
            found.setdefault((site.kind, allowed[site.name]), []).append(site.name)
    for (kind, schemes), names in found.items():
        takes = " or ".join(scheme.value for scheme in schemes)
        yield (
            f"all int8 is not all int8: this target has no int8 for {kind.value} "
            f"({few(names)}), which takes {takes}."
        )


def _notices(dropped: Counter[tuple[Scheme, str]]) -> Iterator[str]:
    """One sentence for each scheme that was dropped somewhere."""
    for scheme in Scheme:
        kinds = {kind: count for (item, kind), count in dropped.items() if item is scheme}
        if kinds:
            listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            yield (
                f"{scheme.value} is left out at {sum(kinds.values())} sites ({listed}): this "
                "engine would only emulate it, and the objective latency needs real kernels."
            )


def matches(rule: Rule, site: Site) -> bool:
    """Whether a site has all of a rule's patterns."""
    return (
        (rule.path is None or fnmatchcase(site.name, rule.path))
        and (rule.kind is None or rule.kind is site.kind)
        and (rule.block is None or fnmatchcase(site.block, rule.block))
    )


def check_rules(rules: SpaceRules, sites: Sequence[Site]) -> None:
    """Refuse rules and groups that mean nothing: what protects nothing is a mistake."""
    names = [site.name for site in sites]
    for index, rule in enumerate(rules.rules):
        what = f"space.rules.{index} ({rule.describe()})"
        matched = [site for site in sites if matches(rule, site)]
        if not matched and not rule.optional:
            raise PlanError(
                f"{what} matches no site of this model",
                hint=_nearest(rule.path or rule.block or "", names),
            )
        if matched and all(site.follows is not None for site in matched):
            raise PlanError(
                f"{what} changes nothing: {_leaders(matched, sites)}",
                hint="write the rule for the leading site; those that follow take its scheme",
            )
    for group in rules.groups:
        for pattern in group:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise PlanError(
                    f"space.groups: {pattern!r} matches no site of this model",
                    hint=_nearest(pattern, names),
                )


def _leaders(followers: Sequence[Site], sites: Sequence[Site], shown: int = 3) -> str:
    """Which sites decide for those that follow."""
    by_name = {site.name: site for site in sites}
    pairs = []
    for follower in followers[:shown]:
        leader = follower
        while leader.follows is not None:
            leader = by_name[leader.follows]
        pairs.append(f"{follower.name!r} follows {leader.name!r}")
    more = [f"{len(followers) - shown} more follow others"] if len(followers) > shown else []
    return ", ".join([*pairs, *more])


def _nearest(pattern: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(pattern.replace("*", ""), names, n=5, cutoff=0.1)
    return f"sites are named like {', '.join(close or names[:5])}; --dry-run lists all"


def _schemes_of(
    site: Site,
    rules: SpaceRules,
    support: SupportOf,
    real_kernels_only: bool,
    dropped: Counter[tuple[Scheme, str]],
) -> tuple[Scheme, ...]:
    """Schemes that rules and target leave to one site, in the order of `Scheme`."""
    wanted, pinned = _wanted(site, rules)
    found = {scheme: support(site, scheme) for scheme in wanted}
    if pinned is not None and site.follows is None:
        _check_scheme(site, pinned, "is pinned to", support, real_kernels_only)
    kept = []
    for scheme in Scheme:
        if scheme not in found or found[scheme] is Support.UNSUPPORTED:
            continue
        if real_kernels_only and found[scheme] is Support.EMULATED:
            if site.follows is None:
                dropped[scheme, site.kind.value] += 1
            continue
        kept.append(scheme)
    return tuple(kept) or (rules.fallback,)


def _wanted(site: Site, rules: SpaceRules) -> tuple[tuple[Scheme, ...], Scheme | None]:
    """Schemes that the rules leave to a site, and the one that they pin it to."""
    wanted: tuple[Scheme, ...] = rules.schemes
    pinned: Scheme | None = None
    for rule in rules.rules:
        if matches(rule, site):
            pinned = rule.pin
            wanted = rule.schemes or (() if pinned is None else (pinned,))
    return wanted, pinned


def _check_fallback(
    knob: Knob, sites: Mapping[str, Site], support: SupportOf, real_kernels_only: bool
) -> None:
    why = "is left with space.fallback"
    for site in (sites[name] for name in knob.sites):
        if site.follows is None or not _can_follow(site, knob.schemes[0], support):
            _check_scheme(site, knob.schemes[0], why, support, real_kernels_only)


def _check_scheme(
    site: Site, scheme: Scheme, why: str, support: SupportOf, real_kernels_only: bool
) -> None:
    """Refuse the only scheme of a site where the target cannot run it, or cannot time it."""
    needed = {Support.NATIVE} if real_kernels_only else {Support.NATIVE, Support.EMULATED}
    found = support(site, scheme)
    if found in needed:
        return
    what = (
        "does not run"
        if found is Support.UNSUPPORTED
        else "only emulates, and the objective latency needs real kernels"
    )
    runs = [item.value for item in Scheme if support(site, item) in needed]
    raise PlanError(
        f"space: site {site.name!r} ({site.kind.value}) {why} {scheme.value}, which this target "
        f"{what}",
        hint=f"here it runs {', '.join(runs)}"
        if runs
        else "it has no kernel for this kind of op in any format; search with another backend.name",
    )


def widest_scheme(sites: Iterable[Site], support: SupportOf) -> Scheme:
    """fp32; on a target without it the first of fp16, bf16 and int16 that all ops run."""
    leading = [site for site in sites if site.follows is None]
    return next(
        (
            scheme
            for scheme in (Scheme.FP32, Scheme.FP16, Scheme.BF16, Scheme.INT16)
            if all(support(site, scheme) is not Support.UNSUPPORTED for site in leading)
        ),
        Scheme.FP32,
    )


def _grouped(rules: SpaceRules, sites: Sequence[Site]) -> list[tuple[str, ...]]:
    """Sites that agree because the job says so."""
    groups = [
        tuple(s.name for s in sites if any(fnmatchcase(s.name, pattern) for pattern in group))
        for group in rules.groups
    ]
    if rules.grouping == "block":
        blocks: dict[str, list[str]] = {}
        for site in sites:
            blocks.setdefault(site.block, []).append(site.name)
        groups += [tuple(names) for names in blocks.values()]
    return groups


def _join(sites: Sequence[Site], groups: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Join overlapping groups; names and groups in graph order."""
    parent = {site.name: site.name for site in sites}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for group in groups:
        for name in group[1:]:
            parent[find(name)] = find(group[0])
    joined: dict[str, list[str]] = {}
    for site in sites:
        joined.setdefault(find(site.name), []).append(site.name)
    return [tuple(names) for names in joined.values()]


def _knob(
    names: tuple[str, ...],
    sites: Mapping[str, Site],
    allowed: Mapping[str, tuple[Scheme, ...]],
    fallback: Scheme,
    support: SupportOf,
) -> Knob:
    """One knob; the fallback where its sites have nothing in common."""
    leading = [name for name in names if sites[name].follows is None] or [names[0]]
    following = [sites[name] for name in names if name not in leading]
    common = [
        scheme
        for scheme in Scheme
        if all(scheme in allowed[name] for name in leading)
        and all(_can_follow(site, scheme, support) for site in following)
    ]
    return Knob(names[0], names, tuple(common) or (fallback,))


def _can_follow(site: Site, scheme: Scheme, support: SupportOf) -> bool:
    """Whether a site can compute after its producer's scheme: in it, or at worst in fp32."""
    return any(support(site, item) is not Support.UNSUPPORTED for item in (scheme, Scheme.FP32))
