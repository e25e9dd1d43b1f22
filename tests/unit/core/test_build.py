from __future__ import annotations

import json

from autoquant.core.build import BuildSettings
from autoquant.core.json_values import json_of
from autoquant.core.ranges import RangeRules

RANGES = {"percentile": 99.99, "averaging": 0.01, "sites": {}, "fixed": []}
OLDER = {
    "backend": "torch",
    "capture": "export",
    "observer": "histogram",
    "ranges": RANGES,
    "engine": "onednn",
    "reduce_range": True,
    "kernels": [{"site": "conv", "scheme": "int8", "engine": "fbgemm"}],
    "accelerator": "",
    "profile": "",
}


def test_settings_are_what_they_were_when_read_back() -> None:
    ranges = RangeRules(99.0, weight_bits=7)
    settings = BuildSettings("toy", ranges=ranges, options={"bits": 4})
    assert BuildSettings.from_json(json.loads(json.dumps(json_of(settings)))) == settings


def test_a_file_that_names_the_options_of_all_backends_is_read() -> None:
    found = BuildSettings.from_json(OLDER)
    assert found.options == {"engine": "onednn", "kernels": OLDER["kernels"]}
    assert found.ranges.is_reduced
    of_npu = {**OLDER, "backend": "ethos-u", "engine": "", "kernels": [], "accelerator": "x"}
    assert BuildSettings.from_json(of_npu).options == {"accelerator": "x"}
    of_another = {**OLDER, "engine": "", "kernels": [], "options": {"bits": 4}}
    assert BuildSettings.from_json(of_another).options == {"bits": 4}
