"""`frontier.json`: the frontier for other programs; the models below are its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from autoquant.core.frontier import Frontier
from autoquant.core.history import StopReason
from autoquant.core.measurement import Candidate, Kind, Measurement, Measurements, TimedBy
from autoquant.core.objectives import Goal
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.results.storage import damaged, read_text, write_text


class _Part(BaseModel):
    """A part of the file: no other keys than those named."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FrontierValue(_Part):
    """One number.

    Attributes:
        value: In the unit that its name says.
        stderr: Standard error, null where the value is exact or its error unknown.
        kind: `measured`, `emulated` or `estimated`.
        clock: Of a time: CPU time of the `thread` or the `process`, or `wall` time; else null.
        busy: Of a time: the machine was too busy for it.
    """

    value: float
    stderr: float | None
    kind: Kind
    clock: TimedBy | None = None
    busy: bool = False


class FrontierMember(_Part):
    """One candidate worth choosing.

    Attributes:
        number: Its number in the search.
        digest: Sixteen hex digits that equal plans share.
        origin: Where it came from.
        plan: Scheme of every site.
        values: Its measurements by name.
    """

    number: NonNegativeInt
    digest: str
    origin: str
    plan: dict[str, Scheme]
    values: dict[str, FrontierValue]


class FrontierFile(_Part):
    """The whole file.

    Attributes:
        format: Version of this schema.
        axes: What was traded, accuracy first.
        objectives: What the sampler minimized; the hypervolume is over these.
        baseline: Measurements of the float model.
        members: Fastest (or smallest) first.
        hypervolume: In the product of the objectives' units.
        reference: Reference point of the hypervolume, one loss for each objective.
        stopped: Why the search ended (`budget`, `nothing_to_gain`...); null while it goes on.
    """

    format: Literal[1] = 1
    axes: tuple[Goal, ...]
    objectives: tuple[Goal, ...]
    baseline: dict[str, FrontierValue]
    members: tuple[FrontierMember, ...]
    hypervolume: float
    reference: tuple[float, ...]
    stopped: str | None = None


def write_frontier(path: Path, frontier: Frontier, stopped: StopReason | None = None) -> None:
    """Write the frontier, and why the search ended; None: it goes on.

    Raises:
        StorageError: The file cannot be written.
    """
    write_text(path, frontier_file(frontier, stopped).model_dump_json(indent=2) + "\n")


def frontier_file(frontier: Frontier, stopped: StopReason | None = None) -> FrontierFile:
    """Give the frontier in the form of the file."""
    return FrontierFile(
        axes=frontier.axes,
        objectives=frontier.objectives,
        baseline=_values(frontier.baseline),
        members=tuple(
            FrontierMember(
                number=member.number,
                digest=member.digest,
                origin=member.origin,
                plan=dict(member.plan.schemes),
                values=_values(member.measurements),
            )
            for member in frontier.members
        ),
        hypervolume=frontier.hypervolume,
        reference=frontier.reference,
        stopped=None if stopped is None else stopped.word,
    )


def read_frontier(path: Path, history: Sequence[Candidate] = ()) -> Frontier:
    """Read the frontier back.

    Args:
        path: A `frontier.json`.
        history: Candidates from which the members are taken whole (with samples, seconds and
            executed precisions, which the file does not hold), where number and plan agree.

    Raises:
        StorageError: The file is missing or does not follow the schema.
    """
    try:
        file = FrontierFile.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(item) for item in first["loc"])
        raise damaged(path, f"{key}: {first['msg']}" if key else first["msg"]) from error
    known = {(item.number, item.digest): item for item in history}
    return Frontier(
        axes=file.axes,
        members=tuple(
            known.get((member.number, member.digest)) or _candidate(member)
            for member in file.members
        ),
        baseline=_measurements(file.baseline),
        objectives=file.objectives,
        reference=file.reference,
        hypervolume=file.hypervolume,
    )


def _values(measurements: Measurements) -> dict[str, FrontierValue]:
    return {
        name: FrontierValue.model_validate(item, from_attributes=True)
        for name, item in measurements.items()
    }


def _measurements(values: Mapping[str, FrontierValue]) -> dict[str, Measurement]:
    return {name: Measurement(**item.model_dump()) for name, item in values.items()}


def _candidate(member: FrontierMember) -> Candidate:
    return Candidate(
        number=member.number,
        plan=Plan.of(member.plan),
        origin=member.origin,
        measurements=_measurements(member.values),
    )
