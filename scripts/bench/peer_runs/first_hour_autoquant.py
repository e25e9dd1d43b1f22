"""A new user's first program with autoquant; started by first_hour.py."""

# mypy: ignore-errors
import sys

import first_hour_subjects

subject = first_hour_subjects.make(sys.argv[1])
model, loader, metric = subject.model, subject.loader, subject.metric
print("ready", flush=True)

# the user's code
import autoquant as aq  # noqa: E402

result = aq.search(model, loader, metric=metric)
quantized = result.best().quantize(model)
# the end of it
