"""Candidates as rows: one place for the terminal, HTML and markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.table import Table as RichTable
from rich.text import Text

from autoquant.core.measurement import (
    EAGER_FP32,
    SINGLE_RIVAL_PLAN,
    Candidate,
    Measurement,
    Measurements,
    fastest_float,
    float_plans,
    rival_plans,
)
from autoquant.core.objectives import OwnObjective
from autoquant.core.quantities import (
    ACCURACY,
    ACCURACY_DROP,
    BOPS,
    FLOAT_SPEEDUP,
    FP32_LATENCY,
    LATENCY,
    SINGLE_SPEEDUP,
    SIZE,
    SPEEDUP,
    SQNR,
)
from autoquant.results.wording import (
    BUSY_NOTE,
    CLOCK_NOTES,
    KIND_NOTES,
    SINGLE_NOTE,
    SPREAD_NOTE,
    ScoreUnit,
    at_start,
    bytes_text,
    counts_text,
    drop_text,
    kinds_of,
    kinds_text,
    score_unit,
    sqnr_text,
    with_spread,
)

_TIMES = tuple(
    item.name for item in (SPEEDUP, FLOAT_SPEEDUP, LATENCY, FP32_LATENCY, SINGLE_SPEEDUP)
)

_NARROW = (
    ACCURACY_DROP.name,
    f"heldout_{ACCURACY_DROP.name}",
    SPEEDUP.name,
    SIZE.name,
    BOPS.name,
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head.

    Attributes:
        title: What it shows, with the unit.
        kind: Kinds of its numbers, comma-separated; empty for text. Where there are several,
            each cell names its own.
        is_narrow: Whether it stays where there is little room.
    """

    title: str
    kind: str = ""
    is_narrow: bool = True


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """Text, ready to be shown.

    Attributes:
        columns: The heads.
        rows: One cell for each column; the first row is the float model.
        notes: What the words and signs of this table mean, one sentence each.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    @property
    def narrow(self) -> CandidateTable:
        """The columns that a choice needs, which read at 80 characters; the rest is left out."""
        kept = [place for place, column in enumerate(self.columns) if column.is_narrow]
        return CandidateTable(
            tuple(self.columns[place] for place in kept),
            tuple(tuple(row[place] for place in kept) for row in self.rows),
            self.notes,
        )


@dataclass(frozen=True, slots=True)
class _Number:
    """A column of numbers: its title, measurement, text, and the float model's own value."""

    title: str
    name: str
    text: Callable[[Measurement], str]
    baseline: str = ""


def candidate_table(
    candidates: Sequence[Candidate],
    baseline: Measurements,
    rival: str = EAGER_FP32,
    metric: str = "accuracy",
    own: Sequence[OwnObjective] = (),
) -> CandidateTable:
    """Lay candidates out, after the float model; columns that nobody has are left out.

    Bit operations stand in for speed, and are left out where speed is known.

    Args:
        candidates: In the order in which to show them.
        baseline: Measurements of the float model.
        rival: What speed-ups are over; where it is not the float model, this has no time.
        metric: What the user's metric is called.
        own: Costs of the user's own.
    """
    everything = [baseline, *(item.measurements for item in candidates)]
    has_speed = any("speedup" in item for item in everything)
    left_out = {"bops_ratio"} if has_speed else set()
    numbers = [
        number
        for number in (
            *_numbers(score_unit(everything, metric), baseline, metric),
            *(_Number(goal.quantity.titled(), goal.measurement, _plain) for goal in own),
        )
        if any(number.name in item for item in everything) and number.name not in left_out
    ]
    narrow = {*_NARROW, *(goal.measurement for goal in own)}
    kinds = {number.name: kinds_of(everything, number.name) for number in numbers}
    columns = (
        Column("#"),
        *(
            Column(number.title, kinds_text(kinds[number.name]), number.name in narrow)
            for number in numbers
        ),
        Column("ops"),
        Column("from", is_narrow=False),
    )
    mixed = {name for name, found in kinds.items() if len(found) > 1}
    is_other = rival != EAGER_FP32
    known = {key: item for key, item in baseline.items() if not (is_other and key in _TIMES)}
    untimed = [replace(item, baseline="-") if item.name in _TIMES else item for item in numbers]
    cells = [
        _cell(number, known, mixed) if number.name in known else number.baseline
        for number in (untimed if is_other else numbers)
    ]
    rows = [("fp32", *cells, "", "the model as given")]
    for item in candidates:
        cells = [_cell(number, item.measurements, mixed) for number in numbers]
        rows.append((str(item.number), *cells, counts_text(item.plan), item.origin))
    used = {kind for found in kinds.values() for kind in found}
    notes = [SPREAD_NOTE, *(KIND_NOTES[kind] for kind in KIND_NOTES if kind in used)]
    notes += _sample_notes(candidates, metric)
    notes += _time_notes(everything)
    if any(SINGLE_SPEEDUP.name in item for item in everything):
        notes.append(SINGLE_NOTE)
    notes += _float_notes(baseline)
    if is_other and has_speed:
        notes.append(_rival_note(rival, baseline))
    return CandidateTable(columns, tuple(rows), tuple(notes))


