#!/usr/bin/env python3
"""Every command, variable and metric of ours that deploy/ names is one that the program knows.

    PERENNIAL=... check_words.py ROOT
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys


LEAST = 15  # commands: fewer say that they are not found any more


def commands(path):
    """The command lines of the program in a file, each as words. A variable counts as a 1, the instance of a unit as `cpu`."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    if path.suffix == ".md":
        blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
        inline = re.findall(r"`(perennial [^`]+)`", text)
        lines = "\n".join(blocks).splitlines() + inline
    else:
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", "-- #"))]
    for line in lines:
        line = re.sub(r"\$\{\w+:-(\w+)\}|\$\{?\w+\}?", lambda found: found[1] or "1", line).replace("%i", "cpu")
        for found in re.finditer(r"(?:^\s*|ExecStart=\S*/|exec |&& |\|\| |[`(;|] ?)perennial (?=[a-z])([^|;&#>`]*)", line):
            words = found[1].replace('"', "").replace("'", "")
            yield shlex.split(words)


def check(root, program):
    failed = []
    checked = set()
    folder = root / "deploy"
    sources = [(root / "cli/src"), (root / "coordinator/src")]
    code = "\n".join(path.read_text() for source in sources for path in source.rglob("*.rs"))
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text()
        # Commands in manifests are lists of words: check_manifests.py and check_compose.py look at those.
        lines = commands(path) if path.suffix not in (".json", ".yaml", ".tpl") else []
        for words in lines:
            line = tuple("0" if word in ("JOB", "N", "...") else word for word in words)
            if line in checked:
                continue
            checked.add(line)
            answer = subprocess.run([program, *line, "--help"], capture_output=True, text=True)
            if answer.returncode != 0:
                why = answer.stderr.strip().splitlines()[0]
                failed.append(f"{path.relative_to(root)}: `perennial {' '.join(words)}`: {why}")
        for variable in set(re.findall(r"PERENNIAL_[A-Z][A-Z_]*", text)) - {"PERENNIAL_IMAGE"}:
            if f'"{variable}"' not in code:
                failed.append(f"{path.relative_to(root)}: nothing reads the variable {variable}")
        for metric in set(re.findall(r"perennial_[a-z0-9_]+", text)):
            name = re.sub(r"_(total|bucket|sum|count)$", "", metric.removeprefix("perennial_"))
            if f'"{name}"' not in code and metric not in code:
                failed.append(f"{path.relative_to(root)}: nothing tells the metric {metric}")
    return len(checked), failed


if __name__ == "__main__":
    count, failed = check(pathlib.Path(sys.argv[1]), os.environ["PERENNIAL"])
    for line in failed:
        print(f"FAILED words: {line}")
    print(f"{'FAILED' if failed or count < LEAST else 'ok'} words: {count} commands of the program")
    sys.exit(1 if failed or count < LEAST else 0)
