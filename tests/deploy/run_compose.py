#!/usr/bin/env python3
"""The services of a compose project as it describes them, without its images: each a process on a machine that is a network
namespace, in a root of its own with the volumes, variables, user and read-only files that it is given, and what the Containerfile
says of the image. Then what the README does: workers are added, the coordinator is killed, a job is submitted and reported.

    PERENNIAL=... WEED=... run_compose.py DEPLOY

Needs root and SeaweedFS; exit status 77 where either is not there. What the images themselves hold is not in it.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "network"))

from cluster import Failed, wait_until  # noqa: E402
from compose import load  # noqa: E402
from namespaces import CANNOT_RUN, Network, refuse_where_impossible  # noqa: E402

PATIENCE = 120  # seconds for anything
OWN = "10001"
# A root with the programs of this machine, and nothing else that is not asked for. $1: its folder, $2: its files, $3: a file of
# mounts, $4: whether it is read-only; then the command.
ROOT = """
root=$1 files=$2 mounts=$3 read_only=$4; shift 4
hostname "$(cat "$files/hostname")"
mount -t tmpfs -o mode=755 root "$root"
mkdir "$root"/usr "$root"/etc "$root"/proc "$root"/dev "$root"/tmp "$root"/work "$root"/cache
for link in bin sbin lib lib64; do cp -P "/$link" "$root/$link"; done
for part in usr etc proc dev; do mount --rbind "/$part" "$root/$part"; done
mount --bind "$files/programs" "$root/usr/local/bin"
mount --bind "$PERENNIAL" "$root/usr/local/bin/perennial"
mount --bind "$WEED" "$root/usr/local/bin/weed"
mount --bind "$files/hosts" "$root/etc/hosts"
while read -r from to mode; do
    mkdir -p "$root$to"
    mount --bind "$from" "$root$to"
    test "$mode" != ro || mount -o remount,bind,ro "$root$to"
