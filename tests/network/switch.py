"""A switch between veth ends that loses, delays and cuts what it is told to, where the kernel has no netem.

One AF_PACKET socket a port. A frame goes to the port of its destination address (`address_of`), a broadcast to all
others; nothing is learned. Frames travel with their virtio header (PACKET_VNET_HDR): checksums that the sender left to
the hardware stay the receiver's business, so no offload has to be fixed.

Run as a process by [Switch], inside the namespace that holds the ends: the test's own work does not slow it down. It
ends when its standard input does.
"""

import heapq
import json
import os
import random
import select
import socket
import subprocess
import sys
import time

SOL_PACKET, PACKET_STATISTICS, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 6, 15, 23
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
VNET_HEADER = 10  # bytes before the frame
LARGEST = VNET_HEADER + 14 + 65535
BURST = 64  # frames that one port may send before the others have their turn
RECEIVE_BUFFER = 256 << 20  # bytes a port: the switch itself is to lose nothing


def address_of(port):
    """The Ethernet address behind a port."""
    return bytes([2, 0x50, 0x4E, 0, 0, port])


class Policy:
    """What happens to a frame. Pure: no clock, no sockets."""

    def __init__(self):
        self.heal()

    def heal(self):
        """Everything passes, at once."""
        self.blocked = set()
        self.delay_s = 0.0
        self.lost_share = 0.0
        self.random = random.Random(0)

    def block(self, senders, receivers):
        """Nothing that comes from `senders` reaches `receivers`; the other direction stays as it is."""
        self.blocked |= {(a, b) for a in senders for b in receivers}

    def cut(self, one_side, other_side):
        """Nothing passes between two sets of ports."""
        self.block(one_side, other_side)
        self.block(other_side, one_side)

    def delay(self, seconds):
        """Every frame takes this long."""
        self.delay_s = seconds

    def lose(self, share, seed):
        """Every frame is lost with this probability."""
        self.lost_share = share
        self.random = random.Random(seed)

    def fate(self, sender, receiver):
        """`cut`, `lost`, or the seconds until the frame is delivered."""
        if (sender, receiver) in self.blocked:
            return "cut"
        if self.lost_share and self.random.random() < self.lost_share:
            return "lost"
        return self.delay_s


class Ports:
    """The loop: from sockets through the policy to sockets."""

    def __init__(self, interfaces):
        """`interfaces`: port number to name of the veth end."""
        self.policy = Policy()
        self.counts = dict.fromkeys(["passed", "bytes", "cut", "lost", "delayed", "refused", "overrun"], 0)
        self.waiting = []  # heap of (due, order of arrival, port, frame)
        self.arrivals = 0
        self.sockets = {port: packet_socket(name) for port, name in interfaces.items()}
        self.port_of = {address_of(port): port for port in interfaces}
        self.poll = select.epoll()
        self.readers = {}
        for port, ear in self.sockets.items():
            self.poll.register(ear, select.EPOLLIN)
            self.readers[ear.fileno()] = port

    def serve(self, commands, answers):
        """Until `commands` ends. A line is `[method of the policy, arguments...]`; each is answered with the counts."""
        os.set_blocking(commands, False)
        self.poll.register(commands, select.EPOLLIN)
        buffer = memoryview(bytearray(LARGEST))
        rest = b""
        while True:
            patience = max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else -1
            for file, _ in self.poll.poll(patience):
                if file in self.readers:
                    self.drain(self.readers[file], buffer)
                    continue
                piece = os.read(commands, 65536)
                if not piece:
                    return
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self.obey(*json.loads(line))
                    answers.write(json.dumps(self.counts) + "\n")
                    answers.flush()
            self.deliver_due()

    def obey(self, method=None, *arguments):
        if method is not None:
            getattr(self.policy, method)(*arguments)
        for ear in self.sockets.values():  # the kernel sets its count to zero whenever it is read
            statistics = ear.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            self.counts["overrun"] += int.from_bytes(statistics[4:8], sys.byteorder)

    def drain(self, sender, buffer):
        ear = self.sockets[sender]
        for _ in range(BURST):
            try:
                length = ear.recv_into(buffer)
            except BlockingIOError:
                return
            frame = buffer[:length]
            receiver = self.port_of.get(bytes(frame[VNET_HEADER : VNET_HEADER + 6]))
            receivers = self.sockets if receiver is None else (receiver,)
            for receiver in receivers:
                if receiver != sender:
                    self.forward(sender, receiver, frame)

    def forward(self, sender, receiver, frame):
        fate = self.policy.fate(sender, receiver)
        if isinstance(fate, str):
            self.counts[fate] += 1
        elif fate == 0:
            self.deliver(receiver, frame)
        else:
            self.counts["delayed"] += 1
            self.arrivals += 1
            heapq.heappush(self.waiting, (time.monotonic() + fate, self.arrivals, receiver, bytes(frame)))

    def deliver_due(self):
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, _, receiver, frame = heapq.heappop(self.waiting)
            self.deliver(receiver, frame)

    def deliver(self, receiver, frame):
        try:
            self.sockets[receiver].send(frame)
        except OSError:  # the receiver's queue is full, or its namespace is going
            self.counts["refused"] += 1
            return
        self.counts["passed"] += 1
        self.counts["bytes"] += len(frame) - VNET_HEADER


def packet_socket(interface):
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    ear.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    ear.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    ear.setblocking(False)
    ear.bind((interface, ETH_P_ALL))
    return ear


class Switch:
    """The switch as its user holds it: each method takes effect before it returns, and returns the counts so far.

    `passed`, `bytes`: delivered. `cut`, `lost`, `delayed`: what the policy did. `refused`, `overrun`: lost without a
    policy that says so; a test may want to see 0.
    """

    def __init__(self, launcher, interfaces):
        """`launcher`: the words that run a command in the namespace of the `interfaces` (port number to name)."""
        words = [f"{port}={name}" for port, name in interfaces.items()]
        self.process = subprocess.Popen(
            [*launcher, sys.executable, os.path.abspath(__file__), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # ctrl-c is for the test
        )
        self.counts()

    def cut(self, one_side, other_side):
        return self._tell("cut", list(one_side), list(other_side))

    def block(self, senders, receivers):
        return self._tell("block", list(senders), list(receivers))

    def delay(self, seconds):
        return self._tell("delay", seconds)

    def lose(self, share, seed):
        return self._tell("lose", share, seed)

    def heal(self):
        return self._tell("heal")

    def counts(self):
        return self._tell()

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _tell(self, *words):
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the switch ended with status {self.process.wait()}")
        return json.loads(answer)


def main(words):
    interfaces = dict(word.split("=") for word in words)
    ports = Ports({int(port): name for port, name in interfaces.items()})
    try:
        os.nice(-10)  # where workers take all cores, the network is not what slows down
    except OSError:
        pass
    ports.serve(sys.stdin.fileno(), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
