"""The deployable file: OpenVINO's own format, with the plan inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov

from autoquant.backends.exported_file import writing
from autoquant.backends.openvino.engine import Options

METADATA = "autoquant"
"""Key in the model's runtime information: the plan, its digest and its measurements, as JSON."""


def write_model(model: ov.Model, options: Options, path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write a model as `.xml` with its weights in `.bin` beside, and what to compile it with.

    The weights of integer sites are stored in 8 bits. The model names the options that decide
    its precision; those that the plugin reads from a model it obeys by itself, and the marks on
    single ops hold whatever the precision hint.

    Raises:
        StorageError: The file cannot be written.
    """
    written = model.clone()
    compiled = options.with_threads(metadata.get("threads", 1))
    written.set_rt_info(json.dumps({**metadata, "openvino": compiled}), [METADATA])
    for name, value in options.properties.items():
        written.set_rt_info(value, ["runtime_options", name])
    with writing(path):
        ov.serialize(written, path)
    return path
