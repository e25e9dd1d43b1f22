"""A new user's first program with neural-compressor 3.x; started by first_hour.py."""

# mypy: ignore-errors
import sys

import first_hour_subjects

subject = first_hour_subjects.make(sys.argv[1])
model, loader, metric = subject.model, subject.loader, subject.metric
take_apart = first_hour_subjects.take_apart
print("ready", flush=True)

# the user's code
import torch  # noqa: E402
from neural_compressor.torch.export import export  # noqa: E402
from neural_compressor.torch.quantization import (  # noqa: E402
    StaticQuantConfig,
    TuningConfig,
    autotune,
)


def calibrate(model):
    """Show the model the calibration data."""
    for batch in loader[:8]:
        model(*take_apart(batch)[0])


def score(model):
    """Score a model."""
    metric.reset()
    with torch.no_grad():
        for batch in loader[8:]:
            metric.update(model(*take_apart(batch)[0]), take_apart(batch)[1])
    return metric.compute()


inputs = take_apart(loader[0])[0]
quantized = autotune(
    export(model, example_inputs=inputs),
    TuningConfig(config_set=[StaticQuantConfig(act_sym=True), StaticQuantConfig(act_sym=False)]),
    eval_fn=score,
    run_fn=calibrate,
    example_inputs=inputs,
)
# the end of it
