"""The one answer to an engine that runs something else than planned: no number, an error."""

from __future__ import annotations

from collections.abc import Sequence

from autoquant.errors import BackendError

NATIVE_ELSEWHERE = "pin this op to a scheme that `autoquant backends` lists as native"


def refuse_substitution(
    backend: str,
    wrong: Sequence[str],
    hint: str = NATIVE_ELSEWHERE,
    what: str = "substituted precisions silently",
    sites: Sequence[str] = (),
) -> None:
    """Refuse a built plan whose read-back differs from it; nothing where nothing does.

    Args:
        backend: Its name.
        wrong: What runs otherwise than planned, a phrase each.
        hint: The mend.
        what: What the backend did.
        sites: Names of the sites that `wrong` is about.

    Raises:
        BackendError: Something is wrong; names the first and counts the others.
    """
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BackendError(f"{backend} {what}: {wrong[0]}{more}", hint=hint, sites=sites)
