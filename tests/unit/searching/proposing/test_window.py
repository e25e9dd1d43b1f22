"""The window stays small, keeps the frontier and the latest, and forgets the rest."""

from __future__ import annotations

import random

from autoquant.searching.proposing.window import ELITE, RECENT, Window


def filled(count: int, seed: int = 0) -> tuple[Window[int], list[tuple[float, float]]]:
    draw = random.Random(seed)
    window: Window[int] = Window()
    losses = [(draw.random(), draw.random()) for _ in range(count)]
    for number, loss in enumerate(losses):
        window.add(number, loss, violation=float(number % 3 == 0), item=number)
    return window, losses


def test_everything_is_kept_while_there_is_little() -> None:
    window, _ = filled(256)
    assert window.items() == list(range(256))


def test_it_does_not_grow() -> None:
    window, _ = filled(5000)
    assert len(window.items()) <= 256


def test_the_latest_are_always_there() -> None:
    window, _ = filled(3000)
    assert set(range(3000 - RECENT, 3000)) <= set(window.items())


def test_no_feasible_frontier_of_its_size_is_lost() -> None:
    window, losses = filled(3000)
    feasible = [n for n in range(3000) if n % 3]
    front = {
        n
        for n in feasible
        if not any(losses[m][0] <= losses[n][0] and losses[m][1] < losses[n][1] for m in feasible)
    }
    assert len(front) < ELITE
    assert set(window.front()) == front


def test_of_a_large_front_the_ends_are_kept() -> None:
    window: Window[int] = Window()
    for number in range(2000):
        window.add(number, (float(number), -float(number)), violation=0.0, item=number)
    assert {0, 1999} <= set(window.items())


def test_without_a_feasible_candidate_the_least_violating_are_kept() -> None:
    window: Window[int] = Window()
    for number in range(1000):
        window.add(number, (0.0, 0.0), violation=1.0 + abs(number - 500), item=number)
    assert {490, 500, 510} <= set(window.items())
    assert window.front() == []
