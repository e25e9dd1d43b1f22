"""Data and metrics that cannot be used."""

from __future__ import annotations

from tests import faulty
from tests.integration.bad_inputs.case import READING, Case, Scene, data

DATA = [
    Case(
        "data-function-fails",
        "a data function that raises",
        "unreadable_data failed: PermissionError: ... '/data/images' at .../faulty.py:...",
        "mend the function, or the `arguments` that the job file gives it",
        data(evaluation="unreadable_data"),
        before=READING,
    ),
    Case(
        "no-data",
        "a data function that returns nothing",
        "forgotten_data returned None",
        "return the data that it makes",
        data(heldout="forgotten_data"),
        before=READING,
    ),
    Case(
        "loader-fails",
        "a loader that fails at a batch",
        "calibration batch 2 cannot be read: OSError: image-3.png is truncated",
        "iterate over the data on their own to see the whole error",
        data(calibration="broken_loader"),
        before=READING,
    ),
    Scene(
        "number-for-data",
        "`aq.search(..., evaluation=3)`",
        "evaluation: got int",
        "give (inputs, targets) tensors, a list of batches, a DataLoader, or a function that "
        "returns one of these",
        lambda stage: stage.refused_search(evaluation=3),
    ),
    Case(
        "no-batches",
        "calibration data without a batch",
        "calibration: no batches",
        "give at least one batch",
        data(calibration="no_batches"),
        before=READING,
    ),
    Case(
        "empty-batch",
        "a batch of zero samples",
        "evaluation batch 4 is empty",
        "drop it, or give it samples",
        data(evaluation="empty_batch"),
        before=READING,
    ),
    Case(
        "not-tensors",
        "a list of file names for data",
        "calibration batch 0: got str",
        "a batch is inputs or (inputs, targets), in tensors; several inputs go in a tuple or a "
        "dict; `prepare` makes batches of anything else",
        data(calibration="paths"),
        before=READING,
    ),
    Case(
        "mappings",
        "calibration batches that are dictionaries, evaluation batches that are tensors",
        "calibration batch 0 has inputs of another structure than evaluation batch 0, which gives "
        "...",
        "give every batch the same inputs, in the same containers",
        data(calibration="named_inputs"),
        before=READING,
    ),
    Case(
        "nan-batch",
        "a batch with NaN",
        "calibration batch 2 holds NaN or infinity",
        "clean the data, or mend what prepares them",
        data(calibration="nan_batch"),
        before=READING,
    ),
    Case(
        "shapes-differ",
        "batches of different shapes",
        "the model failed on heldout batch 4 of shape (16, 12) float32: RuntimeError: ...",
        "give batches of the shape and dtype that model.forward takes",
        data(heldout="other_shape"),
        before=READING,
    ),
    Case(
        "dtypes-differ",
        "batches of different dtypes",
        "evaluation batch 2 is of dtype int64, batch 0 of float32",
        "give every batch inputs of one dtype",
        data(evaluation="later_integers"),
        before=READING,
    ),
    *(
        Case(
            f"wrong-shape-{part}",
            f"{part} inputs of a shape that the model does not take",
            f"the model failed on {part} batch 0 of shape (16, 3, 8, 8) float32: RuntimeError: ...",
            "give batches of the shape and dtype that model.forward takes",
            data(**{part: "wrong_shape"}),
            before=READING,
        )
        for part in ("calibration", "evaluation", "heldout")
    ),
    Case(
        "integers",
        "integers where the model takes floats",
        "the model failed on calibration batch 0 of shape (16, 16) int64: RuntimeError: ...",
        "give batches of the shape and dtype that model.forward takes",
        data(calibration="integer_data"),
        before=READING,
    ),
    Case(
        "no-targets",
        "evaluation data without targets",
        "evaluation batch 0 has no targets",
        "give (inputs, targets), for the metric; without labels, metric='agreement' (the class "
        "that float finds) or 'cosine' (any outputs) compares with the float model",
        data(evaluation="no_targets"),
        before=READING,
    ),
    Case(
        "targets-of-another-length",
        "batches with fewer targets than inputs",
        "evaluation batch 0: 16 inputs but 15 targets",
        "give as many targets as inputs",
        data(evaluation="few_targets"),
        before=READING,
    ),
    Scene(
        "tensors-of-different-lengths",
        "`aq.search(..., evaluation=(inputs, targets))` of different lengths",
        "evaluation: 64 inputs but 60 targets",
        "give as many targets as inputs",
        lambda stage: stage.refused_search(evaluation=faulty.uneven_tensors()),
    ),
]

METRICS = [
    Case(
        "metric-raises",
        "a metric that raises",
        "metric 'raising_metric' failed: AttributeError: 'Tensor' object has no attribute "
        "'missing'",
        "it is called as metric(outputs, targets) with one batch of the model's outputs",
        data(metric="raising_metric"),
        before=READING,
    ),
    Scene(
        "metric-name",
        '`aq.search(..., metric="f1")`',
        "metric 'f1' is unknown",
        "give a function, or one of accuracy, agreement, cosine, mse, top5",
        lambda stage: stage.refused_search(metric="f1"),
    ),
    Case(
        "metric-writes",
        "a metric that writes into the outputs that it is given",
        "metric 'writing_metric' writes into the outputs that it is given",
        "use operations that make a new tensor (x.clamp, not x.clamp_), or clone it",
        data(metric="writing_metric"),
        before=READING,
    ),
    Case(
        "metric-text",
        "a metric that returns text",
        "metric 'text_metric' returned a str, which is no number",
        "return one score for each sample, or one number for the batch",
        data(metric="text_metric"),
        before=READING,
    ),
    Case(
        "metric-nan",
        "a metric that returns NaN",
        "metric 'nan_metric' returned NaN or infinity",
        "return finite scores; what one batch cannot give, such as an AUC where all labels are "
        "equal, an object with update and compute gives of the data set",
        data(metric="nan_metric"),
        before=READING,
    ),
    Case(
        "metric-shape",
        "a metric that returns a matrix",
        "metric 'matrix_metric' returned shape (16, 4) for a batch of 16",
        "return one score for each sample, or one number for the batch",
        data(metric="matrix_metric"),
        before=READING,
    ),
]
