#!/usr/bin/env python3
"""A compose project against the Compose specification, and its commands against the program.

    PERENNIAL=... check_compose.py FOLDER
"""

import os
import pathlib
import re
import subprocess
import sys

import compose_spec
import yaml

from compose import load


def main(folder, program):
    project, text = load(folder)
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(project)).validate()
    services, volumes = project["services"], project["volumes"]
    for name, service in services.items():
        for other in service.get("depends_on", []):
            assert other in services, f"{name} depends on `{other}`, which is not there"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in volumes or source[0] in "./", f"{name} mounts `{source}`, which is not there"
        words = service.get("command", [])
        if words and words[0] in ("coordinator", "worker", "status"):
            answer = subprocess.run([program, *words, "--help"], capture_output=True, text=True)
            assert answer.returncode == 0, f"{name}: {answer.stderr}"
    files = {f"/certs/{role}.{end}" for role in ("coordinator", "worker", "operator") for end in ("pem", "key")}
    used = set(re.findall(r"/certs/[\w.]+", text))
    assert used <= files | {"/certs/ca.pem", "/certs/viewer.pem"}, used - files


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), os.environ["PERENNIAL"])