done <"$mounts"
test "$read_only" != True || mount -o remount,ro "$root"
exec chroot "$root" sh -c 'cd /work && exec "$@"' sh "$@"
"""


class Image:
    """What the Containerfile says of the image, in the stage that both of its kinds come from."""

    def __init__(self, containerfile):
        text = containerfile.read_text()
        stage = text[text.index(" AS runtime\n") : text.index("\nFROM runtime AS cuda")]

        def said(word):
            return re.findall(rf"^{word} (.+)$", stage, re.MULTILINE)

        self.entrypoint = json.loads(said("ENTRYPOINT")[0])
        self.environment = dict(line.split("=", 1) for line in said("ENV"))
        self.user = said("USER")[0]
        assert said("WORKDIR") == ["/work"] and said("VOLUME") == ["/cache"] and said("STOPSIGNAL") == ["SIGTERM"]


class Services:
    """The project's services that run."""

    def __init__(self, network, deploy, folder):
        self.network, self.folder = network, folder
        self.own = folder / "compose"
        shutil.copytree(deploy / "compose", self.own)
        self.project, _ = load(self.own)
        self.image = Image(deploy / "container/Containerfile")
        self.running, self.machines = {}, {}
        for name in self.project["volumes"]:
            (folder / "volumes" / name).mkdir(parents=True)
        # As the image has the folder that it is mounted on.
        os.chown(folder / "volumes/cache", int(OWN), int(OWN))
        (folder / "programs").mkdir()
        for program in ("perennial", "weed"):
            (folder / "programs" / program).touch()

    def machine(self, name):
        return self.machines.setdefault(name, len(set(self.machines.values())) + 1)

    def start(self, service, name=None, command=None):
        """A container of the service; `command` instead of its own."""
        name = name or service
        said = self.project["services"][service]
        files = self.folder / name
        files.mkdir()
        (files / "programs").symlink_to(self.folder / "programs")
        (files / "root").mkdir()
        address = self.network.address(self.machine(name))
        names = {other: self.network.address(number) for other, number in self.machines.items()}
        (files / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{at} {other}\n" for other, at in names.items()))
        (files / "hostname").write_text(name)
        (files / "mounts").write_text("".join(self.mount(volume) for volume in said.get("volumes", [])))

        seaweedfs = "seaweedfs" in said["image"]
        user = said.get("user", "0:0" if seaweedfs else self.image.user)
        entrypoint = said.get("entrypoint", ["weed"] if seaweedfs else self.image.entrypoint)
        words = [*entrypoint, *(command or said.get("command", []))]
        if words[:2] == ["weed", "server"]:
            # The disk of the machine that tests may be nearly full: by itself the server wants a hundredth of it.
            words.append("-volume.minFreeSpace=256MiB")
        words = [word.replace("$$", "$") for word in words]
        user, group = user.split(":")
        as_user = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        if said.get("cap_drop") == ["ALL"]:
            as_user += ["--bounding-set=-all", "--inh-caps=-all"]
        if "no-new-privileges:true" in said.get("security_opt", []):
            as_user.append("--no-new-privs")
        variables = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/work"}
        variables |= {} if seaweedfs else self.image.environment
        variables |= {key: str(value) for key, value in said.get("environment", {}).items()}
        inside = ["env", "-i", *(f"{key}={value}" for key, value in variables.items()), *as_user, *words]
        root = [files / "root", files, files / "mounts", str(said.get("read_only", False))]
        with open(files / "out", "w") as out, open(files / "err", "w") as errors:
            process = self.network.run(
                self.machine(name),
                ["unshare", "--mount", "--uts", "sh", "-euc", ROOT, "sh", *root, *inside],
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            )
        self.running[name] = process
        return process

    def mount(self, volume):
        source, target, *mode = volume.split(":")
        source = self.own / source if source[0] in "./" else self.folder / "volumes" / source
        return f"{source} {target} {'ro' if mode == ['ro'] else 'rw'}\n"

    def up(self, service):
        """Starts the service once those that it depends on are as it asks."""
        conditions = self.project["services"][service].get("depends_on", [])
        for other in conditions:
            if other not in self.machines:
                self.up(other)
            if isinstance(conditions, dict) and conditions[other]["condition"] == "service_completed_successfully":
                if other in self.running:
                    self.leave(other)
        self.start(service)

    def healthy(self, service):
        """Whether the health check of the service says so."""
        [kind, *words] = self.project["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.network.run(self.machine(service), words, stderr=subprocess.DEVNULL).wait() == 0

    def operator(self, *words):
        """`docker compose run --rm operator WORDS`: what it prints."""
        name = f"operator-{sum(it.startswith('operator-') for it in self.machines)}"
        self.machines[name] = self.machine("operator")
        self.start("operator", name, list(words))
        self.leave(name)
        return (self.folder / name / "out").read_text()

    def leave(self, name):
        process = self.running.pop(name)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed(f"{name} did not end within {PATIENCE} s") from None
        if status != 0:
            raise Failed(f"{name} ended with {status}")

    def wait_until(self, holds, what):
        wait_until(holds, what, self.running, PATIENCE)

    def last_words(self):
        files = sorted(self.folder.glob("*/err"))
        return "".join(f"   {it.parent.name}: {line}\n" for it in files for line in it.read_text(errors="replace").splitlines()[-4:])


def live(services, program):
    subprocess.run(
        [program, "data", "synth", services.own / "pictures", "--classes", "2", "--per-class", "8", "--size", "32"],
        check=True, stdout=subprocess.DEVNULL,
    )
    # Whoever needs a name knows its address from the start.
    for name in ("seaweedfs", "coordinator", "standby"):
        services.machine(name)
    services.up("seaweedfs")
    services.up("coordinator")
    services.up("standby")
    services.up("worker")
    replicas = services.project["services"]["worker"]["deploy"]["replicas"]
    workers = ["worker", *(f"worker-{number}" for number in range(2, replicas + 2))]
    for more in workers[1:replicas]:
        services.start("worker", more)
    services.wait_until(lambda: services.healthy("coordinator") and services.healthy("standby"), "both coordinators listen")

    def told(*words):
        return json.loads(services.operator(*words, "--json") or "null")

    def present():
        return len(told("top", "--count", "1")["queue"]["workers"])

    services.wait_until(lambda: present() == replicas, f"{replicas} workers are there")
    services.start("worker", workers[-1])
    services.wait_until(lambda: present() == replicas + 1, "one worker more is there")
    print(f"ok compose: SeaweedFS, its bucket, certificates, a coordinator and {replicas} workers, then one more")

    services.running["coordinator"].kill()
    services.running.pop("coordinator").wait()

    def submitted():
        try:
            return services.operator("submit", "flowers.toml")
        except Failed:
            # Nobody rules before the standby has found that the coordinator is silent.
            return None

    services.wait_until(submitted, "the standby takes a job")
    services.wait_until(lambda: told("status", "flowers")["state"] == "finished", "the job is finished")
    report = services.operator("report", "flowers", "--format", "html")
    if "</html>" not in report:
        raise Failed(f"the report is {report[:200]!r}")
    print("ok compose: the coordinator was killed, the standby served a job to its report")

    for name in [*workers, "standby"]:
        services.running[name].send_signal(signal.SIGTERM)
        services.leave(name)
    print("ok compose: at SIGTERM workers and coordinator end with 0")


def main(deploy):
    refuse_where_impossible()
    weed = shutil.which(os.environ.get("WEED", "weed"))
    if weed is None:
        print("cannot run: no SeaweedFS (WEED)")
        sys.exit(CANNOT_RUN)
    program = os.path.realpath(os.environ["PERENNIAL"])
    os.environ |= {"WEED": os.path.realpath(weed), "PERENNIAL": program}
    folder = pathlib.Path(tempfile.mkdtemp(prefix="perennial-compose."))
    folder.chmod(0o755)
    with Network(9) as network:
        services = Services(network, deploy, folder)
        try:
            live(services, program)
        except Failed as error:
            print(f"FAILED compose: {error}\n{services.last_words()}", end="")
            sys.exit(1)
        finally:
            for process in services.running.values():
                process.kill()
                process.wait()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
