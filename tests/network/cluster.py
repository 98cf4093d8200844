"""A coordinator and workers, each on a machine of its own."""

import json
import shlex
import subprocess
import threading
import time

PORT = 7400


class Failed(Exception):
    """What a scenario asks for did not come true; the words say what."""


def wait_until(holds, what, processes, patience):
    """What `holds()` is once that is something: within `patience` seconds, and before any of `processes` ends."""
    deadline = time.monotonic() + patience
    while not (found := holds()):
        for name, process in processes.items():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode} before {what}")
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not come within {patience} s")
        time.sleep(0.05)
    return found


class Cluster:
    """A job that runs: the coordinator on machine 1, workers on the machines after it. A context manager, at whose end
    no process is left.

    `certificates`: the folder of an authority whose certificates encrypt everything; none: all in plain text.
    `events`: what the coordinator has printed so far, each with `at`, the seconds of the monotonic clock.
    """

    def __init__(self, network, program, job, folder, workers, certificates):
        self.network = network
        self.folder = folder
        self.changed = threading.Condition()
        self.events = []
        folder.mkdir()
        address = f"{network.address(1)}:{PORT}"
        scheme = "https" if certificates else "http"

        def speaking(role):
            if not certificates:
                return "--insecure"
            own = f"{certificates}/{role}"
            return f"--tls-ca {certificates}/ca.pem --tls-cert {own}.pem --tls-key {own}.key"

        self.coordinator = self._start(
            1,
            "coordinator",
            f"{program} --json coordinator {job} --listen {address} --store {folder}/store --workers {workers} {speaking('coordinator')}",
        )
        self.workers = [
            self._start(
                machine,
                f"worker{machine - 1}",
                f"{program} worker --coordinator {scheme}://{address} --host {network.address(machine)} --threads 1 {speaking('worker')}",
            )
            for machine in range(2, 2 + workers)
        ]
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, process in self._processes():
            process.kill()
            process.wait()
        self.reader.join()

    def events_of(self, name):
        with self.changed:
            return [event for event in self.events if event["event"] == name]

    def global_step(self):
        """The number of steps committed."""
        steps = self.events_of("step")
        return steps[-1]["global_step"] if steps else 0

    def members(self):
        """How many workers train together now."""
        started = self.events_of("started")
        return started[-1]["workers"] if started else 0

    def wait_until(self, holds, what, patience):
        """Waits until `holds()`, at most `patience` seconds; looks again after each event, and ten times a second."""
        deadline = time.monotonic() + patience
        while not holds():
            self._refuse_if_ended(what)
            if time.monotonic() > deadline:
                raise Failed(f"{what} did not come within {patience} s; the last event: {self._last()}")
            with self.changed:
                self.changed.wait(0.1)

    def _refuse_if_ended(self, what):
        if self.events_of("finished"):
            raise Failed(f"the job ended before {what}")
        for name, process in self._processes():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode} before {what}; the last event: {self._last()}")

    def _processes(self):
        yield "the coordinator", self.coordinator
        yield from ((f"worker {number}", worker) for number, worker in enumerate(self.workers, 1))

    def finish(self, patience):
        """Waits for the end of the job and of every process; the hash of the weights."""
        self.reader.join(patience)
        if self.reader.is_alive():
            raise Failed(f"the job did not end within {patience} s; the last event: {self._last()}")
        for name, process in self._processes():
            try:
                status = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                raise Failed(f"{name} did not end with the job") from None
            if status != 0:
                raise Failed(f"{name} ended with {status}; the last event: {self._last()}")
        return self.events_of("finished")[0]["weights_sha256"]

    def last_words(self):
        """The end of what each process wrote to stderr."""
        words = []
        for file in sorted(self.folder.glob("*.err")):
            lines = file.read_text(errors="replace").splitlines()[-5:]
            words += [f"   {file.stem}: {line}" for line in lines]
        return "\n".join(words)

    def _start(self, machine, name, command):
        with open(self.folder / f"{name}.err", "w") as errors:
            output = subprocess.PIPE if name == "coordinator" else errors
            return self.network.run(machine, shlex.split(command), stdin=subprocess.DEVNULL, stdout=output, stderr=errors)

    def _read(self):
        for line in self.coordinator.stdout:
            event = json.loads(line)
            event["at"] = time.monotonic()
            with self.changed:
                self.events.append(event)
                self.changed.notify_all()

    def _last(self):
        with self.changed:
            return self.events[-1] if self.events else "none"
