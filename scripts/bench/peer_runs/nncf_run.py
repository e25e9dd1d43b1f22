"""Run NNCF's accuracy control on OpenVINO; started by peers.py inside NNCF's own environment."""

# mypy: ignore-errors

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
from peer_subjects import BATCH_SIZE, CALIBRATION_SAMPLES, MAX_DROP, PAIRS, accuracy, load

from autoquant.searching.measuring.latency import measure_latency

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
DEFAULT = {}


class Validation:
    """NNCF's validation function; counts its calls by how many images they see."""

    def __init__(self, images):
        self.images = images
        self.full = 0
        self.ranking = 0

    def __call__(self, compiled, items):
        request = compiled.create_infer_request()
        right = []
        for image, label in items:
            logits = request.infer([image], share_inputs=True)[0]
            right.append(float(logits.argmax() == label))
        if len(right) == self.images:
            self.full += 1
        else:
            self.ranking += 1
        return float(np.mean(right)), right


def one_by_one(batches):
    """Batches as (image of shape (1, 3, 32, 32), label)."""
    return [
        (image[None].numpy(), int(label))
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    ]


def compile_for(model, batch_size, precision):
    """Compile with one thread, for latency."""
    model = model.clone()
    model.reshape([batch_size, 3, 32, 32])
    hints = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", **precision}
    return ov.Core().compile_model(model, "CPU", hints)


def runner(compiled):
    """Run a compiled model on a tensor; the last batch is filled up."""
    request = compiled.create_infer_request()

    def run(images):
        filled = torch.zeros(BATCH_SIZE, *images.shape[1:])
        filled[: len(images)] = images
        outputs = request.infer([filled.numpy()], share_inputs=True)[0]
        return torch.from_numpy(outputs[: len(images)].copy())

    return run


def timer(compiled, images):
    """Run a compiled model on one batch, without anything around it."""
    request = compiled.create_infer_request()
    array = images.numpy()
    return lambda: request.infer([array], share_inputs=True)


def executed_types(compiled):
    """Count the convolutions and matrix products by the type in which they run."""
    counts = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
            kind = info["runtimePrecision"].astype(str)
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def row(label, model, precision, subject, own):
    """Measure one model: accuracy, and time beside eager torch and beside OpenVINO's own fp32."""
    compiled = compile_for(model, BATCH_SIZE, precision)
    images = subject.validation[0][0]
    torch.set_num_threads(1)

    def eager():
        with torch.no_grad():
            return subject.model(images)

    clock = {"pairs": PAIRS}
    over_eager = measure_latency(timer(compiled, images), eager, **clock)["speedup"]
    over_own = measure_latency(timer(compiled, images), timer(own, images), **clock)["speedup"]
    return {
        "result": label,
        "validation": accuracy(runner(compiled), subject.validation),
        "heldout": accuracy(runner(compiled), subject.heldout),
        "speedup": over_eager.value,
        "speedup_stderr": over_eager.stderr,
        "over own fp32": over_own.value,
        "executed": executed_types(compiled),
    }


def timed(function):
    """Give what a call returns, with its seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    return value, {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }


def main():
    """Run and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--validation", type=int)
    parser.add_argument("--heldout", type=int)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    subject = load(arguments.subject, arguments.folder, arguments.validation, arguments.heldout)
    converted, conversion = timed(
        lambda: ov.convert_model(
            subject.model,
            example_input=subject.validation[0][0][:1],
            input=[("images", [1, 3, 32, 32])],
        )
    )
    own = compile_for(converted, BATCH_SIZE, F32)
    validation_items = one_by_one(subject.validation)
    calibration = nncf.Dataset(one_by_one(subject.calibration), lambda item: item[0])
    validate = Validation(len(validation_items))
    controlled, search = timed(
        lambda: nncf.quantize_with_accuracy_control(
            converted,
            calibration_dataset=calibration,
            validation_dataset=nncf.Dataset(validation_items, lambda item: item[0]),
            validation_fn=validate,
            max_drop=MAX_DROP,
            subset_size=CALIBRATION_SAMPLES,
        )
    )
    plain, once = timed(
        lambda: nncf.quantize(converted, calibration, subset_size=CALIBRATION_SAMPLES)
    )
    cost = {name: conversion[name] + search[name] for name in search}
    once = {name: conversion[name] + once[name] for name in once}
    counts = {"evaluations": f"{validate.full} + {validate.ranking} on a subset"}
    rows = [
        row("OpenVINO fp32", converted, F32, subject, own),
        row("OpenVINO bf16, nothing quantized", converted, DEFAULT, subject, own),
        row("plain int8, fp32 elsewhere", plain, F32, subject, own) | once,
        row("accuracy control, fp32 elsewhere", controlled, F32, subject, own) | cost | counts,
        row("accuracy control, bf16 elsewhere", controlled, DEFAULT, subject, own) | cost | counts,
    ]
    arguments.output.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
