#!/usr/bin/env python3
"""Two workers of one thread over one, beside PyTorch's DistributedDataParallel on this machine.

    PERENNIAL=target/release/perennial PYTHON=VENV/bin/python benches/peers/workers.py [--rounds 3] [--pictures DIR]

CAS-ViT xs at 64 pixels, 64 pictures a step over all workers, which are processes. `perennial train` is the whole of it, from pictures to
the log; PyTorch trains on random numbers. Two jobs of one worker that know nothing of each other show what the machine gives to two
processes at all. Each round runs all in turn. Prints a table: pictures a second, medians, and their ratio.
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

TORCH = pathlib.Path(__file__).resolve().parent / "step_torch.py"
BATCH = 64
# Seventy steps are an epoch, about as many as of the seedlings: its evaluation and its checkpoint are among what is counted.
SKIPPED, COUNTED = 10, 70
JOB = f"""
name = "workers"
[train]
epochs = 1000
batch_size = {BATCH}
slots = 4
"""


def perennial(program, job, pictures, store, workers):
    """Pictures a second over whole steps, from their events."""
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
                    return COUNTED * BATCH / (time.monotonic() - began)
        finally:
            run.terminate()
    raise SystemExit("perennial ended too soon")


def apart(program, job, pictures, store):
    """Pictures a second of two jobs at once, of one worker each."""
    with ThreadPoolExecutor(2) as both:
        runs = [both.submit(perennial, program, job, pictures, store / name, 1) for name in "ab"]
        return sum(run.result() for run in runs)


def ddp(python, workers):
    command = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", TORCH]
    command += ["--threads", "1", "--batch", str(BATCH // workers), "--steps", "20"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    # Each process writes a record; two that come at once may share a line.
    record = done.stdout[done.stdout.index('{"event": "bench"') :]
    return workers * json.JSONDecoder().raw_decode(record)[0]["images_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=pathlib.Path, help="one folder a class; drawn where it is left out")
    options = parser.parse_args()
    program, python = os.environ["PERENNIAL"], os.environ.get("PYTHON", sys.executable)
    with tempfile.TemporaryDirectory(prefix="perennial-workers.") as folder:
        work = pathlib.Path(folder)
        pictures = options.pictures
        if pictures is None:
            pictures = work / "pictures"
            # Steps are full: 4480 pictures to train on are seventy of them.
            synth = [program, "data", "synth", pictures / "train", "--classes", "10", "--per-class", "448", "--size", "64"]
            subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
            synth = [program, "data", "synth", pictures / "val", "--classes", "10", "--per-class", "48", "--size", "64"]
            subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
        job = work / "job.toml"
        job.write_text(JOB)
        rates = {way: ([], []) for way in ("perennial train", "two jobs of one worker", "PyTorch, DDP")}
        for at in range(options.rounds):
            for workers in (1, 2):
                store = work / f"store-{at}-{workers}"
                rates["perennial train"][workers - 1].append(perennial(program, job, pictures, store, workers))
                rates["PyTorch, DDP"][workers - 1].append(ddp(python, workers))
            rates["two jobs of one worker"][0].append(rates["perennial train"][0][-1])
            rates["two jobs of one worker"][1].append(apart(program, job, pictures, work / f"apart-{at}"))
    print("| | one worker of one thread | two | two over one |\n|---|---|---|---|")
    for way, (one, two) in rates.items():
        ratios = [second / first for first, second in zip(one, two)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {way} | {statistics.median(one):.0f} images/s | {statistics.median(two):.0f} images/s | {ratio} |")


if __name__ == "__main__":
    main()
