#!/usr/bin/env python3
"""Kubernetes objects against the published schemas, and what no schema knows: that they fit each other and the program.

    PERENNIAL=... check_manifests.py FILE...      # each what one `kubectl apply` would get
"""

import json
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = ["1.27", "1.32"]  # of Kubernetes: the oldest that deploy/ promises, and kubectl's
OURS = pathlib.Path(__file__).parent / "schemas"


class Unfit(Exception):
    """What is wrong with an object."""


def objects(path):
    found = [document for document in yaml.safe_load_all(path.read_text()) if document]
    if not found:
        raise Unfit("it is empty")
    return found


def check_schema(item):
    group = item["apiVersion"].rpartition("/")[0]
    own = OURS / f"{group}_{item['kind']}.json"
    if own.exists():
        jsonschema.validate(item, json.loads(own.read_text()))
        return
    for version in VERSIONS:
        kubernetes_validate.validate(item, version, strict=True)


def pods(items):
    """Pairs of a workload and the spec of its pods."""
    for item in items:
        template = item.get("spec", {}).get("template")
        if template:
            yield item, template["spec"], template["metadata"]["labels"]


def check_together(items, program):
    named = {(item["kind"], item["metadata"]["name"]): item for item in items}
    for workload, pod, labels in pods(items):
        selector = workload["spec"]["selector"]["matchLabels"]
        if not selector.items() <= labels.items():
            raise Unfit(f"{workload['metadata']['name']} does not select its own pods")
        if ("Service", workload["spec"]["serviceName"]) not in named:
            raise Unfit(f"{workload['metadata']['name']} has no service `{workload['spec']['serviceName']}`")
        budgets = [it["spec"]["selector"]["matchLabels"] for (kind, _), it in named.items() if kind == "PodDisruptionBudget"]
        if sum(it.items() <= labels.items() for it in budgets) != 1:
            raise Unfit(f"{workload['metadata']['name']} does not have one disruption budget")
        policies = [it["spec"]["podSelector"]["matchLabels"] for (kind, _), it in named.items() if kind == "NetworkPolicy"]
        if not any(it.items() <= labels.items() for it in policies):
            raise Unfit(f"{workload['metadata']['name']} has no network policy")
        if pod.get("enableServiceLinks") is not False:
            raise Unfit("variables of services would be taken for settings of the program")
        secrets = {name for kind, name in named if kind == "Secret"}
        for container in pod["containers"]:
            check_container(container, pod, named, secrets, program)


def check_container(container, pod, named, secrets, program):
    words = container["args"]
    answer = subprocess.run([program, *words, "--help"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise Unfit(f"the program does not take {words}: {answer.stderr.strip()}")
    known = {variable["name"] for variable in container["env"]}
    for source in container["envFrom"]:
        for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if key in source and (kind, source[key]["name"]) in named:
                known |= set(named[kind, source[key]["name"]].get("data", {}))
            elif key == "configMapRef" and key in source:
                raise Unfit(f"there is no config map `{source[key]['name']}`")
    for used in re.findall(r"\$\((\w+)\)", " ".join(words)):
        if used not in known:
            raise Unfit(f"nothing sets `{used}`, which {words} uses")
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    if mounts != volumes:
        raise Unfit(f"volumes {volumes} are mounted as {mounts}")
    flags = dict(word.split("=", 1) for word in words if "=" in word)
    if "--listen" in flags:
        listens = int(flags["--listen"].rpartition(":")[2])
        if [port["containerPort"] for port in container["ports"]] != [listens]:
            raise Unfit("the port that is told is not the one at which it listens")
    if "--grace" in flags and int(flags["--grace"]) >= pod["terminationGracePeriodSeconds"]:
        raise Unfit("the pod is killed before the worker's grace is over")
    files = {variable["value"].rpartition("/")[2] for variable in container["env"] if variable["name"].startswith("PERENNIAL_TLS")}
    for volume in pod["volumes"]:
        name = volume.get("secret", {}).get("secretName")
        if name in secrets and set(named["Secret", name]["data"]) != files:
            raise Unfit(f"secret `{name}` does not have the files {files}")


def main(program, paths):
    failed = 0
    for path in map(pathlib.Path, paths):
        try:
            items = objects(path)
            for item in items:
                check_schema(item)
            check_together(items, program)
            print(f"ok {path.stem}: {len(items)} objects")
        except Exception as error:  # whatever it is, the next file is looked at
            failed += 1
            where = list(getattr(error, "absolute_path", []))
            print(f"FAILED {path.stem}: {getattr(error, 'message', error)} {where or ''}")
    return failed


if __name__ == "__main__":
    import os

    sys.exit(1 if main(os.environ["PERENNIAL"], sys.argv[1:]) else 0)
