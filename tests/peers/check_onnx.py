"""Does onnxruntime, given an exported model, compute the logits that Perennial predicted?

    perennial export-onnx --weights weights.safetensors model.onnx [--batch N] [--normalise]
    perennial predict --weights weights.safetensors --json --logits PICTURES > predictions.jsonl
    python tests/peers/check_onnx.py model.onnx predictions.jsonl PICTURES

Size, normalisation and classes are those of the model's own metadata. Fails when the model breaks a rule of ONNX, a logit is
off by more than 1e-4, the best class is another one, or fewer than `--least` pictures were compared.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pictures import normalise, read_rgb

TOLERANCE = 1e-4


def predictions(path):
    """(picture, class, logits) of each line that has them; other lines are other events."""
    for line in Path(path).read_text().splitlines():
        record = json.loads(line) if line.strip() else {}
        if "logits" in record:
            yield Path(record["path"]), record["class"], np.float32(record["logits"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("predictions")
    parser.add_argument("folder", help="what the pictures' paths are relative to, where they are not to here")
    parser.add_argument("--least", type=int, default=1)
    arguments = parser.parse_args()

    onnx.checker.check_model(arguments.model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    classes, size = json.loads(meta["classes"]), int(meta["image_size"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    if images.shape[1:] != [3, size, size] or logits.shape[1:] != [len(classes)]:
        raise SystemExit(f"input {images.shape} and output {logits.shape} for {len(classes)} classes at {size} pixels")
    fixed = images.shape[0] if isinstance(images.shape[0], int) else None

    compared, worst = 0, 0.0
    pending = list(predictions(arguments.predictions))
    while pending:
        # A free batch is tried with several sizes.
        portion = pending[: fixed or 1 + compared % 50]
        pending = pending[len(portion) :]
        paths = [path if path.is_file() else Path(arguments.folder) / path for path, _, _ in portion]
        batch = np.stack([read_rgb(path, size) for path in paths])
        if images.type == "tensor(uint8)":
            batch = np.moveaxis(batch, -1, -3)
        else:
            batch = normalise(batch, json.loads(meta["mean"]), json.loads(meta["std"]))
        if fixed:
            batch = np.concatenate([batch, np.zeros_like(batch, shape=(fixed - len(portion), *batch.shape[1:]))])
        (rows,) = session.run(None, {images.name: np.ascontiguousarray(batch)})
        for (path, best, expected), row in zip(portion, rows):
            error = float(np.abs(row - expected).max())
            if not error <= TOLERANCE:
                raise SystemExit(f"{path}: logits off by {error:.3g}, tolerance {TOLERANCE:g}")
            if classes[row.argmax()] != best:
                raise SystemExit(f"{path}: {classes[row.argmax()]}, should be {best}")
            compared, worst = compared + 1, max(worst, error)
    if compared < arguments.least:
        raise SystemExit(f"only {compared} pictures were compared, should be {arguments.least} or more")
    kind = f"{images.type}, batch of {fixed or 'any'}"
    print(f"{meta['model']}, {kind}: {compared} pictures, the same classes, logits off by {worst:.2g} at most", flush=True)


if __name__ == "__main__":
    main()
