"""Machines that are network namespaces, on a [Switch] of their own.

`Network(n)` makes `pn-PID-1` to `pn-PID-n` with the addresses 10.77.0.1 to 10.77.0.n, and `pn-PID-0`, which holds the
other ends and the switch: the host's own network is not touched. PID is this process. A guard, a process of its own,
removes it all and ends what runs inside, when this process is done or dies. What a guard that was killed itself has left
is removed by the next network.
"""

import array
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from switch import Switch, address_of

MTU = 9000  # bytes; with 1500 the switch carries a quarter as much
SIOCETHTOOL, ETHTOOL_STSO = 0x8946, 0x1F
FOLDER = "/run/netns"
CANNOT_RUN = 77  # exit status of a test that this machine cannot run


def refuse_where_impossible():
    """Ends the process with a sentence where namespaces cannot be made."""
    missing = None
    if os.geteuid() != 0:
        missing = "network namespaces need root"
    elif shutil.which("ip") is None:
        missing = "network namespaces need the `ip` program (package iproute2)"
    else:
        probe = f"pn-{os.getpid()}-0"
        try:
            ip("netns", "add", probe)
            ip("netns", "delete", probe)
        except RuntimeError as error:
            missing = f"no network namespace can be made: {error}"
    if missing:
        print(f"cannot run: {missing}", flush=True)
        sys.exit(CANNOT_RUN)


class Network:
    """`count` machines, numbered from 1, and their switch. A context manager."""

    def __init__(self, count):
        self.prefix = f"pn-{os.getpid()}-"
        self.machines = range(1, count + 1)
        self.guard = None
        self.switch = None

    def __enter__(self):
        remove_leftovers()
        self.guard = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), self.prefix], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.switch:
            self.switch.stop()
        self.guard.stdin.close()
        if self.guard.wait() != 0:
            raise RuntimeError(f"the namespaces {self.prefix}* could not be removed")

    def name(self, machine):
        return f"{self.prefix}{machine}"

    def address(self, machine):
        return f"10.77.0.{machine}"

    def launcher(self, machine):
        """The words before a command that is to run on a machine. They become the command: its process id is theirs."""
        return ["ip", "netns", "exec", self.name(machine)]

    def run(self, machine, command, **options):
        """Starts a command on a machine. `options` as for Popen, which is returned."""
        return subprocess.Popen([*self.launcher(machine), *map(str, command)], **options)

    def socket(self, machine, kind):
        """A socket of this process on a machine's network."""
        made = []
        maker = threading.Thread(target=lambda: made.append(self._socket(machine, kind)))
        maker.start()
        maker.join()
        return made[0]

    def _socket(self, machine, kind):
        # A thread has a network namespace of its own, and a socket stays in that in which it was made.
        with open(f"{FOLDER}/{self.name(machine)}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name(machine)}")
        return socket.socket(socket.AF_INET, kind)

    def _make(self):
        ends = {machine: f"port{machine}" for machine in self.machines}
        self._add_namespace(0)
        for machine, end in ends.items():
            self._add_namespace(machine)
            inside = ["-n", self.name(machine)]
            ip("link", "add", end, "mtu", MTU, "netns", self.name(0), "type", "veth",
               "peer", "eth0", "mtu", MTU, "address", address_of(machine).hex(":"), "netns", self.name(machine))
            ip(*inside, "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
            ip("-n", self.name(0), "link", "set", end, "up")
            with self.socket(machine, socket.SOCK_DGRAM) as of_machine:
                send_single_packets(of_machine, "eth0")
        self.switch = Switch(self.launcher(0), ends)

    def _add_namespace(self, machine):
        name = self.name(machine)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        quiet = "test ! -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"
        subprocess.run([*self.launcher(machine), "sh", "-c", quiet], check=True)


def send_single_packets(of_machine, interface):
    """Turns segmentation offload off: a frame that is lost is to be one packet, not 64 KiB of them."""
    request = array.array("B", struct.pack("II", ETHTOOL_STSO, 0))
    where, _ = request.buffer_info()
    fcntl.ioctl(of_machine, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), where))


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`ip {' '.join(map(str, words))}`: {done.stderr.strip()}")
    return done.stdout


def existing(prefix):
    names = os.listdir(FOLDER) if os.path.isdir(FOLDER) else []
    return [name for name in names if name.startswith(prefix)]


def remove(prefix):
    """Ends every process in the namespaces of this prefix, then removes them."""
    names = existing(prefix)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        inside = [int(process) for name in names for process in ip("netns", "pids", name).split()]
        if not inside:
            break
        for process in inside:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    for name in names:
        ip("netns", "delete", name)


def remove_leftovers():
    """Of processes that are no more, guard included."""
    for name in existing("pn-"):
        owner = re.fullmatch(r"pn-(\d+)-\d+", name)
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            remove(f"pn-{owner[1]}-")


def guard(prefix):
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    sys.stdin.buffer.read()  # ends when the process that holds the other end closes it or is gone
    remove(prefix)


if __name__ == "__main__":
    guard(sys.argv[1])
