"""A bounded window on many candidates: the best of them, and the latest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from autoquant.core.pareto import Floats, frontier_mask

ELITE = 128
RECENT = 64
_FULL = 256

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Item]):
    number: int
    losses: tuple[float, ...]
    violation: float
    item: Item


class Window(Generic[Item]):
    """Keeps all it is given up to 256; then, time and again, the 128 best and the 64 latest.

    Best are those that violate no constraint, by non-dominated rank and then crowding distance
    (Deb et al., IEEE TEVC 6(2), 2002, sections III-A and III-B); then those that violate least.
    What it holds depends only on what it was given, and in which order.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry[Item]] = []
        self._front: list[Item] | None = None

    def add(self, number: int, losses: tuple[float, ...], violation: float, item: Item) -> None:
        """Take in a candidate.

        Args:
            number: Its number; later is larger.
            losses: What is minimized.
            violation: By how much it violates constraints; 0: not at all.
            item: What is kept of it.
        """
        self._entries.append(_Entry(number, losses, violation, item))
        self._front = None
        if len(self._entries) > _FULL:
            self._thin()

    def items(self) -> list[Item]:
        """What it holds, by number."""
        return [entry.item for entry in sorted(self._entries, key=lambda entry: entry.number)]

    def front(self) -> list[Item]:
        """Those of `items` that violate no constraint and that none of these beats."""
        if self._front is None:
            feasible = [entry for entry in self._entries if entry.violation <= 0]
            mask = frontier_mask(_losses(feasible)) if feasible else np.zeros(0, dtype=np.bool_)
            self._front = [entry.item for entry, kept in zip(feasible, mask, strict=True) if kept]
        return self._front

    def _thin(self) -> None:
        by_number = sorted(self._entries, key=lambda entry: entry.number)
        feasible = [entry for entry in by_number if entry.violation <= 0]
        others = [entry for entry in by_number if entry.violation > 0]
        best = _ranked(feasible)[:ELITE]
        best += sorted(others, key=lambda entry: entry.violation)[: ELITE - len(best)]
        kept = {entry.number for entry in (*best, *by_number[-RECENT:])}
        self._entries = [entry for entry in by_number if entry.number in kept]


def _losses(entries: list[_Entry[Item]]) -> Floats:
    return np.array([entry.losses for entry in entries])


def _ranked(entries: list[_Entry[Item]]) -> list[_Entry[Item]]:
    """Front by front, the most isolated of each first; enough fronts for the elite."""
    ranked: list[_Entry[Item]] = []
    rest = list(entries)
    while rest and len(ranked) < ELITE:
        mask = frontier_mask(_losses(rest))
        front = [entry for entry, kept in zip(rest, mask, strict=True) if kept]
        order = np.argsort(-_crowding(_losses(front)), kind="stable")
        ranked += [front[i] for i in order]
        rest = [entry for entry, kept in zip(rest, mask, strict=True) if not kept]
    return ranked


def _crowding(losses: Floats) -> Floats:
    """Crowding distance of each point of a front; infinite at its ends."""
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
