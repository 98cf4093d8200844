#!/usr/bin/env python3
"""The network under the tests does what its tests say of it: `python3 tests/network/test_switch.py`, as root.

Prints a line a check and what the network carries; exits with 1 on a failure, with 77 where it cannot run.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

from namespaces import Network, existing, refuse_where_impossible, remove_leftovers
from switch import SO_RCVBUFFORCE, Policy

PORT = 5000
SILENCE = 0.3  # seconds in which a datagram would have come
MEGABYTE = 1 << 20


class Machines:
    """A datagram socket on each machine of a network."""

    def __init__(self, network):
        self.network = network
        self.sockets = {machine: network.socket(machine, socket.SOCK_DGRAM) for machine in network.machines}
        for machine, of_machine in self.sockets.items():
            of_machine.bind((network.address(machine), PORT))
            of_machine.settimeout(SILENCE)
            of_machine.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, MEGABYTE)

    def send(self, sender, receiver, words):
        self.sockets[sender].sendto(words, (self.network.address(receiver), PORT))

    def hears(self, sender, receiver):
        """Whether a datagram arrives."""
        words = os.urandom(8)
        self.send(sender, receiver, words)
        try:
            while self.sockets[receiver].recv(64) != words:
                pass
            return True
        except TimeoutError:
            return False

    def heard(self):
        """Every pair of which the second hears the first."""
        pairs = [(a, b) for a in self.sockets for b in self.sockets if a != b]
        return {(a, b) for a, b in pairs if self.hears(a, b)}

    def everyone(self):
        return {(a, b) for a in self.sockets for b in self.sockets if a != b}


class Victim:
    """Another process that holds a network on which a program runs."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--wait-for-death"], stdout=subprocess.PIPE, text=True
        )
        self.prefix, guard, inside = self.process.stdout.readline().split()
        self.guard, self.inside = int(guard), int(inside)
        assert len(existing(self.prefix)) == 3 and not self.is_gone()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def is_gone(self):
        return not existing(self.prefix) and not os.path.exists(f"/proc/{self.inside}")


def be_victim():
    with Network(2) as network:
        process = network.run(2, ["sleep", "1000"])
        print(network.prefix, network.guard.pid, process.pid, flush=True)
        signal.pause()