def _rival_note(rival: str, baseline: Measurements) -> str:
    time = baseline.get("latency_ms")
    takes = "" if time is None else f", which takes {time.value:.4g} ms ({time.kind.value})"
    return f"Speedups are over {rival}{takes}."


def to_markdown(table: CandidateTable) -> str:
    """Give a table of GitHub's markdown, with the notes below."""
    heads = [f"{item.title} ({item.kind})" if item.kind else item.title for item in table.columns]
    lines = [heads, ["---:" if item.kind else "---" for item in table.columns], *table.rows]
    text = [f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines]
    return "\n".join([*text, "", *(f"- {note}" for note in table.notes)]) + "\n"


def to_rich(table: CandidateTable) -> RichTable:
    """Give a table for the terminal, with the notes below."""
    shown = RichTable(caption="\n".join(table.notes), caption_justify="left", box=None)
    for column in table.columns:
        head = Text.assemble(column.title, ("\n" + column.kind, "dim"))
        shown.add_column(head, justify="right" if column.kind else "left")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _numbers(unit: ScoreUnit, baseline: Measurements, metric: str) -> tuple[_Number, ...]:
    factor = unit.factor
    full = baseline["size_bytes"].value if "size_bytes" in baseline else None
    drop_title = f"drop, {unit.drop_unit}"
    scheme = fastest_float(baseline)
    over_float = f"over all {scheme.value if scheme is not None else 'float'}"

    def score(item: Measurement) -> str:
        return f"{item.value * factor:.2f}" if unit is ScoreUnit.SHARE else f"{item.value:.4g}"

    def drop(item: Measurement) -> str:
        return drop_text(item, unit)

    def size(item: Measurement) -> str:
        share = f" ({item.value / full:.0%})" if full else ""
        return bytes_text(item.value) + share

    return (
        _Number(f"{metric}, {unit.value_unit}", ACCURACY.name, score),
        _Number(drop_title, ACCURACY_DROP.name, drop, "0"),
        _Number(f"held-out {drop_title}", f"heldout_{ACCURACY_DROP.name}", drop, "0"),
        _Number(SQNR.titled(), SQNR.name, sqnr_text, "exact"),
        _Number(SPEEDUP.titled(), SPEEDUP.name, with_spread, "1"),
        _Number(over_float, FLOAT_SPEEDUP.name, with_spread),
        _Number(LATENCY.titled(), LATENCY.name, with_spread),
        _Number(
            FP32_LATENCY.titled(),
            FP32_LATENCY.name,
            lambda item: with_spread(replace(item, stderr=None)),
        ),
        _Number(SINGLE_SPEEDUP.titled(), SINGLE_SPEEDUP.name, with_spread, "1"),
        _Number(SIZE.titled(), SIZE.name, size),
        _Number(BOPS.titled(), BOPS.name, lambda item: f"{item.value:.1%}", "100%"),
    )


def _plain(item: Measurement) -> str:
    return f"{item.value:.4g}"


def _cell(number: _Number, measurements: Measurements, mixed: set[str]) -> str:
    measurement = measurements.get(number.name)
    if measurement is None:
        return "-"
    text = number.text(measurement)
    return f"{text} {measurement.kind.value}" if number.name in mixed else text


def _sample_notes(candidates: Sequence[Candidate], metric: str) -> list[str]:
    """Say how many samples stand behind the quality and how many pairs behind the speed."""
    notes = []
    for name, words in (
        ("accuracy_drop", f"{at_start(metric)} and SQNR are paired with fp32 on {{}} samples."),
        ("heldout_accuracy_drop", "Held-out values come from {} samples the search never used."),
        ("speedup", "Speedups are medians over {} interleaved pairs of runs."),
    ):
        counts = {
            item.measurements[name].samples for item in candidates if name in item.measurements
        } - {0}
        if counts:
            low, high = min(counts), max(counts)
            notes.append(words.format(low if low == high else f"{low} to {high}"))
    return notes


def _time_notes(everything: Sequence[Measurements]) -> list[str]:
    """Say by which clock times were taken, and what busy is."""
    times = [item[name] for item in everything for name in _TIMES if name in item]
    clocks = {item.clock for item in times}
    notes = [CLOCK_NOTES[clock] for clock in CLOCK_NOTES if clock in clocks]
    return [*notes, BUSY_NOTE] if any(item.busy for item in times) else notes


def _float_notes(baseline: Measurements) -> list[str]:
    """Say what the engine makes of the float model, which is a rival too."""
    fastest = fastest_float(baseline)
    if fastest is None:
        return []
    plans = ", ".join(
        f"all {scheme.value} {with_spread(item)}" for scheme, item in float_plans(baseline).items()
    )
    notes = [
        f"The engine's own float plans, in times the speed of fp32 as given: {plans}; the fastest "
        f"is what 'over all {fastest.value}' is over.",
        "'fp32 then' is the latency of fp32 in the same sitting as the candidate's.",
    ]
    single = rival_plans(baseline, SINGLE_RIVAL_PLAN)
    elsewhere = ", ".join(
        f"{key[0]} all {key[1].value} {with_spread(item)}"
        + (f" (one sample {with_spread(single[key])})" if key in single else "")
        for key, item in rival_plans(baseline).items()
    )
    return [*notes, f"The float model on other engines: {elsewhere}."] if elsewhere else notes


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
