"""The colour and the code of each scheme, on every page."""

from __future__ import annotations

from autoquant.core.precision import Scheme

SCHEME_COLOURS = {
    Scheme.INT4_WEIGHT_ONLY_128: "#fbf7c2",
    Scheme.INT4_WEIGHT_ONLY_64: "#f6ee8e",
    Scheme.INT4_WEIGHT_ONLY: "#f0e442",
    Scheme.INT8: "#a6cee8",
    Scheme.INT8_DYNAMIC: "#56b4e9",
    Scheme.INT8_WEIGHT_ONLY_BF16: "#2b93cd",
    Scheme.INT8_WEIGHT_ONLY: "#0072b2",
    Scheme.INT16: "#009e73",
    Scheme.INT16_WEIGHT: "#7fcdb5",
    Scheme.FP16: "#e69f00",
    Scheme.BF16: "#cc79a7",
    Scheme.FP32: "#3d4654",
}
"""From Okabe and Ito's colour-blind safe set: light for few bits, so that what is raised shows."""

SCHEME_CODES = {
    Scheme.INT4_WEIGHT_ONLY_128: "4/128",
    Scheme.INT4_WEIGHT_ONLY_64: "4/64",
    Scheme.INT4_WEIGHT_ONLY: "4/32",
    Scheme.INT8: "8",
    Scheme.INT8_DYNAMIC: "8d",
    Scheme.INT8_WEIGHT_ONLY_BF16: "8wb",
    Scheme.INT8_WEIGHT_ONLY: "8w",
    Scheme.INT16: "16",
    Scheme.INT16_WEIGHT: "16w",
    Scheme.FP16: "h",
    Scheme.BF16: "b",
    Scheme.FP32: "32",
}
"""Printed in the cells of the precision map, so that colour is not the only sign."""

_LIGHT_FROM = 0.55


def is_light(colour: str) -> bool:
    """Whether dark text reads better on a colour (`#rrggbb`), by its relative luminance."""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > _LIGHT_FROM
