#!/usr/bin/env python3
"""The command lines of deploy/systemd run as systemd would run them, where it is not there to do so: a coordinator and a worker with
their variables and credentials, and SIGTERM.

    PERENNIAL=... check_units.py UNITS CERTS      # a worker waits in the pool and leaves; the coordinator ends
"""

import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

PATIENCE = 30  # seconds


def free_port():
    with socket.socket() as ear:
        ear.bind(("127.0.0.1", 0))
        return ear.getsockname()[1]


def service(path):
    """The section [Service]: each key with its values."""
    keys, section = {}, ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith("#") and section == "[Service]":
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


def start(path, instance, certs, settings, program, port):
    """The unit's process. `settings` are those of its EnvironmentFile."""
    keys = service(path)
    loaded = dict(value.split(":", 1) for value in keys["LoadCredential"])
    for name, file in loaded.items():
        assert (certs / pathlib.Path(file).name).exists() and name == pathlib.Path(file).name, f"{path.name}: no such credential {file}"
    specifiers = {"%d": str(certs), "%i": instance, "%C": str(certs)}

    def resolved(text):
        for name, value in specifiers.items():
            text = text.replace(name, value)
        assert "%" not in text, f"{path.name}: what is `{text}`"
        return text

    variables = dict(os.environ) | settings
    for value in keys.get("Environment", []):
        variables |= dict(word.split("=", 1) for word in shlex.split(resolved(value)))
    [line] = keys["ExecStart"]
    words = shlex.split(resolved(line).replace("0.0.0.0:7400", f"0.0.0.0:{port}"))
    for name, value in settings.items():
        words = [word.replace(f"${{{name}}}", value) for word in words]
    assert not any("$" in word for word in words), f"{path.name}: nothing sets a variable of {words}"
    return subprocess.Popen([program, *words[1:]], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ends(process, statuses):
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in statuses, f"{process.args} ended with {process.returncode}: {errors}"


def main(units, certs, program):
    port = free_port()
    address = f"localhost:{port}"
    with tempfile.TemporaryDirectory() as store:
        person = {f"PERENNIAL_TLS_{key}": str(certs / file) for key, file in (("CA", "ca.pem"), ("CERT", "operator.pem"), ("KEY", "operator.key"))}

        def waiting():
            told = subprocess.run(
                [program, "--json", "top", "--count", "1", "--coordinator", f"https://{address}"], env=os.environ | person, capture_output=True, text=True
            )
            return told.returncode == 0 and len(json.loads(told.stdout.splitlines()[0])["queue"]["workers"]) == 1

        coordinator = start(units / "perennial-coordinator.service", "", certs, {"ADVERTISE": address, "STORE": store}, program, port)
        worker = start(
            units / "perennial-worker@.service", "cpu", certs, {"COORDINATORS": f"https://{address}", "HOST": "127.0.0.1"}, program, port
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not waiting():
                assert time.monotonic() < deadline and worker.poll() is None and coordinator.poll() is None, "the worker did not come"
                time.sleep(0.1)
            ends(worker, [0])
            ends(coordinator, [0])
        finally:
            for process in (worker, coordinator):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), os.environ["PERENNIAL"])