def stream(network, a, b):
    """Two ends of a TCP connection between two machines."""
    listener = network.socket(a, socket.SOCK_STREAM)
    listener.bind((network.address(a), 0))
    listener.listen()
    near = network.socket(b, socket.SOCK_STREAM)
    near.connect(listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def round_trip(near, far, times):
    """Median seconds for a byte there and back."""
    trips = []
    for _ in range(times):
        start = time.monotonic()
        near.send(b"?")
        far.recv(1)
        far.send(b"!")
        near.recv(1)
        trips.append(time.monotonic() - start)
    return statistics.median(trips)


def throughput(near, far, megabytes):
    """Megabytes (2^20 bytes) a second, and whether all bytes are as they were sent."""
    pattern = os.urandom(MEGABYTE)
    sender = threading.Thread(target=lambda: [near.sendall(pattern) for _ in range(megabytes)])
    start = time.monotonic()
    sender.start()
    intact = True
    for _ in range(megabytes):
        intact &= far.recv(MEGABYTE, socket.MSG_WAITALL) == pattern
    return megabytes / (time.monotonic() - start), intact


def difference(before, after, *names):
    return [after[name] - before[name] for name in names]


def wait_for(condition, patience=20):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"it did not come within {patience} s"
        time.sleep(0.02)


# === What is checked ===


def everyone_hears_everyone(machines):
    assert machines.heard() == machines.everyone()


def a_cut_separates_the_sides_and_nothing_else(machines):
    machines.network.switch.cut([1, 2], [3, 4])
    assert machines.heard() == {(1, 2), (2, 1), (3, 4), (4, 3)}, machines.heard()
    assert machines.network.switch.heal()["cut"] > 0
    assert machines.heard() == machines.everyone()


def one_way_loss_leaves_the_other_way(machines):
    machines.network.switch.block([3], [1, 2, 4])
    assert machines.heard() == machines.everyone() - {(3, 1), (3, 2), (3, 4)}, machines.heard()
    machines.network.switch.heal()


def a_seed_decides_what_is_lost(_machines):
    def fates(seed):
        policy = Policy()
        policy.lose(0.05, seed)
        return [policy.fate(1, 2) for _ in range(2000)]

    assert fates(7) == fates(7) != fates(8)
    assert 50 < fates(7).count("lost") < 150
    assert set(fates(7)) == {"lost", 0}


def what_is_lost_is_counted_and_does_not_arrive(machines):
    switch = machines.network.switch
    before = switch.lose(0.05, 7)
    for _ in range(400):
        machines.send(1, 2, b"?")
    wait_for(lambda: sum(difference(before, switch.counts(), "passed", "lost")) >= 400)
    passed, lost = difference(before, switch.heal(), "passed", "lost")
    machines.send(1, 2, b"end")
    arrived = sum(1 for _ in iter(lambda: machines.sockets[2].recv(64), b"end"))
    assert arrived == passed and lost > 0, (arrived, passed, lost)


def a_stream_survives_loss_and_keeps_its_bytes(machines):
    near, far = stream(machines.network, 1, 2)
    before = machines.network.switch.lose(0.05, 1)
    speed, intact = throughput(near, far, 64)
    assert intact and machines.network.switch.heal()["lost"] > before["lost"]
    print(f"   5 % loss: {speed:.0f} MiB/s")


def delay_is_that_of_each_way_and_ends(machines):
    near, far = stream(machines.network, 1, 2)
    machines.network.switch.delay(0.2)
    slow = round_trip(near, far, 3)
    speed, intact = throughput(near, far, 2)
    machines.network.switch.heal()
    assert slow >= 0.4 and intact, slow
    print(f"   200 ms each way: round trip {slow * 1e3:.0f} ms, {speed:.1f} MiB/s")
    assert round_trip(near, far, 9) < 0.2


def it_carries_all_and_loses_nothing_of_its_own(machines):
    near, far = stream(machines.network, 1, 2)
    trip = round_trip(near, far, 500)
    speed, intact = throughput(near, far, 512)
    counts = machines.network.switch.counts()
    assert intact and counts["refused"] == counts["overrun"] == 0, counts
    print(f"   undisturbed: round trip {trip * 1e6:.0f} us, {speed:.0f} MiB/s")


def a_test_that_is_killed_leaves_nothing(_machines):
    with Victim() as victim:
        victim.process.kill()
        victim.process.wait()
        wait_for(victim.is_gone)


def what_a_killed_guard_leaves_is_removed_by_the_next(_machines):
    with Victim() as victim:
        os.kill(victim.guard, signal.SIGKILL)
        victim.process.kill()
        victim.process.wait()
        assert not victim.is_gone()
        remove_leftovers()
        wait_for(victim.is_gone)


CHECKS = [
    everyone_hears_everyone,
    a_cut_separates_the_sides_and_nothing_else,
    one_way_loss_leaves_the_other_way,
    a_seed_decides_what_is_lost,
    what_is_lost_is_counted_and_does_not_arrive,
    a_stream_survives_loss_and_keeps_its_bytes,
    delay_is_that_of_each_way_and_ends,
    it_carries_all_and_loses_nothing_of_its_own,
    a_test_that_is_killed_leaves_nothing,
    what_a_killed_guard_leaves_is_removed_by_the_next,
]


def main():
    refuse_where_impossible()
    failed = 0
    with Network(4) as network:
        machines = Machines(network)
        for check in CHECKS:
            start = time.monotonic()
            try:
                check(machines)
                print(f"ok {check.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
            except Exception as error:  # whatever it is, the other checks are to be seen as well
                print(f"FAILED {check.__name__}: {error!r}", flush=True)
                failed += 1
                network.switch.heal()
    sys.exit(failed > 0)


if __name__ == "__main__":
    be_victim() if "--wait-for-death" in sys.argv else main()
