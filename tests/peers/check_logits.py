"""Does PyTorch, given exported weights, compute the logits that Perennial predicted?

    perennial checkpoint export JOB --store STORE --out weights.safetensors
    perennial predict --weights weights.safetensors --json --logits PICTURES > predictions.jsonl
    python tests/peers/check_logits.py weights.safetensors predictions.jsonl PICTURES --size 64

Fails when a logit is off by more than 1e-4 of the largest, or when fewer than `--least` pictures were compared.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from casvit import casvit, variant_of
from pictures import normalise, read_rgb

TOLERANCE = 1e-4


def predictions(path):
    """(picture, logits) of each line that has both; other lines are other events."""
    for line in Path(path).read_text().splitlines():
        record = json.loads(line) if line.strip() else {}
        if "logits" in record:
            yield Path(record["path"]), record["logits"]


def portions(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("predictions")
    parser.add_argument("folder", help="what the pictures' paths are relative to, where they are not to here")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--mean", type=float, nargs=3, default=[0.5] * 3)
    parser.add_argument("--std", type=float, nargs=3, default=[0.5] * 3)
    parser.add_argument("--least", type=int, default=1)
    arguments = parser.parse_args()

    state = load_file(arguments.weights)
    name, classes, distillation = variant_of(state)
    model = casvit(name, classes, distillation=distillation)
    model.load_state_dict(state, strict=True)
    model.eval()

    # One thread: on a busy machine torch's threads wait for each other for longer than they compute.
    torch.set_num_threads(1)
    compared, worst = 0, 0.0
    for portion in portions(list(predictions(arguments.predictions)), 64):
        paths = [path if path.is_file() else Path(arguments.folder) / path for path, _ in portion]
        pixels = np.stack([read_rgb(path, arguments.size) for path in paths])
        batch = np.ascontiguousarray(normalise(pixels, arguments.mean, arguments.std))
        with torch.inference_mode():
            ours = model(torch.from_numpy(batch)).numpy()
        for path, logits, (_, theirs) in zip(paths, ours, portion):
            if len(theirs) != len(logits):
                raise SystemExit(f"{path}: {len(theirs)} logits, should be {len(logits)}")
            error = float(np.abs(logits - np.float32(theirs)).max() / np.abs(logits).max())
            if not error <= TOLERANCE:
                raise SystemExit(f"{path}: logits off by {error:.3g} of the largest, tolerance {TOLERANCE:g}")
            compared, worst = compared + 1, max(worst, error)
    if compared < arguments.least:
        raise SystemExit(f"only {compared} pictures were compared, should be {arguments.least} or more")
    print(f"{name}: {compared} pictures, {classes} logits each, worst {worst:.2g} of the largest", flush=True)


if __name__ == "__main__":
    main()
