"""Does TensorBoard read a job's own numbers from an event file?

    perennial train job.toml --store STORE --json --tensorboard DIR > events.jsonl
    python tests/peers/check_events.py DIR/JOB --events events.jsonl

    perennial curves JOB --store STORE --tensorboard DIR
    python tests/peers/check_events.py DIR/JOB --log STORE/JOB/log

Fails unless there is every number of every step and epoch, once, and nothing else. Event files hold 32-bit floats.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

STEP = ["loss", "top1", "learning_rate", "grad_norm", "images_per_second"]
EPOCH = {"validation": "val", "ema": "ema"}


def add(expected, tag, step, value):
    """A value that is told again, because its step was taken again, replaces the one before."""
    if value is not None:
        expected.setdefault(tag, {})[step] = value


def add_epoch(expected, step, record):
    for folder, prefix in EPOCH.items():
        for what in ("loss", "top1", "top5"):
            add(expected, f"{folder}/{what}", step, record[f"{prefix}_{what}"])


def from_events(path):
    """Of the lines of `train --json`, in their order."""
    expected, step = {}, 0
    # A process that was killed may leave half a line.
    lines = [line for line in Path(path).read_text().splitlines(keepends=True) if line.endswith("\n")]
    for record in map(json.loads, lines):
        if record["event"] in ("started", "step"):
            step = record["global_step"]
        if record["event"] == "step":
            for what in STEP:
                add(expected, f"train/{what}", step, record[what])
        elif record["event"] == "epoch":
            add_epoch(expected, step, record)
    return expected


def from_log(folder):
    """Of the coordinator's log in a store that is a folder."""
    expected, step = {}, 0
    for path in sorted(Path(folder).glob("*.json")):
        entry = json.loads(path.read_text())
        if entry["entry"] == "steps":
            for record in entry["steps"]:
                step, samples = step + 1, record["samples"]
                add(expected, "train/loss", step, float(record["loss_sum"]) / samples)
                add(expected, "train/top1", step, record["top1"] / samples)
                add(expected, "train/learning_rate", step, float(record["learning_rate"]))
                add(expected, "train/grad_norm", step, float(record["grad_norm"]))
                add(expected, "train/images_per_second", step, samples / record["seconds"])
        elif entry["entry"] == "epoch":
            add_epoch(expected, step, entry["record"])
    return expected


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--events", action="append")
    source.add_argument("--log")
    arguments = parser.parse_args()

    expected = {}
    for path in arguments.events or []:
        for tag, values in from_events(path).items():
            expected.setdefault(tag, {}).update(values)
    if arguments.log:
        expected = from_log(arguments.log)

    read = EventAccumulator(arguments.run, size_guidance={SCALARS: 0})
    read.Reload()
    tags = read.Tags()["scalars"]
    if sorted(tags) != sorted(expected):
        raise SystemExit(f"tags {sorted(tags)}, should be {sorted(expected)}")
    count = 0
    for tag in tags:
        found = [(event.step, np.float32(event.value)) for event in read.Scalars(tag)]
        wanted = [(step, np.float32(value)) for step, value in sorted(expected[tag].items())]
        if found != wanted:
            pair = next((pair for pair in zip(found, wanted) if pair[0] != pair[1]), (len(found), len(wanted)))
            raise SystemExit(f"{tag}: {pair[0]}, should be {pair[1]}")
        times = [event.wall_time for event in read.Scalars(tag)]
        if times != sorted(times) or times[0] < 1e9:
            raise SystemExit(f"{tag}: times from {times[0]} to {times[-1]}")
        count += len(found)
    print(f"{len(tags)} tags, {count} numbers, all equal", flush=True)


if __name__ == "__main__":
    main()
