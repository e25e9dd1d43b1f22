"""An accelerator that a YAML file describes, as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoquant.backends.profile.backend import ProfileBackend
from autoquant.backends.profile.shipped import shipped_profiles
from autoquant.backends.profile.support import kind_support, site_support
from autoquant.backends.protocol import BuildRequest, IntegerWriter
from autoquant.core.build import BuildSettings

__all__ = ["integer_writers", "kind_support", "open_backend", "site_support", "variants"]


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:  # noqa: ARG001
    """None: every op is computed in float on rounded inputs."""
    return ()


def variants() -> Mapping[str, BuildSettings]:
    """The accelerators whose descriptions come along."""
    return {
        f"profile / {name}": BuildSettings(backend="profile", profile=text)
        for name, text in shipped_profiles().items()
    }


def open_backend(request: BuildRequest) -> ProfileBackend:
    """Read the description, and price the model's ops and boundaries on it."""
    return ProfileBackend(request)
