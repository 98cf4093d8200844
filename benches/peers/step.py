#!/usr/bin/env python3
"""Perennial's training step beside PyTorch's on this machine: the same network, pictures, batch and threads.

    PERENNIAL=target/release/perennial PYTHON=VENV/bin/python benches/peers/step.py [--models casvit_xs] [--sizes 64,96,224]

Each round runs all ways, one after the other, within seconds: each of PyTorch's is a process that is there for all rounds, so that
what it compiled is, and sleeps while the others run. Prints a table: pictures a second (medians over the rounds), the ratio of
Perennial to the better of PyTorch's ways, with its least and most over the rounds, and the ratio of the peaks of memory. In `training-bf16` both train in bf16, PyTorch by autocast.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

BATCH = {64: 64, 96: 32, 224: 16}
STEPS = {64: 12, 96: 12, 224: 6}
# What each kind of work is called here and there, and how often it is done for a step of training.
WORKS = {
    "training": ([], [], 1),
    "inference": (["--inference"], ["--inference"], 4),
    "training-bf16": (["--precision", "bf16"], ["--bf16"], 1),
}
TORCH = pathlib.Path(__file__).resolve().parent / "step_torch.py"


class Ours:
    """Runs the program once for each measurement."""

    def __init__(self, command):
        self.command = command

    def measure(self):
        done = subprocess.run(self.command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    def end(self):
        pass


class Theirs:
    """A process that measures when it is told to."""

    def __init__(self, command):
        self.process = subprocess.Popen([*command, "--on-demand"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # Its warm-up must not run beside what is measured.
        self.until("ready")

    def until(self, event):
        for line in self.process.stdout:
            if (record := json.loads(line))["event"] == event:
                return record
        raise SystemExit(f"PyTorch ended with {self.process.wait()}")

    def measure(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.until("bench")

    def end(self):
        self.process.kill()
        self.process.communicate()


def compare(program, python, model, size, threads, work, rounds, compiles):
    """A row: what each way does in pictures a second, and the ratios."""
    ours, theirs, times = WORKS[work]
    options = ["--model", model, "--image-size", str(size), "--batch", str(BATCH.get(size, 16))]
    options += ["--steps", str(times * STEPS.get(size, 6)), "--threads", str(threads)]
    torch = [python, TORCH, *options, *theirs]
    ways = {"perennial": Ours([program, "bench", "step", "--json", *options, *ours])}
    rates, peaks = {}, {}
    try:
        ways["eager"] = Theirs(torch)
        if compiles:
            ways["compile"] = Theirs([*torch, "--compile"])
        rates, peaks = {way: [] for way in ways}, {way: [] for way in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                record = way.measure()
                rates[name].append(record["images_per_second"])
                peaks[name].append(record["peak_rss_mb"])
    finally:
        for way in ways.values():
            way.end()
    better = max((way for way in ways if way != "perennial"), key=lambda way: statistics.median(rates[way]))
    ratios = [ours / theirs for ours, theirs in zip(rates["perennial"], rates[better])]
    memory = statistics.median(peaks["perennial"]) / statistics.median(peaks[better])
    medians = [f"{statistics.median(rates[way]):.0f}" if way in ways else "" for way in ("perennial", "eager", "compile")]
    return [
        model,
        str(size),
        str(threads),
        work,
        *medians,
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{memory:.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="casvit_xs")
    parser.add_argument("--sizes", default="64,96,224")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="leave out torch.compile, which takes minutes for a large network")
    parser.add_argument("--work", default=",".join(WORKS))
    options = parser.parse_args()
    program, python = os.environ["PERENNIAL"], os.environ.get("PYTHON", sys.executable)
    print("| network | pixels | threads | work | perennial | eager, channels_last | torch.compile | ratio | memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    works = options.work.split(",")
    if unknown := set(works) - set(WORKS):
        parser.error(f"no work is called {', '.join(sorted(unknown))}; there is {', '.join(WORKS)}")
    for model in options.models.split(","):
        for size in map(int, options.sizes.split(",")):
            for threads in map(int, options.threads.split(",")):
                for work in works:
                    row = compare(program, python, model, size, threads, work, options.rounds, not options.eager)
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
