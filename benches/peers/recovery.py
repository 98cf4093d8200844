#!/usr/bin/env python3
"""What the death of a worker costs: Perennial and torchrun on this machine, one after the other.

    PERENNIAL=target/release/perennial PYTHON=VENV/bin/python benches/peers/recovery.py [--kills 12] [--pictures DIR]

Three workers of one thread each; every seven seconds or so one of them gets a SIGKILL. Prints a table: the time from the kill to the
next committed step, and finished steps that were computed again. Torchrun runs a toy of 20 ms steps that checkpoints every 20 steps
(it has nothing else to go on from); Perennial trains CAS-ViT xs at 64 pixels.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

JOB = """
name = "recovery"
[data]
image_size = 64
[train]
epochs = 1000
batch_size = 24
slots = 6
"""
WORKERS = 3
SECONDS_BETWEEN = (6.5, 8.0)  # from a recovery to the next kill: `perennial train` makes good ten crashes a minute, not more


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(child) for child in listed.stdout.split()]


class Account:
    """Kills workers of a run by its steps, and keeps what that cost."""

    def __init__(self, name, kills, victims, ready):
        self.name, self.kills, self.victims, self.ready = name, kills, victims, ready
        self.random = random.Random(1)
        self.recoveries, self.again, self.steps = [], 0, []
        self.last = self.furthest = 0
        self.killed = None
        self.next = time.time() + self.random.uniform(*SECONDS_BETWEEN)

    def step(self, number, now):
        """Takes in a committed step. Whether the account is full."""
        if self.killed is not None:
            self.recoveries.append(now - self.killed)
            self.killed, self.next = None, now + self.random.uniform(*SECONDS_BETWEEN)
        elif self.last:
            self.steps.append(now - self.last)
        self.again += number <= self.furthest
        self.furthest, self.last = max(self.furthest, number), now
        if len(self.recoveries) >= self.kills:
            return True
        if self.killed is not None or now < self.next or not self.ready():
            return False
        victim = self.random.choice(self.victims())
        self.killed = time.time()
        os.kill(victim, signal.SIGKILL)
        return False

    def row(self):
        ordered = sorted(self.recoveries)
        p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
        return [
            self.name,
            str(len(ordered)),
            f"{statistics.median(self.steps) * 1000:.0f} ms",
            f"{statistics.median(ordered):.2f} s",
            f"{p95:.2f} s",
            f"{ordered[-1]:.2f} s",
            f"{self.again / len(ordered):.1f}",
        ]


def perennial(program, work, pictures, kills):
    job = work / "job.toml"
    job.write_text(JOB)
    command = [program, "--json", "train", job, "--data", pictures, "--store", work / "store"]
    command += ["--workers", str(WORKERS), "--threads", "1", "--set", "ema.decay=0.99"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        members = 0
        account = Account("Perennial", kills, lambda: children(run.pid), lambda: members == WORKERS)
        try:
            for line in run.stdout:
                event = json.loads(line)
                if event["event"] == "started":
                    members = event["workers"]
                if event["event"] == "step" and account.step(event["global_step"], time.time()):
                    return account.row()
        finally:
            for each in [*children(run.pid), run.pid]:
                os.kill(each, signal.SIGKILL)
    raise SystemExit("perennial ended before all kills were done")


def torchrun(python, work, kills):
    toy = pathlib.Path(__file__).with_name("toy_torchrun.py")
    command = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
    command += [f"--max-restarts={kills + 5}", "--monitor-interval=0.1", toy]
    environment = os.environ | {
        "TOY_CHECKPOINT": str(work / "toy.json"),
        "TOY_STEPS": "1000000",
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as run:
        account = Account("torchrun", kills, lambda: children(run.pid), lambda: True)
        try:
            for line in run.stdout:
                word, number, at = line.split()
                if word == "step" and account.step(int(number), float(at)):
                    return account.row()
        finally:
            for each in [*children(run.pid), run.pid]:
                os.kill(each, signal.SIGKILL)
    raise SystemExit("torchrun ended before all kills were done")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--pictures", type=pathlib.Path, help="one folder a class; drawn where it is left out")
    options = parser.parse_args()
    program, python = os.environ["PERENNIAL"], os.environ.get("PYTHON", sys.executable)
    with tempfile.TemporaryDirectory(prefix="perennial-recovery.") as folder:
        work = pathlib.Path(folder)
        pictures = options.pictures
        if pictures is None:
            pictures = work / "pictures"
            synth = [program, "data", "synth", pictures, "--classes", "12", "--per-class", "40", "--size", "64"]
            subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
        rows = [perennial(program, work, pictures, options.kills), torchrun(python, work, options.kills)]
    head = ["", "kills", "a step", "to the next step: median", "p95", "max", "finished steps computed again, each kill"]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    main()
