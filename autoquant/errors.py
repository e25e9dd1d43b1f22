"""One tree of errors; each leaf says who can mend it."""

from __future__ import annotations

from collections.abc import Sequence


class AutoquantError(Exception):
    """A mistake that the user can mend, with the mend.

    Args:
        message: What was wrong, with the name of the input and its value.
        hint: What to do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  mend: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def first_line(error: object) -> str:
    """The first line of what somebody else's error says; its kind where it says nothing."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _rebuild(kind: type[AutoquantError], message: str, hint: str) -> AutoquantError:
    return kind(message, hint=hint)


class JobError(AutoquantError):
    """The job file or the arguments of a search are wrong; the job's author mends them."""

    @classmethod
    def of(cls, source: str, mistakes: Sequence[str]) -> JobError:
        """Gather all mistakes of one source into one error."""
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        return cls("\n".join([f"{source}: {count}", *(f"  - {line}" for line in mistakes)]))


class ModelError(AutoquantError):
    """The model cannot be loaded, traced or run; the model's author mends it."""


class DataError(AutoquantError):
    """Calibration, evaluation or held-out data are unusable; the data's author mends them."""


class MetricError(AutoquantError):
    """The metric failed or returned something that is not a score."""


class BackendError(AutoquantError):
    """The engine is missing here or refuses what a plan asks of it, at `sites` if it says."""

    def __init__(self, message: str, *, hint: str = "", sites: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.sites = tuple(sites)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_backend_error, (self.message, self.hint, self.sites))


def _rebuild_backend_error(message: str, hint: str, sites: tuple[str, ...]) -> BackendError:
    return BackendError(message, hint=hint, sites=sites)


class PlanError(AutoquantError):
    """A plan or a search space does not fit the model or the target."""


class StorageError(AutoquantError):
    """A folder, file or disk refuses what the search must keep."""


class TrackingError(AutoquantError):
    """The MLflow store cannot be reached or refuses."""


class ExecutionError(AutoquantError):
    """Ray cannot be reached, or every evaluation of a round failed."""
