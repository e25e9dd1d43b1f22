"""A new user's first program with NNCF on OpenVINO; started by first_hour.py."""

# mypy: ignore-errors
import sys

import first_hour_subjects

subject = first_hour_subjects.make(sys.argv[1])
model, loader, metric = subject.model, subject.loader, subject.metric
take_apart = first_hour_subjects.take_apart
print("ready", flush=True)

# the user's code
import nncf  # noqa: E402
import openvino as ov  # noqa: E402
import torch  # noqa: E402


def inputs_of(batch):
    """What OpenVINO is given."""
    return tuple(item.numpy() for item in take_apart(batch)[0])


def validate(compiled, batches):
    """Score a compiled model."""
    metric.reset()
    for batch in batches:
        found = compiled(inputs_of(batch)).to_tuple()
        outputs = [torch.from_numpy(item) for item in found]
        metric.update(outputs if len(outputs) > 1 else outputs[0], take_apart(batch)[1])
    return metric.compute()


converted = ov.convert_model(model, example_input=take_apart(loader[0])[0])
quantized = nncf.quantize_with_accuracy_control(
    converted,
    nncf.Dataset(loader[:8], inputs_of),
    nncf.Dataset(loader[8:], lambda batch: batch),
    validation_fn=validate,
    max_drop=0.01,
)
# the end of it
