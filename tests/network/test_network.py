#!/usr/bin/env python3
"""Training goes on through a bad network, and the weights come out the same.

    PERENNIAL=target/release/perennial tests/network/test_network.py [SCENARIO...]

As root. Real processes on five machines that are network namespaces. Prints a line a scenario; exits with 1 on a failure,
with 77 where it cannot run. Files are kept where something failed.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Callable

from cluster import Cluster, Failed
from namespaces import Network, refuse_where_impossible

JOB = """
name = "network"
[data]
dir = "{pictures}"
image_size = 32
[model]
name = "casvit_xs"
drop_path = 0.1
[train]
epochs = 8
batch_size = 32
slots = 4
[mix]
mixup_alpha = 0.8
prob = 0.5
[checkpoint]
every_steps = 10
"""
PICTURES = ["--classes", "4", "--per-class", "200", "--size", "32", "--seed", "1"]

COORDINATOR, *WORKERS = EVERYONE = [1, 2, 3, 4, 5]  # machines; worker 3 is on the fourth
STEPS_BEFORE = 5  # that are committed before the network goes bad
STEPS_MEANWHILE = 3  # that have to be committed while it is bad: the first may have been under way
PATIENCE = 120  # seconds for anything


@dataclass
class Fault:
    """A bad network. It ends after `seconds`, or before when half of the job is done."""

    begin: Callable
    seconds: float
    count: str  # what the switch counts while it is so
    members: int  # of the generation that trains meanwhile


FAULTS = {
    "a_partition_between_two_halves": Fault(
        lambda switch: switch.cut([COORDINATOR, *WORKERS[:2]], WORKERS[2:]), 15, "cut", 2
    ),
    "a_worker_that_hears_and_is_not_heard": Fault(
        lambda switch: switch.block([WORKERS[2]], [each for each in EVERYONE if each != WORKERS[2]]), 15, "cut", 3
    ),
    # A step takes about seven seconds: TCP begins slowly after every pause.
    "200_ms_delay": Fault(lambda switch: switch.delay(0.2), 40, "delayed", 4),
    "5_percent_loss": Fault(lambda switch: switch.lose(0.05, seed=1), 20, "lost", 4),
}


def disturb(cluster, fault):
    """Makes the network bad for a while; a sentence about it."""
    switch = cluster.network.switch
    cluster.wait_until(lambda: cluster.global_step() >= STEPS_BEFORE, f"step {STEPS_BEFORE}", PATIENCE)
    half = cluster.events_of("step")[0]["total_steps"] // 2
    counts, step, begin = fault.begin(switch), cluster.global_step(), time.monotonic()
    cluster.wait_until(
        lambda: time.monotonic() >= begin + fault.seconds or cluster.global_step() >= half,
        "the fault's end",
        PATIENCE,
    )
    members, steps, seconds = cluster.members(), cluster.global_step() - step, time.monotonic() - begin
    count = switch.heal()[fault.count] - counts[fault.count]
    if cluster.events_of("finished"):
        raise Failed("the job ended before the fault did: it is too short")
    if count == 0:
        raise Failed("the fault touched no frame")
    if steps < STEPS_MEANWHILE:
        raise Failed(f"{steps} steps in {seconds:.1f} s of the fault: training did not go on")
    if members != fault.members:
        raise Failed(f"{members} workers trained at the fault's end instead of {fault.members}")
    healed = time.monotonic()
    cluster.wait_until(lambda: cluster.members() == len(WORKERS), "the return of all workers", PATIENCE)
    back = time.monotonic() - healed
    return (
        f"{seconds:.1f} s, {count} frames {fault.count}, {steps} steps meanwhile with {members} workers"
        + (f", all back after {back:.1f} s" if members != len(WORKERS) else "")
    )


class Scenarios:
    """Runs scenarios and says how each went."""

    def __init__(self, program, folder, network):
        self.program, self.folder, self.network = program, folder, network
        self.job = folder / "job.toml"
        self.certificates = folder / "certificates"
        self.reference = None
        self.failed = 0

    def prepare(self):
        pictures = self.folder / "pictures"
        subprocess.run([self.program, "data", "synth", pictures, *PICTURES], check=True, stdout=subprocess.DEVNULL)
        self.job.write_text(JOB.format(pictures=pictures))
        names = ["coordinator", "worker", "--host", self.network.address(COORDINATOR)]
        for words in (["init", self.certificates], ["issue", self.certificates, *names]):
            subprocess.run([self.program, "certs", *words], check=True, stdout=subprocess.DEVNULL)

    def run(self, name, workers, fault):
        start = time.monotonic()
        # The undisturbed run is the one in plain text, so that encryption is seen to change no weights.
        certificates = self.certificates if fault else None
        with Cluster(self.network, self.program, self.job, self.folder / name, workers, certificates) as cluster:
            try:
                said = disturb(cluster, fault) if fault else "no fault"
                weights = cluster.finish(PATIENCE)
                self.reference = self.reference or weights
                if weights != self.reference:
                    raise Failed(f"weights {weights} instead of {self.reference}; {said}")
                print(f"ok {name}: {said}, weights {weights[:12]} ({time.monotonic() - start:.0f} s)", flush=True)
            except Failed as error:
                self.failed += 1
                self.network.switch.heal()
                print(f"FAILED {name}: {error}\n{cluster.last_words()}", flush=True)


def main(wanted):
    refuse_where_impossible()
    program = os.path.realpath(os.environ.get("PERENNIAL", "target/release/perennial"))
    unknown = [name for name in wanted if name not in FAULTS]
    if unknown or not os.access(program, os.X_OK):
        print(f"cannot run: no such scenario {unknown}" if unknown else f"cannot run: no program at {program}")
        sys.exit(2)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="perennial-network."))
    with Network(len(EVERYONE)) as network:
        scenarios = Scenarios(program, folder, network)
        scenarios.prepare()
        scenarios.run("undisturbed_with_one_worker", 1, None)
        for name in wanted or FAULTS:
            scenarios.run(name, len(WORKERS), FAULTS[name])
    if scenarios.failed:
        print(f"files are kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
