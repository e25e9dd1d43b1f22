"""Optuna samplers, by the names that a job uses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler


def start_tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator over all knobs together (Bergstra et al., NeurIPS 2011).

    The constant liar keeps the trials of one round apart. The seeds are its start-up trials.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)


def start_nsga2(seed: int) -> BaseSampler:
    """NSGA-II (Deb et al., IEEE TEVC 6(2), 2002)."""
    return NSGAIISampler(seed=seed, population_size=24)


def start_random(seed: int) -> BaseSampler:
    """Uniform over the space."""
    return RandomSampler(seed=seed)


GUIDED = "guided"
"""Plans come from `guided.Guide`; the sampler of that name draws where it has none."""

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    GUIDED: start_random,
    "tpe": start_tpe,
    "nsga2": start_nsga2,
    "random": start_random,
}
