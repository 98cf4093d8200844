#!/usr/bin/env python3
"""The whole life of two jobs on four hosts: certificates, a store, submit, scale, drain a host, kill the coordinator, collect both
reports. The weights of each are those of a run that one worker made alone.

    PERENNIAL=target/release/perennial WEED=VENV/bin/weed VENV/bin/python tests/life/test_life.py [--record FILE.cast]

As root; hosts are network namespaces. Prints a line for each thing that holds; exits with 1 on a failure, with 77 where it cannot
run. Files are kept where something failed.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hosts import PORT, Failed, Hosts
from recording import Recording

from namespaces import CANNOT_RUN, Network, refuse_where_impossible  # of tests/network, as `hosts` says

JOB = """\
name = "{name}"
seed = {seed}
[data]
dir = "s3://life/pictures"
image_size = 32
[model]
name = "casvit_xs"
drop_path = 0.1
[train]
epochs = {epochs}
batch_size = 32
slots = 4
[mix]
mixup_alpha = 0.8
prob = 0.5
[checkpoint]
every_steps = 50
"""
PICTURES = ["--classes", "4", "--per-class", "150", "--size", "32", "--seed", "1"]
EPOCHS = 18
JOBS = {"roses": 1, "tulips": 2}  # and their seeds
HOSTS = ["one", "two", "three", "four"]  # the store and the person; the coordinator; its standby; nothing but workers
WORKERS = {"worker-two": "two", "worker-three": "three", "worker-four-a": "four", "worker-four-b": "four"}
UNTIL_THE_END = 300  # seconds, for what is left of a job
STEPS = 5  # of a job that have to be committed before the next thing happens to it


class Life:
    def __init__(self, hosts):
        self.hosts = hosts
        self.start = time.monotonic()
        self.ruler = "coordinator"

    def ok(self, what):
        print(f"ok {what} ({time.monotonic() - self.start:.0f} s)", flush=True)

    def events_of(self, job, name):
        return [it for it in self.hosts.events(self.ruler) if it.get("job") == job and it.get("event") == name]

    def step(self, job):
        steps = self.events_of(job, "step")
        return steps[-1]["global_step"] if steps else 0

    def goes_on(self, what):
        """Both jobs commit a few steps more."""
        for job in JOBS:
            begin = self.step(job)
            self.hosts.wait_until(lambda: self.step(job) >= begin + STEPS or self.is_over(job), f"{job} after {what}")
            if self.is_over(job):
                raise Failed(f"{job} was over before {what}: it is too short")

    def is_over(self, job):
        return any(it.get("job") == job and it.get("entry") == "ended" for it in self.hosts.events(self.ruler))

    def has_members(self, job, count):
        started = self.events_of(job, "started")
        return started and started[-1]["workers"] == count

    # === in this order ===

    def alone(self):
        """The hashes of each job that one worker trains from the folder and nobody disturbs."""
        runs = {}
        for job, seed in JOBS.items():
            (self.hosts.folder / f"{job}.toml").write_text(JOB.format(name=job, seed=seed, epochs=EPOCHS))
            words = ["perennial", "--json", "train", f"{job}.toml", "--data", "pictures", "--store", "alone", "--workers", "1", "--threads", "1"]
            runs[job] = subprocess.Popen(
                words, cwd=self.hosts.folder, env=self.hosts.variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )
        hashes = {}
        for job, run in runs.items():
            out, errors = run.communicate()
            if run.returncode != 0:
                raise Failed(f"{job} alone ended with {run.returncode}: {errors}")
            finished = [it for it in map(json.loads, out.splitlines()) if it["event"] == "finished"]
            hashes[job] = (finished[0]["weights_sha256"], finished[0]["ema_sha256"])
        self.ok("alone: " + ", ".join(f"{job} {weights[:12]}" for job, (weights, _) in hashes.items()))
        return hashes

    def prepare(self):
        hosts = self.hosts
        two, three = hosts.address("two"), hosts.address("three")
        hosts.recording.said("four machines; SeaweedFS runs on the first")
        hosts.person("one", "perennial certs init certs")
        hosts.person("one", f"perennial certs issue certs coordinator worker operator --host {two} --host {three}")
        hosts.variables["STORE"] = "s3://life/jobs"
        for name, host in (("coordinator", "two"), ("standby", "three")):
            line = f"perennial coordinator --listen 0.0.0.0:{PORT} --advertise {hosts.address(host)}:{PORT} --store %s --standby"
            hosts.start(host, name, (line % "s3://life/jobs").replace("perennial ", "perennial --json "), "coordinator", line % "$STORE" + " &")
            if name == "coordinator":
                hosts.wait_until(lambda: any(it.get("entry") == "term" for it in hosts.events(name)), "a coordinator that rules")
        hosts.wait_until(lambda: hosts.events("standby"), "the standby")
        coordinators = f"https://{two}:{PORT},https://{three}:{PORT}"
        for name, host in WORKERS.items():
            hosts.start(host, name, f"perennial worker --coordinator {coordinators} --host {hosts.address(host)} --threads 1", "worker", "")
        hosts.person("one", "perennial data pack pictures s3://life/pictures", lines=4)

    def submit(self):
        hosts = self.hosts
        hosts.person("one", "perennial submit roses.toml --store $STORE --workers 1")
        hosts.wait_until(lambda: self.step("roses") >= STEPS, "the first steps of roses")
        hosts.person("one", "perennial submit tulips.toml --store $STORE")
        hosts.wait_until(lambda: self.has_members("tulips", 3), "three workers for tulips")
        self.goes_on("it was submitted")
        hosts.person("one", "perennial status --store $STORE")
        self.ok("two jobs were submitted and share four workers on three hosts")

    def watch(self):
        """What orchestrators and Prometheus ask."""
        for host in ("two", "three"):
            answer = self.hosts.get(host, "/healthz")
            if answer != (200, "ok\n"):
                raise Failed(f"/healthz of {host}: {answer}")
        code, text = self.hosts.get("two", "/metrics", "operator")
        wanted = [line for line in text.splitlines() if line.startswith("perennial_queue_workers_wanted")]
        # roses may have one, tulips as many as it has slots.
        if code != 200 or wanted != ["perennial_queue_workers_wanted 5"]:
            raise Failed(f"/metrics of the coordinator: {code}, {wanted}")
        refused = self.hosts.get("two", "/metrics")[0]
        standby = self.hosts.get("three", "/metrics", "operator")[0]
        if (refused, standby) != (401, 503):
            raise Failed(f"/metrics: {refused} without a certificate, {standby} of a standby")
        self.ok("the probe of both coordinators, the metrics of the one that rules")

    def scale(self):
        self.hosts.person("one", "perennial scale roses 2 --store $STORE")
        for job in JOBS:
            self.hosts.wait_until(lambda: self.has_members(job, 2), f"two workers for {job}")
        self.goes_on("it was scaled")
        self.ok("scaled: two workers for each job")

    def drain(self):
        hosts = self.hosts
        hosts.recording.said("the fourth machine is wanted for something else")
        hosts.recording.typed("four", "killall -TERM perennial")
        leaving = [name for name, host in WORKERS.items() if host == "four"]
        for name in leaving:
            hosts.signal(name, signal.SIGTERM)
        for name in leaving:
            hosts.leave(name)
        for job in JOBS:
            hosts.wait_until(lambda: self.has_members(job, 1), f"one worker for {job}")
        self.goes_on("the host was drained")
        hosts.person("one", "perennial status --store $STORE")
        lost = [it for job in JOBS for it in self.events_of(job, "worker_lost")]
        if lost:
            raise Failed(f"a worker was lost instead of let go: {lost}")
        self.ok("the fourth host was drained: both of its workers left with exit status 0, and none was lost")

    def kill(self):
        hosts = self.hosts
        before = {job: self.step(job) for job in JOBS}
        hosts.recording.said("and the second machine's coordinator dies")
        hosts.recording.typed("two", "kill -KILL $COORDINATOR")
        hosts.kill("coordinator")
        self.ruler = "standby"
        hosts.wait_until(lambda: any(it.get("entry") == "term" for it in hosts.events("standby")), "the standby's term")
        for job in JOBS:
            hosts.wait_until(lambda: self.step(job) >= before[job] + STEPS or self.is_over(job), f"{job} under the standby")
        hosts.person("one", "perennial status roses --store $STORE")
        for job in JOBS:
            halted = self.events_of(job, "started")
            if halted:
                raise Failed(f"{job} had to halt: {halted}")
        self.ok("the coordinator was killed, the standby rules, and no job halted")

    def collect(self, alone):
        hosts = self.hosts
        for job in JOBS:
            hosts.wait_until(lambda: self.is_over(job), f"the end of {job}", UNTIL_THE_END)
        hosts.person("one", "perennial report roses --compare tulips --store $STORE")
        weights = []
        for job in JOBS:
            hosts.person("one", f"perennial report {job} --store $STORE --format html --out {job}.html")
            report = json.loads(hosts.person("one", f"perennial report {job} --store $STORE --json", quietly=True))
            hashes = (report["weights_sha256"], report["ema_sha256"])
            if hashes != alone[job]:
                raise Failed(f"{job}: weights {hashes}, alone {alone[job]}")
            weights.append(f"{job:7} {hashes[0]}\n{'alone':7} {alone[job][0]}")
            page = (hosts.folder / f"{job}.html").read_text()
            if hashes[0] not in page or "</html>" not in page:
                raise Failed(f"{job}.html is not the report of these weights")
            hosts.person("one", f"perennial audit {job} --store $STORE")
        hosts.recording.said("the weights, and those of each job that one worker trained alone:")
        hosts.recording.printed("\n".join(weights))
        self.ok("both reports were collected, both audits hold, and the weights are those of one worker alone")


def main(arguments):
    refuse_where_impossible()
    weed = os.environ.get("WEED", "weed")
    program = os.path.realpath(os.environ.get("PERENNIAL", "target/release/perennial"))
    if shutil.which(weed) is None:
        print(f"cannot run: no SeaweedFS at `{weed}` (WEED)")
        sys.exit(CANNOT_RUN)
    if not os.access(program, os.X_OK):
        print(f"cannot run: no program at {program}")
        sys.exit(2)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="perennial-life."))
    recording = Recording(arguments.record, arguments.aloud)
    with Network(len(HOSTS)) as network:
        hosts = Hosts(network, HOSTS, program, folder, recording)
        hosts.variables["WEED"] = os.path.realpath(shutil.which(weed))
        life = Life(hosts)
        try:
            keys = hosts.store("one", "life")
            subprocess.run([program, "data", "synth", folder / "pictures", *PICTURES], check=True, stdout=subprocess.DEVNULL)
            alone = life.alone()
            hosts.take_keys(keys)
            life.prepare()
            life.submit()
            life.watch()
            life.scale()
            life.drain()
            life.kill()
            life.collect(alone)
            recording.close()
        except Failed as error:
            print(f"FAILED life: {error}\n{hosts.last_words()}\nfiles are kept in {folder}", flush=True)
            sys.exit(1)
        finally:
            hosts.end()
    shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="FILE.cast", type=pathlib.Path, help="keep what a person would have seen")
    parser.add_argument("--aloud", action="store_true", help="print that as well")
    main(parser.parse_args())
