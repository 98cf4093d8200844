"""Processes on hosts that are network namespaces, and what their coordinators tell."""

import json
import os
import pathlib
import shlex
import signal
import ssl
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "network"))

from cluster import PORT, Failed, wait_until  # noqa: E402 (its folder is known only now)

PATIENCE = 90  # seconds for anything
SEAWEEDFS = HERE.parent / "peers" / "seaweedfs.sh"


class Hosts:
    """The machines of a network with names, and a folder that all of them see."""

    def __init__(self, network, names, program, folder, recording):
        self.network, self.folder, self.recording = network, folder, recording
        self.machines = {name: number for number, name in enumerate(names, 1)}
        self.processes = {}
        self.read = {}  # of a coordinator: the place in its output, and its events so far
        programs = folder / "bin"
        programs.mkdir()
        (programs / "perennial").symlink_to(program)
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PERENNIAL_", "AWS_"))},
            "PATH": f"{programs}:{os.environ['PATH']}",
        }

    def address(self, host):
        return self.network.address(self.machines[host])

    def speak_as(self, role):
        """The variables of somebody with a certificate."""
        return {
            "PERENNIAL_TLS_CA": "certs/ca.pem",
            "PERENNIAL_TLS_CERT": f"certs/{role}.pem",
            "PERENNIAL_TLS_KEY": f"certs/{role}.key",
        }

    def start(self, host, name, command, role, shown=None):
        """A process that goes on, with its output in `name`.out and .err."""
        if shown is not None:
            self.recording.typed(host, shown or f"{command} &")
        with open(self.folder / f"{name}.out", "w") as out, open(self.folder / f"{name}.err", "w") as errors:
            self.processes[name] = self.network.run(
                self.machines[host],
                shlex.split(command),
                cwd=self.folder,
                env=self.variables | self.speak_as(role),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        return self.processes[name]

    def person(self, host, command, quietly=False, lines=None):
        """What somebody with the role `operator` types; its output. `lines`: how many of them are shown."""
        words = ["bash", "-c", command]
        done = self.network.run(
            self.machines[host],
            words,
            cwd=self.folder,
            env=self.variables | self.speak_as("operator"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, errors = done.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            done.kill()
            raise Failed(f"`{command}` did not end within {PATIENCE} s") from None
        if done.returncode != 0:
            raise Failed(f"`{command}` ended with {done.returncode}: {errors.strip()}")
        if not quietly:
            self.recording.typed(host, command)
            self.recording.printed("\n".join(out.splitlines()[:lines]))
        return out

    def store(self, host, bucket):
        """Starts SeaweedFS with a bucket; its keys are everybody's from now on."""
        keys = self.folder / "keys"
        script = f'source {SEAWEEDFS} && seaweedfs_start {bucket} && env | grep ^AWS_ >{keys}.new && mv {keys}.new {keys} && wait'
        variables = {"SEAWEEDFS_IP": self.address(host), "PYTHON": sys.executable, "TMPDIR": str(self.folder)}
        with open(self.folder / "store.err", "w") as errors:
            self.processes["store"] = self.network.run(
                self.machines[host], ["bash", "-c", script], env=self.variables | variables, stdin=subprocess.DEVNULL,
                stdout=errors, stderr=errors,
            )
        return keys

    def take_keys(self, keys):
        self.wait_until(keys.exists, "SeaweedFS")
        self.variables |= dict(line.split("=", 1) for line in keys.read_text().splitlines())

    def get(self, host, path, role=None):
        """Status and body of a GET by HTTPS from the coordinator on `host`, asked from the first machine."""
        context = ssl.create_default_context(cafile=self.folder / "certs/ca.pem")
        if role:
            context.load_cert_chain(self.folder / f"certs/{role}.pem", self.folder / f"certs/{role}.key")
        with self.network.socket(1, 1) as plain:
            plain.settimeout(10)
            plain.connect((self.address(host), PORT))
            with context.wrap_socket(plain, server_hostname=self.address(host)) as stream:
                stream.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: stream.recv(65536), b"")).decode()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), body

    def signal(self, name, number):
        self.processes[name].send_signal(number)

    def kill(self, name):
        self.signal(name, signal.SIGKILL)
        self.processes.pop(name).wait()

    def leave(self, name):
        """Waits until a process that was asked to has ended."""
        process = self.processes.pop(name)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} did not leave within {PATIENCE} s") from None
        if status != 0:
            raise Failed(f"{name} ended with {status} instead of 0")

    def events(self, coordinator):
        """What a coordinator has told so far."""
        place, events = self.read.get(coordinator, (0, []))
        with open(self.folder / f"{coordinator}.out", "rb") as file:
            file.seek(place)
            text = file.read()
        whole = text.rpartition(b"\n")[0]
        events += [json.loads(line) for line in whole.splitlines() if line]
        self.read[coordinator] = (place + len(whole) + (1 if whole else 0), events)
        return events

    def wait_until(self, holds, what, patience=PATIENCE):
        return wait_until(holds, what, self.processes, patience)

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()

    def last_words(self):
        words = []
        for file in sorted(self.folder.glob("*.err")):
            words += [f"   {file.stem}: {line}" for line in file.read_text(errors="replace").splitlines()[-4:]]
        return "\n".join(words)
