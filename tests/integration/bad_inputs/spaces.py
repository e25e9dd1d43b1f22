"""Mistakes in the search space."""

from __future__ import annotations

from typing import Any

from tests.integration.bad_inputs.case import CALIBRATING, Case, model


def rule(**keys: object) -> dict[str, Any]:
    """A space of int8 and fp32 with one rule."""
    return {"space": {"schemes": ["int8", "fp32"], "rules": [keys]}}


SPACES = [
    Case(
        "unknown-scheme",
        "`space: {schemes: [int4, fp32]}`",
        "space.schemes.0: 'int4' is none of 'int4_weight_only_128', 'int4_weight_only_64', "
        "'int4_weight_only', 'int8', 'int8_dynamic', 'int8_weight_only_bf16', "
        "'int8_weight_only', 'int16', 'int16_weight', 'fp16', 'bf16', 'fp32'",
        job={"space": {"schemes": ["int4", "fp32"]}},
    ),
    Case(
        "no-schemes",
        "`space: {schemes: []}`",
        "space.schemes: [] needs at least 1 item",
        job={"space": {"schemes": []}},
    ),
    Case(
        "unknown-space",
        "`space: server_gpu`",
        "space: no search space 'server_gpu': no such file, and no shipped space of that name",
        "give a path, or one of ethos_u, linear_only, npu, server_cpu",
        {"space": "server_gpu"},
    ),
    Case(
        "rule-without-pattern",
        "`rules: [{pin: fp32}]`",
        "space.rules.0: a rule needs path, kind or block",
        "to say which sites it means",
        rule(pin="fp32"),
    ),
    Case(
        "rule-with-schemes-and-pin",
        "`rules: [{path: first, pin: fp32, schemes: [int8]}]`",
        "space.rules.0: a rule needs schemes or pin, and not both",
        "give one of the two",
        rule(path="first", pin="fp32", schemes=["int8"]),
    ),
    Case(
        "rule-matches-no-site",
        "`rules: [{path: frist, pin: fp32}]`",
        "space.rules.0 (path: frist) matches no site of this model",
        "sites are named like first, ...; --dry-run lists all",
        rule(path="frist", pin="fp32"),
        before=CALIBRATING,
    ),
    Case(
        "rule-matches-followers",
        "`rules: [{kind: activation, pin: fp32}]` on a hard-swish behind a linear layer",
        "space.rules.0 (kind: activation) changes nothing: ':hardswish:0' follows 'last'",
        "write the rule for the leading site; those that follow take its scheme",
        {**model("swish_model"), **rule(kind="activation", pin="fp32")},
        before=CALIBRATING,
    ),
    Case(
        "group-matches-no-site",
        "`groups: [[first, third]]`",
        "space.groups: 'third' matches no site of this model",
        "sites are named like first, ...; --dry-run lists all",
        {"space": {"schemes": ["int8", "fp32"], "groups": [["first", "third"]]}},
        before=CALIBRATING,
    ),
    Case(
        "refused-pin",
        "`rules: [{path: conv, pin: int8}]` on a Conv3d with `engine: qnnpack`",
        "space: site 'conv' (conv3d) is pinned to int8, which this target does not run",
        "here it runs int16, int16_weight, fp16, bf16, fp32",
        {
            **model("volume_model"),
            "backend": {"engine": "qnnpack"},
            **rule(path="conv", pin="int8"),
        },
        before=CALIBRATING,
    ),
    Case(
        "emulated-pin",
        "`rules: [{path: first, pin: int16}]` with the objective `latency`",
        "space: site 'first' (linear) is pinned to int16, which this target only emulates, and the "
        "objective latency needs real kernels",
        "here it runs int8, int8_dynamic, ...",
        {**rule(path="first", pin="int16"), "objectives": ["output_error", "latency"]},
        before=CALIBRATING,
    ),
    Case(
        "refused-fallback",
        "`fallback: int8_weight_only` where linear layers are left with it",
        "space: site 'first' (linear) is left with space.fallback int8_weight_only, which this "
        "target does not run",
        "here it runs int8, int8_dynamic, ...",
        {"space": {"schemes": ["int8_weight_only"], "fallback": "int8_weight_only"}},
        before=CALIBRATING,
    ),
    Case(
        "emulated-with-latency",
        "`schemes: [int16]` with the objective `latency`",
        "space: the target leaves no choice at any of the 3 sites: it would only emulate int16",
        "widen space.schemes, or replace the objective latency by size or bops",
        {"space": {"schemes": ["int16"]}, "objectives": ["output_error", "latency"]},
        before=CALIBRATING,
    ),
]


def ranges(**keys: object) -> dict[str, Any]:
    """The section of a job that says how ranges are found."""
    return {"calibration": keys}


RANGES = [
    Case(
        "unknown-observer",
        "`calibration: {observer: max}`",
        "calibration.observer: 'max' is none of 'histogram', 'minmax', 'moving_average', "
        "'percentile', 'kl', 'mse', 'mix'",
        job=ranges(observer="max"),
    ),
    Case(
        "percentile-too-high",
        "`calibration: {observer: percentile, percentile: 101}`",
        "calibration.percentile: 101 is above 100",
        job=ranges(observer="percentile", percentile=101),
    ),
    Case(
        "percentile-too-low",
        "`calibration: {observer: percentile, percentile: 0.01}`",
        "calibration.percentile: 0.01 is not above 50",
        job=ranges(observer="percentile", percentile=0.01),
    ),
    Case(
        "empty-range",
        "`fixed_ranges: {inputs.x: [200, 0]}`",
        "calibration.fixed_ranges.inputs.x: [200, 0] is wrong: its low end 200 is not below its "
        "high end 0",
        job=ranges(fixed_ranges={"inputs.x": [200, 0]}),
    ),
    Case(
        "half-a-range",
        "`fixed_ranges: {inputs.x: [200]}`",
        "calibration.fixed_ranges.inputs.x.1: is missing",
        "add it",
        job=ranges(fixed_ranges={"inputs.x": [200]}),
    ),
    Case(
        "observer-of-no-site",
        "`calibration: {sites: {frist: mse}}`",
        "calibration.sites: 'frist' matches nothing in this model",
        "names are like first, ...; search --dry-run lists all sites",
        ranges(sites={"frist": "mse"}),
        before=CALIBRATING,
    ),
    Case(
        "range-of-no-input",
        "`fixed_ranges: {inputs.speed: [0, 200]}` where the input is `x`",
        "calibration.fixed_ranges: 'inputs.speed' matches nothing in this model",
        "names are like ...inputs.x...; search --dry-run lists all sites",
        ranges(fixed_ranges={"inputs.speed": [0, 200]}),
        before=CALIBRATING,
    ),
]
