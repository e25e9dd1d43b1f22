"""Suspicious settings are found, and sane ones are not."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from autoquant.core.findings.concerns import Concern, Severity
from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.core.sites import OpKind, Site
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.debugging.structure.settings import Configured, find_suspicious
from autoquant.model.graph.capture import capture
from tests.networks import MixedNet, images, seeded

FULL = ObserverFacts("HistogramObserver", "quint8", low=0, high=255)
REDUCED = ObserverFacts("HistogramObserver", "quint8", low=0, high=127)
WIDE = ObserverFacts("MinMaxObserver", "int16", low=-32768, high=32767)
CHANNELS = ObserverFacts("PerChannelMinMaxObserver", "qint8", axis=0, low=-128, high=127)
HALF = ObserverFacts("largest", "qint8", axis=0, low=-64, high=63)
TENSOR = ObserverFacts("MinMaxObserver", "qint8", low=-128, high=127)
WIDE_WEIGHT = dataclasses.replace(CHANNELS, dtype="int16", low=-32768, high=32767)


@cache
def site_named(name: str) -> Site:
    return next(site for site in capture(seeded(MixedNet), (images(2),)).sites if site.name == name)


def seen(low: float, high: float) -> CalibrationStatistics:
    empty = np.zeros(0, np.float32)
    tensor = TensorStatistics(low, high, empty, low, high, empty, empty, empty, empty)
    return CalibrationStatistics({"out": tensor}, 8, "")


def found(
    activation: ObserverFacts,
    weight: ObserverFacts = CHANNELS,
    site: str = "stem",
    values: tuple[float, float] = (0.0, 1.0),
    *,
    saturates: bool = False,
) -> list[Concern]:
    item = Configured(site_named(site), QConfigFacts(activation, weight), "out")
    return list(find_suspicious([item], seen(*values), "x86", saturates=saturates))


def fixed(low: float, high: float) -> ObserverFacts:
    scale = (high - low) / 255
    return dataclasses.replace(FULL, fixed=(scale, round(-low / scale)))


def test_full_range_with_vnni_and_reduced_range_without_are_sane() -> None:
    assert found(FULL, saturates=False) == []
    assert found(REDUCED, saturates=True) == []
    assert found(FULL, HALF, saturates=True) == []


def test_full_range_without_vnni_is_found() -> None:
    (concern,) = found(FULL, saturates=True)
    assert "saturate on this CPU (no VNNI)" in concern.what


def test_reduced_range_with_vnni_is_found() -> None:
    (concern,) = found(FULL, HALF, saturates=False)
    assert "7 of 8 bits" in concern.what
    (concern,) = found(REDUCED, saturates=False)
    assert "7 of 8 bits" in concern.what


def test_sixteen_bits_on_both_sides_are_found_and_on_one_are_not() -> None:
    (concern,) = found(WIDE, WIDE_WEIGHT)
    assert "both int16" in concern.what
    assert found(WIDE, CHANNELS) == found(FULL, WIDE_WEIGHT) == []


def test_one_weight_scale_is_found_where_kernels_take_one_for_each_channel() -> None:
    (concern,) = found(FULL, TENSOR)
    assert "one scale for all channels" in concern.what
    site = dataclasses.replace(site_named("stem"), kind=OpKind.CONV_TRANSPOSE2D)
    item = Configured(site, QConfigFacts(FULL, TENSOR), "out")
    assert list(find_suspicious([item], seen(0, 1), "x86", saturates=False)) == []


@pytest.mark.parametrize(
    ("limits", "values", "severity", "what"),
    [
        ((-1.0, 1.0), (-0.5, 3.0), Severity.ATTENTION, "calibration saw [-0.5, 3]"),
        ((-8.0, 8.0), (-0.5, 0.5), Severity.ATTENTION, "calibration saw only"),
        ((-1.0, 1.0), (-0.9, 0.9), Severity.NOTE, "its scale is fixed"),
    ],
    ids=["clips", "unused", "fits"],
)
def test_a_fixed_scale_is_judged_by_what_calibration_saw(
    limits: tuple[float, float], values: tuple[float, float], severity: Severity, what: str
) -> None:
    (concern,) = found(fixed(*limits), values=values)
    assert concern.severity is severity
    assert what in concern.what


def test_the_fixed_scale_of_a_sigmoid_is_sane_while_its_values_fill_it() -> None:
    assert found(fixed(0, 1), site="b1:sigmoid:0", values=(0.1, 0.9)) == []
    (concern,) = found(fixed(0, 1), site="b1:sigmoid:0", values=(0.45, 0.55))
    assert concern.severity is Severity.NOTE


def test_a_site_without_a_qconfig_has_no_settings_to_suspect() -> None:
    item = Configured(site_named("stem"), None, "out")
    assert list(find_suspicious([item], seen(0, 1), "x86", saturates=True)) == []
