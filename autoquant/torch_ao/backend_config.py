"""torch's native backend config, extended by what autoquant emulates."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.ao.quantization.backend_config.utils  # torch looks it up without importing it
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization.backend_config import (
    BackendConfig,
    DTypeConfig,
    ObservationType,
    get_native_backend_config,
)

_INT16 = DTypeConfig(
    input_dtype=torch.int16,
    output_dtype=torch.int16,
    weight_dtype=torch.qint8,
    bias_dtype=torch.float,
)
_INT16_WEIGHT = DTypeConfig(
    input_dtype=torch.quint8,
    output_dtype=torch.quint8,
    weight_dtype=torch.int16,
    bias_dtype=torch.float,
)
_INT16_OP = DTypeConfig(input_dtype=torch.int16, output_dtype=torch.int16)
_FP16 = DTypeConfig(
    input_dtype=torch.float16,
    output_dtype=torch.float16,
    weight_dtype=torch.float16,
    bias_dtype=torch.float16,
)
_FP16_OP = DTypeConfig(input_dtype=torch.float16, output_dtype=torch.float16)
_EMULATED = (_INT16, _INT16_WEIGHT, _INT16_OP, _FP16, _FP16_OP)


def backend_config() -> BackendConfig:
    """Give torch's native backend config with int16 and fp16 added to every static op.

    Pass it to torch's own `prepare_fx` and `convert_fx` together with a QConfigMapping of
    autoquant. A config of the caller's own each time: changing it changes nothing here.
    """
    config = get_native_backend_config()
    for pattern in config.configs:
        if any(
            config.input_dtype is torch.quint8 and not config.is_dynamic
            for config in pattern.dtype_configs
        ):
            # patterns share one list: a new one each, or every entry would be added many times
            pattern.set_dtype_configs([*pattern.dtype_configs, *_EMULATED])
    return config


@lru_cache(maxsize=1)
def shared_backend_config() -> BackendConfig:
    """Give the same config, built once; never change it."""
    return backend_config()


def pass_through_ops() -> frozenset[object]:
    """Ops that hand their input's format on: pools, reshapes, concatenation, dropout."""
    return frozenset({nn.Dropout, F.dropout}).union(
        pattern.pattern
        for pattern in shared_backend_config().configs
        if pattern.observation_type is ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
        and not isinstance(pattern.pattern, tuple)
    )
