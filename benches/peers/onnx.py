#!/usr/bin/env python3
"""Perennial's inference beside onnxruntime's on this machine: the same network, batch and threads.

    PERENNIAL=target/release/perennial PYTHON=VENV/bin/python benches/peers/onnx.py [--models casvit_xs] [--sizes 64,96,224]

The model is what `perennial export-onnx` writes. Each round runs both, one after the other, in processes of their own.
Prints a table: pictures a second (medians over the rounds), the ratio of Perennial to onnxruntime with its least and most
over the rounds, and the ratio of the peaks of memory.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

BATCH = {64: 64, 96: 32, 224: 16}
STEPS = {64: 20, 96: 20, 224: 10}
CLASSES = 12
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2] / "tests" / "peers"))


def measure(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def export(program, model, size, folder):
    """A network that was not trained, as an ONNX model."""
    from casvit import casvit
    from safetensors.torch import save_file

    weights, out = folder / f"{model}.safetensors", folder / f"{model}-{size}.onnx"
    save_file(casvit(model, CLASSES).state_dict(), weights)
    classes = ",".join(f"class {index}" for index in range(CLASSES))
    command = [program, "export-onnx", "--weights", weights, "--model", model, "--classes", classes]
    subprocess.run([*command, "--image-size", str(size), out], stdout=subprocess.DEVNULL, check=True)
    return out


def compare(program, python, model, size, threads, rounds, path):
    """A row: what each does in pictures a second, and the ratios."""
    work = ["--batch", str(BATCH.get(size, 16)), "--steps", str(STEPS.get(size, 10)), "--threads", str(threads)]
    ours = ["--model", model, "--image-size", str(size), "--inference", "--json"]
    ways = {
        "perennial": [program, "bench", "step", *ours, *work],
        "onnxruntime": [python, HERE.with_name("onnx_runtime.py"), path, *work],
    }
    records = {way: [] for way in ways}
    for _ in range(rounds):
        for way, command in ways.items():
            records[way].append(measure(command))
    rates = {way: [record["images_per_second"] for record in records[way]] for way in ways}
    peaks = {way: statistics.median(record["peak_rss_mb"] for record in records[way]) for way in ways}
    ratios = [ours / theirs for ours, theirs in zip(*rates.values())]
    return [
        model,
        str(size),
        str(threads),
        *(f"{statistics.median(rate):.0f}" for rate in rates.values()),
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{peaks['perennial'] / peaks['onnxruntime']:.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="casvit_xs")
    parser.add_argument("--sizes", default="64,96,224")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    program, python = os.environ["PERENNIAL"], os.environ.get("PYTHON", sys.executable)
    print("| network | pixels | threads | perennial | onnxruntime | ratio | memory |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models.split(","):
            for size in map(int, options.sizes.split(",")):
                path = export(program, model, size, pathlib.Path(folder))
                for threads in map(int, options.threads.split(",")):
                    row = compare(program, python, model, size, threads, options.rounds, path)
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
