"""Run ModelOpt's auto_quantize; started by peers.py inside ModelOpt's own environment."""

# mypy: ignore-errors

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
import torch.nn.functional as F
from peer_subjects import accuracy, load

SCORED_SAMPLES = 16


def search(subject, bits):
    """Search once; gives the simulated model, forwards, and its seconds and CPU seconds."""
    batches = [
        part
        for images, labels in subject.calibration
        for part in zip(images.split(SCORED_SAMPLES), labels.split(SCORED_SAMPLES), strict=True)
    ]
    forwards = 0

    def step(model, batch):
        nonlocal forwards
        forwards += 1
        return model(batch[0])

    wall, cpu = time.perf_counter(), time.process_time()
    model, _ = mtq.auto_quantize(
        copy.deepcopy(subject.model),
        constraints={"effective_bits": bits},
        quantization_formats=[mtq.INT8_DEFAULT_CFG],
        data_loader=batches,
        forward_step=step,
        loss_func=lambda logits, batch: F.cross_entropy(logits, batch[1]),
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        method="gradient",
    )
    spent = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return model.eval(), forwards, spent


def kept_layers(model):
    """Paths of the layers that stay unquantized."""
    return [
        path
        for path, module in model.named_modules()
        if hasattr(module, "weight_quantizer") and not module.weight_quantizer.is_enabled
    ]


def main():
    """Run and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--validation", type=int)
    parser.add_argument("--heldout", type=int)
    parser.add_argument("--bits", type=float, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    subject = load(arguments.subject, arguments.folder, arguments.validation, arguments.heldout)
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other
    rows = []
    for bits in arguments.bits:
        model, forwards, spent = search(subject, bits)
        rows.append(
            {
                "result": f"{bits:g} effective bits",
                "validation": accuracy(model, subject.validation),
                "heldout": accuracy(model, subject.heldout),
                "evaluations": f"0 ({forwards} forwards of {SCORED_SAMPLES} images)",
                "kept": kept_layers(model),
                **spent,
            }
        )
    arguments.output.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
