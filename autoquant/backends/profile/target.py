"""An accelerator that a YAML file describes, as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoquant.backends.profile.backend import ProfileBackend
from autoquant.backends.profile.reading import accelerator_of, shipped_profiles
from autoquant.backends.profile.reference import reference, reference_settings
from autoquant.backends.profile.support import kind_support, site_support
from autoquant.backends.protocol import IntegerWriter, Target
from autoquant.core.build import BuildSettings
from autoquant.core.sites import Site


def variants() -> Mapping[str, BuildSettings]:
    """The accelerators whose descriptions come along."""
    return {
        f"profile / {name}": BuildSettings(backend="profile", options={"profile": text})
        for name, text in shipped_profiles().items()
    }


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:
    """Those of the engine that computes for the accelerator."""
    return reference().integer_writers(reference_settings(settings))


def fixed_range(settings: BuildSettings, site: Site) -> tuple[float, float] | None:
    """That of the site's function, by the file."""
    return accelerator_of(settings).function(site).range


TARGET = Target(
    ProfileBackend,
    site_support,
    kind_support,
    variants,
    integer_writers,
    fixed_range=fixed_range,
)
