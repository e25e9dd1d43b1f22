"""What a value says of itself at a glance: a few lines as text, or as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

MOST_ROWS = 12
_WIDEST_CELL = 40
_LEFT, _RIGHT = "text-align:left", "text-align:right"


def few(names: Sequence[object], count: int = 4) -> str:
    """The first names of a list that may be long, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, names[:count])) + more


@dataclass(frozen=True, slots=True)
class Glance:
    """A title, a table of few rows, and what to do next.

    Attributes:
        title: One line.
        heads: Of the columns; none where there is no table.
        rows: A cell for each column; beyond `MOST_ROWS` they are counted only.
        step: The next step, as code or a command; empty: none.
    """

    title: str
    heads: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]] = ()
    step: str = ""

    @property
    def text(self) -> str:
        """Aligned lines of text.

        >>> rows = [("1", "9 int8"), ("10", "9 fp32")]
        >>> print(Glance("2 plans", ("#", "ops"), rows, "best()").text)
        2 plans
        #   ops
        1   9 int8
        10  9 fp32
        next: best()
        """
        cut = [[_cut(cell) for cell in line] for line in (self.heads, *self._shown)]
        widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
        lines = (
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (cut if self.heads else ())
        )
        return "\n".join([self.title, *lines, *self._rest, *self._next])

    @property
    def html(self) -> str:
        """A table of HTML; everything is escaped."""
        body = "".join(f"<tr>{''.join(_cells('td', row))}</tr>" for row in self._shown)
        head = f"<thead><tr>{''.join(_cells('th', self.heads))}</tr></thead>"
        table = f"<table>{head}<tbody>{body}</tbody></table>" if self.heads else ""
        rest = "".join(f"<div>{escape(line)}</div>" for line in self._rest)
        step = f"<div>next: <code>{escape(self.step)}</code></div>" if self.step else ""
        return f"<div><b>{escape(self.title)}</b></div>{table}{rest}{step}"

    @property
    def _shown(self) -> Sequence[Sequence[str]]:
        return self.rows[:MOST_ROWS]

    @property
    def _rest(self) -> tuple[str, ...]:
        more = len(self.rows) - len(self._shown)
        return (f"and {more} more",) if more else ()

    @property
    def _next(self) -> tuple[str, ...]:
        return (f"next: {self.step}",) if self.step else ()


class Glanced:
    """A value that shows itself by its `glance`: as text, and in a notebook as HTML."""

    __slots__ = ()

    @property
    def glance(self) -> Glance:
        """What it says of itself in a few lines."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.glance.text

    def _repr_html_(self) -> str:
        return self.glance.html


def _cut(cell: str) -> str:
    return cell if len(cell) <= _WIDEST_CELL else f"{cell[: _WIDEST_CELL - 1]}…"


def _cells(tag: str, cells: Sequence[str]) -> Iterator[str]:
    for place, cell in enumerate(cells):
        style = _LEFT if place in (0, len(cells) - 1) else _RIGHT
        yield f'<{tag} style="{style}">{escape(cell)}</{tag}>'
