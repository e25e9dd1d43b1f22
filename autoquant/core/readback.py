"""What a built plan really runs, and whether that is the plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.errors import BackendError

NATIVE_ELSEWHERE = "pin this op to a scheme that `autoquant backends` lists as native"


@dataclass(frozen=True, slots=True)
class Ran:
    """What one site ran, as read back from the engine.

    Attributes:
        scheme: In which it computed; None: in none that has a name (a mixture, nothing).
        support: Whether a kernel of that scheme ran, or float arithmetic in its place.
        kernel: The engine's name for the kernel; empty where it gives none. Where `scheme` is
            None: what ran, in words.
    """

    scheme: Scheme | None
    support: Support = Support.NATIVE
    kernel: str = ""

    @property
    def is_emulated(self) -> bool:
        """Whether float arithmetic stood for the scheme."""
        return self.support is Support.EMULATED

    def __str__(self) -> str:
        if self.scheme is None:
            return self.kernel
        return f"{self.scheme.value} {self.support.value}"

    def to_json(self) -> list[str]:
        """Give scheme, support and kernel; a history has one for every site of every candidate."""
        return [self.scheme.value if self.scheme else "", self.support.value, self.kernel]

    @classmethod
    def from_json(cls, data: Any) -> Ran:
        """Read back what `to_json` gave, or the words that older histories hold.

        >>> Ran.from_json("int16 emulated") == Ran(Scheme.INT16, Support.EMULATED)
        True
        """
        if not isinstance(data, str):
            scheme, support, kernel = data
            return cls(Scheme(scheme) if scheme else None, Support(support), kernel)
        scheme, _, support = data.partition(" ")
        try:
            return cls(Scheme(scheme), Support(support))
        except ValueError:
            return cls(None, kernel=data)


ReadBack = Mapping[str, Ran]
"""By site, what it ran."""


def refuse_substitution(
    backend: str,
    plan: Plan,
    ran: ReadBack,
    accepts: Callable[[str, Scheme], Collection[Scheme]],
    *,
    hint: str = NATIVE_ELSEWHERE,
) -> None:
    """Refuse a built plan of which a site ran something else than planned: no number, an error.

    Args:
        backend: Its name.
        plan: What was built.
        ran: What its sites ran; a site that is missing ran nothing.
        accepts: By site and planned scheme, what may run for it.
        hint: The mend.
    """
    wrong = {
        site: f"{site} is planned as {planned.value}{_instead(planned, ran.get(site))}"
        for site, planned in plan.assignment
        if site not in ran or ran[site].scheme not in accepts(site, planned)
    }
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BackendError(
            f"{backend} does not run what was planned: {next(iter(wrong.values()))}{more}",
            hint=hint,
            sites=tuple(wrong),
        )


def _instead(planned: Scheme, ran: Ran | None) -> str:
    if ran is not None and ran.scheme is planned:
        return ", which the target does not run"
    return f" but runs {ran or 'nothing'}"
