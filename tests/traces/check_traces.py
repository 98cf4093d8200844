#!/usr/bin/env python3
"""Traces of a training over two worker processes, as a collector of OpenTelemetry receives them.

PERENNIAL  the program, built with the feature `otlp`. Needs grpcio.

The collector is a gRPC server in this process that reads the few fields of
opentelemetry/proto/collector/trace/v1/trace_service.proto that are looked at.
"""

import hashlib
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
from concurrent import futures

import grpc

PERENNIAL = os.environ.get("PERENNIAL", "target/release/perennial")
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PHASES = {"compute", "reduce", "optimizer"}
JOB = """
name = "traced"
[data]
image_size = 32
[train]
epochs = 2
batch_size = 16
slots = 4
"""


def fields(data):
    """(number, value) of each field of a message; values of fixed64 and varints are numbers."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            yield number, varint()
        elif wire == 1:
            (value,) = struct.unpack_from("<Q", data, at)
            at += 8
            yield number, value
        elif wire == 2:
            length = varint()
            yield number, data[at : at + length]
            at += length
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire}")


def attribute(data):
    known = dict(fields(data))
    kind, value = next(fields(known[2]))
    return known[1].decode(), value.decode() if kind == 1 else value


def span(data):
    found = {"attributes": {}, "parent": b""}
    for number, value in fields(data):
        match number:
            case 1:
                found["trace"] = value
            case 2:
                found["id"] = value
            case 4:
                found["parent"] = value
            case 5:
                found["name"] = value.decode()
            case 7:
                found["start"] = value
            case 8:
                found["end"] = value
            case 9:
                name, content = attribute(value)
                found["attributes"][name] = content
    return found


class Collector(grpc.GenericRpcHandler):
    def __init__(self):
        self.spans = []

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.export) if details.method == EXPORT else None

    def export(self, request, _context):
        for number, resource in fields(request):
            for number, scope in fields(resource):
                if number == 2:
                    self.spans += [span(value) for number, value in fields(scope) if number == 2]
        return b""


def main():
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[collector])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "job.toml").write_text(JOB)
        synth = [PERENNIAL, "data", "synth", folder / "pictures", "--classes", "4", "--per-class", "20", "--size", "32"]
        subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
        train = [PERENNIAL, "train", folder / "job.toml", "--data", folder / "pictures", "--store", folder / "store"]
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        subprocess.run(
            train + ["--workers", "2", "--threads", "1"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | endpoint,
        )
    server.stop(2).wait()

    by_step = {}
    for found in collector.spans:
        by_step.setdefault(found["attributes"]["step"], []).append(found)
    assert len(by_step) >= 6, f"traces of {len(by_step)} steps came"
    assert sorted(by_step) == list(range(1, len(by_step) + 1)), sorted(by_step)
    for step, spans in by_step.items():
        digest = hashlib.sha256(f"traced/{step}".encode()).digest()
        assert {it["trace"] for it in spans} == {digest[:16]}, f"step {step} is not one trace"
        (root,) = [it for it in spans if not it["parent"]]
        assert (root["name"], root["id"]) == ("step", digest[16:24]), root
        members = [it for it in spans if it["name"] == "member"]
        assert {it["parent"] for it in members} == {root["id"]}
        names = {it["attributes"]["member"] for it in members}
        assert len(names) == len(members) == 2, f"step {step} is of {names}"
        for member in members:
            below = [it for it in spans if it["parent"] == member["id"]]
            assert PHASES <= {it["name"] for it in below}, below
            at = member["start"]
            for phase in sorted(below, key=lambda it: it["start"]):
                assert phase["start"] == at <= phase["end"] <= member["end"], (member, below)
                at = phase["end"]
            assert phase["attributes"].keys() == {"job", "generation", "member", "step"}, phase
    print(f"{len(collector.spans)} spans of {len(by_step)} steps, each one trace of two processes")


if __name__ == "__main__":
    sys.exit(main())
