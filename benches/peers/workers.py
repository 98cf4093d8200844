#!/usr/bin/env python3
"""Two workers of one thread over one, beside PyTorch's DistributedDataParallel on this machine.

    PERENNIAL=target/release/perennial PYTHON=VENV/bin/python benches/peers/workers.py [--sizes 64,224] [--rounds 3] [--pictures DIR]

CAS-ViT xs, 64, 32 or 16 pictures of 64, 96 or 224 pixels a step over all workers, which are processes. `perennial train` is the whole of
it, from pictures to the log; PyTorch trains on random numbers. Two jobs of one worker that know nothing of each other show what the
machine gives to two processes at all. Each round runs all in turn. Prints a table: pictures a second, medians, and their ratio.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from step import BATCH

TORCH = pathlib.Path(__file__).resolve().parent / "step_torch.py"
# Seventy steps are an epoch, about as many as of the seedlings: its evaluation and its checkpoint are among what is counted.
SKIPPED, COUNTED = 10, 70
CLASSES = 10
JOB = """
name = "workers"
[data]
image_size = {size}
[train]
epochs = 1000
batch_size = {batch}
slots = 4
"""


def perennial(program, job, pictures, store, workers):
    """Steps a second, from their events."""
    command = [program, "--json", "train", job, "--data", pictures, "--store", store]
    command += ["--workers", str(workers), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        try:
            steps, began = 0, None
            for line in run.stdout:
                if json.loads(line)["event"] != "step":
                    continue
                steps += 1
                if steps == SKIPPED:
                    began = time.monotonic()
                if steps == SKIPPED + COUNTED:
                    return COUNTED / (time.monotonic() - began)
        finally:
            run.terminate()
    raise SystemExit("perennial ended too soon")


def apart(program, job, pictures, store):
    """Steps a second of two jobs at once, of one worker each."""
    with ThreadPoolExecutor(2) as both:
        runs = [both.submit(perennial, program, job, pictures, store / name, 1) for name in "ab"]
        return sum(run.result() for run in runs)


def ddp(python, size, workers):
    """Steps a second."""
    command = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", TORCH]
    command += ["--threads", "1", "--image-size", str(size), "--batch", str(BATCH[size] // workers), "--steps", "20"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    # Each process writes a record; two that come at once may share a line.
    record = done.stdout[done.stdout.index('{"event": "bench"') :]
    return workers * json.JSONDecoder().raw_decode(record)[0]["images_per_second"] / BATCH[size]


def synth(program, folder, size):
    """Steps are full: those of an epoch have as many pictures to train on. A tenth of all is held out."""
    train = COUNTED * BATCH[size] // CLASSES
    for part, per_class in (("train", train), ("val", train // 9)):
        command = [program, "data", "synth", folder / part, "--classes", str(CLASSES), "--per-class", str(per_class)]
        subprocess.run(command + ["--size", str(size)], check=True, stdout=subprocess.DEVNULL)


def measure(options, size, work):
    """Of each way the steps a second of one worker and of two, in all rounds."""
    program, python = os.environ["PERENNIAL"], os.environ.get("PYTHON", sys.executable)
    pictures = options.pictures
    if pictures is None:
        pictures = work / "pictures"
        synth(program, pictures, size)
    job = work / "job.toml"
    job.write_text(JOB.format(size=size, batch=BATCH[size]))
    rates = {way: ([], []) for way in ("perennial train", "two jobs of one worker", "PyTorch, DDP")}
    for at in range(options.rounds):
        for workers in (1, 2):
            store = work / f"store-{at}-{workers}"
            rates["perennial train"][workers - 1].append(perennial(program, job, pictures, store, workers))
            rates["PyTorch, DDP"][workers - 1].append(ddp(python, size, workers))
        rates["two jobs of one worker"][0].append(rates["perennial train"][0][-1])
        rates["two jobs of one worker"][1].append(apart(program, job, pictures, work / f"apart-{at}"))
    return rates


def sizes(text):
    """Those of an option; argparse says which value is none."""
    found = [int(size) for size in text.split(",")]
    if not set(found) <= set(BATCH):
        raise ValueError(text)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=[64], type=sizes, help="of " + ", ".join(map(str, BATCH)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=pathlib.Path, help="one folder a class; drawn where it is left out")
    options = parser.parse_args()
    print("| pixels | | one worker of one thread | two | two over one |\n|---|---|---|---|---|")
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="perennial-workers.") as folder:
            rates = measure(options, size, pathlib.Path(folder))
        for way, (one, two) in rates.items():
            ratios = [second / first for first, second in zip(one, two)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            one, two = (f"{BATCH[size] * statistics.median(steps):.0f} images/s" for steps in (one, two))
            print(f"| {size} | {way} | {one} | {two} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
