"""Real processes: a coordinator of a queue and its workers."""

import json
import os
import socket
import subprocess
import time

PERENNIAL = os.environ["PERENNIAL"]
DEADLINE = 60


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % listener.getsockname()[1]


def perennial(*words):
    """What `perennial --json WORDS` says, a value for each line."""
    told = subprocess.run([PERENNIAL, "--json", *words], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in told.stdout.splitlines()]


def wait_until(what, holds):
    deadline = time.monotonic() + DEADLINE
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"it never came that {what}")
        time.sleep(0.05)


class Cluster:
    """Ends its processes with the block in which it is used."""

    def __init__(self, name, options=(), worker_options=(), scheme="http"):
        self.store = os.path.abspath(f"store-{name}")
        self.address = free_address()
        self.url = f"{scheme}://{self.address}"
        self.options, self.worker_options = options, worker_options
        self.log = open(f"{name}.log", "w")
        self.coordinator, self.workers = None, []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        for process in [self.coordinator, *self.workers]:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.log.close()

    def _spawn(self, *words):
        return subprocess.Popen([PERENNIAL, *words], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def start(self):
        self.coordinator = self._spawn("coordinator", "--store", self.store, "--listen", self.address, *self.options)
        wait_until("the coordinator listens", self.listens)

    def listens(self):
        assert self.coordinator.poll() is None, "the coordinator ended"
        host, port = self.address.split(":")
        with socket.socket() as dialed:
            return dialed.connect_ex((host, int(port))) == 0

    def add_workers(self, count):
        for _ in range(count):
            worker = self._spawn("worker", "--coordinator", self.url, "--threads", "1", *self.worker_options)
            self.workers.append(worker)
