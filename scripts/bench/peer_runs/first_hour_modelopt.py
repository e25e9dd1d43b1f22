"""A new user's first program with ModelOpt, which simulates; started by first_hour.py."""

# mypy: ignore-errors
import sys

import first_hour_subjects

subject = first_hour_subjects.make(sys.argv[1])
model, loader, metric = subject.model, subject.loader, subject.metric
take_apart = first_hour_subjects.take_apart
print("ready", flush=True)

# the user's code
import modelopt.torch.quantization as mtq  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402


def step(model, batch):
    """Run the model."""
    return model(*take_apart(batch)[0])


def loss(outputs, batch):
    """What sensitivity is measured by."""
    scores = outputs[-1] if isinstance(outputs, tuple) else outputs
    targets = take_apart(batch)[1]
    return F.cross_entropy(scores, targets["labels"] if isinstance(targets, dict) else targets)


def score(model):
    """Score a model."""
    metric.reset()
    with torch.no_grad():
        for batch in loader[8:]:
            metric.update(step(model, batch), take_apart(batch)[1])
    return metric.compute()


before = score(model)
quantized, _ = mtq.auto_quantize(
    model,
    constraints={"effective_bits": 9.5},
    quantization_formats=[mtq.INT8_DEFAULT_CFG],
    data_loader=loader[:8],
    forward_step=step,
    loss_func=loss,
    num_calib_steps=8,
    num_score_steps=8,
)
print(f"F1 {score(quantized.eval()):.4f}, float {before:.4f}")
# the end of it
