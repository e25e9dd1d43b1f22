"""What an accelerator runs: what its file describes and the reference computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoquant.backends.profile.estimate import priced_scheme
from autoquant.backends.profile.reading import SOURCE, accelerator_of
from autoquant.backends.profile.reference import reference, reference_settings
from autoquant.backends.profile.schema import Accelerator
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site
from autoquant.errors import BackendError


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:
    """`emulated` where the file describes the op and the reference computes it.

    Raises:
        JobError: The file is wrong.
    """
    return support_in(accelerator_of(settings), settings, site, scheme)


def support_in(
    accelerator: Accelerator, settings: BuildSettings, site: Site, scheme: Scheme
) -> Support:
    """The same, of a description that was read."""
    computed = reference().site_support(reference_settings(settings), site, scheme)
    described = accelerator.describes(site, priced_scheme(site, scheme))
    return _emulated_if(described and computed is not Support.UNSUPPORTED)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:
    """The same for a kind of op; a time that was measured at one site describes no kind."""
    accelerator = accelerator_of(settings)
    measured = () if accelerator.measured is None else accelerator.measured.ops
    described = accelerator.rate(kind, scheme) is not None or any(
        item.kind is kind and item.site is None and item.scheme is scheme for item in measured
    )
    computed = reference().kind_support(reference_settings(settings), kind, scheme)
    return _emulated_if(described and computed is not Support.UNSUPPORTED)


def find_schemes(
    accelerator: Accelerator, settings: BuildSettings, sites: Sequence[Site]
) -> dict[str, tuple[Scheme, ...]]:
    """By site, the schemes that it may take; a site that follows another takes its leader's."""
    by_name = {site.name: site for site in sites}
    forbidden = _forbidden_by_followers(accelerator, sites)
    found: dict[str, tuple[Scheme, ...]] = {}
    missing: dict[str, list[str]] = {}
    for site in sites:
        leader = _leader(site, by_name)
        found[site.name] = tuple(
            scheme
            for scheme in accelerator.schemes
            if scheme not in forbidden.get(leader.name, ())
            and support_in(accelerator, settings, leader, scheme) is not Support.UNSUPPORTED
        )
        if not found[site.name]:
            described = ", ".join(scheme.value for scheme in accelerator.schemes)
            missing.setdefault(f"throughput.{described}.{site.kind.value}", []).append(site.name)
        for scheme in found[site.name]:
            priced = priced_scheme(site, scheme)
            if not accelerator.describes(site, priced):
                key = f"throughput.{priced.value}.{site.kind.value}"
                if not accelerator.allows(site, priced):
                    key = f"functions.{site.fused[0]}.schemes: {priced.value}"
                missing.setdefault(key, []).append(site.name)
    if missing:
        raise BackendError(_describe_missing(accelerator, missing, by_name))
    return found


def _forbidden_by_followers(
    accelerator: Accelerator, sites: Sequence[Site]
) -> dict[str, set[Scheme]]:
    """By leading site, the schemes that the function of a site that follows it does not run.

    One that would run in fp32 instead is left to be told: no estimate has the way there and back.
    """
    by_name = {site.name: site for site in sites}
    found: dict[str, set[Scheme]] = {}
    for site in sites:
        if site.follows is not None and not accelerator.describes(site, Scheme.FP32):
            leader = _leader(site, by_name).name
            schemes = (item for item in Scheme if not accelerator.allows(site, item))
            found.setdefault(leader, set()).update(schemes)
    return found


def _leader(site: Site, sites: Mapping[str, Site]) -> Site:
    """The site whose scheme a site takes; itself where it follows none."""
    while site.follows is not None:
        site = sites[site.follows]
    return site


def _describe_missing(
    accelerator: Accelerator, missing: dict[str, list[str]], sites: dict[str, Site]
) -> str:
    lines = []
    for key, names in missing.items():
        unique = list(dict.fromkeys(names))
        more = f" and {len(unique) - 1} more" if len(unique) > 1 else ""
        follows = sites[unique[0]].follows
        why = f"; it takes the scheme of {follows}, which feeds it" if follows is not None else ""
        lines.append(f"\n  - {key}: is missing, and {unique[0]}{more} needs it{why}")
    return f"{SOURCE}: {accelerator.name} does not run this model:{''.join(lines)}"


def _emulated_if(condition: bool) -> Support:
    return Support.EMULATED if condition else Support.UNSUPPORTED
