#!/usr/bin/env python3
"""From the start of the process to the first step, beside PyTorch on this machine.

    PERENNIAL=target/release/perennial PYTHON=VENV/bin/python benches/peers/start.py [--rounds 5] [--pictures DIR]

CAS-ViT xs at 64 pixels, batch 64. `perennial train` starts a coordinator and a worker, reads the folder, decodes the batch and commits
the step; PyTorch takes one step on random numbers. Each round starts all of them in turn. Ours is started again at once, in the memory
that the first one had: a virtual machine may have to ask its host for what nobody used a while, page by page. Prints a table: seconds,
median, least and most.
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

TORCH = pathlib.Path(__file__).resolve().parent / "step_torch.py"


def until(command, is_first_step):
    """Seconds from here until the command prints the line of its first step."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        try:
            for line in run.stdout:
                if is_first_step(line):
                    return time.monotonic() - began
        finally:
            run.terminate()
    raise SystemExit(f"no step from {command}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=pathlib.Path, help="one folder a class; drawn where it is left out")
    options = parser.parse_args()
    program, python = os.environ["PERENNIAL"], os.environ.get("PYTHON", sys.executable)
    with tempfile.TemporaryDirectory(prefix="perennial-start.") as folder:
        work = pathlib.Path(folder)
        pictures = options.pictures
        if pictures is None:
            pictures = work / "pictures"
            synth = [program, "data", "synth", pictures, "--classes", "12", "--per-class", "40", "--size", "64"]
            subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
        job = work / "job.toml"
        job.write_text('name = "start"\n')
        torch = [python, "-u", TORCH, "--steps", "1"]

        def train(store):
            return [program, "--json", "train", job, "--data", pictures, "--store", work / store]

        ways = {
            "perennial train": lambda at: train(f"{at}"),
            "perennial train, again at once": lambda at: train(f"{at}-again"),
            "PyTorch, eager": lambda at: torch,
            "PyTorch, torch.compile": lambda at: [*torch, "--compile"],
        }
        times = {way: [] for way in ways}
        for at in range(options.rounds):
            for way, command in ways.items():
                times[way].append(until(command(at), lambda line: json.loads(line)["event"] in ("step", "first_step")))
    print("| from process to first step | median | least | most |\n|---|---|---|---|")
    for way, seconds in times.items():
        figures = [statistics.median(seconds), min(seconds), max(seconds)]
        print(f"| {way} | " + " | ".join(f"{figure:.2f} s" for figure in figures) + " |")


if __name__ == "__main__":
    main()
