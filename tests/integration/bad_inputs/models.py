"""Models that cannot be searched."""

from __future__ import annotations

from tests import faulty
from tests.integration.bad_inputs.case import (
    CALIBRATING,
    READING,
    SENSITIVITY,
    Case,
    Scene,
    data,
    model,
)

LOADING = [
    Case(
        "model-arguments",
        "`arguments` that the model's function does not take",
        "good_model does not take these arguments: good_model() got an unexpected keyword "
        "argument 'width'",
        "change `arguments` in the job file, or the function's parameters",
        model("good_model", arguments={"width": 3}),
        before=READING,
    ),
    Case(
        "model-function-fails",
        "a model function that raises",
        "unloadable_model failed: FileNotFoundError: ... 'checkpoint.pt' at .../faulty.py:...",
        "mend the function, or the `arguments` that the job file gives it",
        model("unloadable_model"),
        before=READING,
    ),
    Case(
        "no-module",
        "a model function that returns a path",
        "model_file returned a str, not a torch.nn.Module",
        "load it: make the module, then module.load_state_dict(torch.load(path))",
        model("model_file"),
        before=READING,
    ),
    Scene(
        "class-for-model",
        "`aq.search(Net, ...)` instead of `Net()`",
        "the model is a type, not a torch.nn.Module",
        "give an object of it: LinearNet(...)",
        lambda stage: stage.refused_search(model=faulty.LinearNet),
    ),
    Scene(
        "checkpoint-for-model",
        '`aq.search(torch.load("checkpoint.pt"), ...)`, of a checkpoint of training',
        "the model is a dict, not a torch.nn.Module",
        "these are weights: make the module, then module.load_state_dict(weights['state_dict']), "
        "and give the module",
        lambda stage: stage.refused_search(
            model={"epoch": 3, "state_dict": faulty.LinearNet().state_dict()}
        ),
    ),
    Case(
        "scripted",
        "a TorchScript model",
        "the model is of RecursiveScriptModule, whose Python code is gone",
        "give the module that TorchScript was made from",
        model("scripted_model"),
        before=READING,
    ),
    Case(
        "quantized",
        "a model that is quantized already",
        "the model is quantized already: first is torch.ao.nn.quantized.dynamic...",
        "give the float model that it was made from",
        model("quantized_model"),
        before=READING,
    ),
    Case(
        "half-precision",
        "a model in half precision",
        "the model's first.weight is float16, not float32",
        "give model.float(), with data in float32",
        model("half_model"),
        before=READING,
    ),
    Case(
        "no-values",
        "a model on the meta device, or with lazy modules",
        "the model's first.weight has no values yet",
        "load the checkpoint; run lazy modules once on a batch",
        model("meta_model"),
        before=READING,
    ),
    Case(
        "nan-weights",
        "a checkpoint with NaN",
        "the model's second.weight holds NaN or infinity",
        "load a finite checkpoint",
        model("nan_weights"),
        before=READING,
    ),
]

RUNNING = [
    Case(
        "nan-outputs",
        "a float model whose outputs hold NaN",
        "the float model's outputs hold NaN or infinity on evaluation batch 0",
        "check the checkpoint and the preprocessing of the data",
        model("log_model"),
        before=READING,
    ),
    Case(
        "nan-outputs-later",
        "a float model whose outputs are infinite on a later batch",
        "the float model's outputs hold NaN or infinity on batch 4",
        "check that batch, and the model on it",
        data(evaluation="overflowing"),
        before=SENSITIVITY,
    ),
    Case(
        "nan-inside",
        "calibration data that overflow inside the model",
        "calibration batch 4: tensor ... holds NaN or infinity",
        "check this batch's values and the model's weights",
        data(calibration="overflowing"),
        before=SENSITIVITY,
    ),
    Case(
        "dropout",
        "a model with dropout outside eval mode",
        "the model gives different outputs for the same batch (largest difference ...)",
        "remove randomness (dropout outside eval mode, sampling) and state kept between calls",
        model("dropout_model"),
        before=READING,
    ),
    Case(
        "counter",
        "a model that changes with each call",
        "the model gives different outputs for the same batch (largest difference 1)",
        "remove randomness (dropout outside eval mode, sampling) and state kept between calls",
        model("counting_model"),
        before=READING,
    ),
    Case(
        "integer-outputs",
        "a model that returns whole numbers that no float of its own decides",
        "the model returns Tensor without a floating tensor",
        "return logits or other floats; whole numbers are compared by the floats that torch "
        "computes them from in Python, and here there are none",
        model("count_model"),
        before=READING,
    ),
]

TRACING = [
    Case(
        "untraceable",
        "a model whose forward branches on values, and `capture: export`",
        "torch.export cannot capture the model: ... at .../faulty.py:... (if y.sum() > 0:)",
        "rewrite that line without control flow that depends on values; or take model.capture: "
        "modules, which looks at weighted modules alone",
        model("branching_model", capture="export"),
        before=CALIBRATING,
    ),
    Case(
        "unknown-leaf-module",
        "`leaf_modules: [third]`",
        "model.leaf_modules: the model has no module 'third'",
        "give a path of model.named_modules(): first, second, last",
        model("good_model", leaf_modules=["third"]),
        before=CALIBRATING,
    ),
    Case(
        "nothing-to-quantize",
        "a model without an op to quantize",
        "the model has no op that a scheme could be chosen for",
        "sites are convolutions, linear layers, ...",
        model("bare_model"),
        before=CALIBRATING,
    ),
]
