"""What the tests need of an S3 server that is not Perennial itself.

    python tests/peers/s3.py ports COUNT             free TCP ports of 127.0.0.1, one a line
    python tests/peers/s3.py bucket NAME PID         makes the bucket as soon as the server, process PID, answers
    python tests/peers/s3.py check NAME              does it refuse a second create of an object, and a wrong key?

The server and its keys come from the usual AWS_* variables.
"""

import os
import socket
import sys
import time

DEADLINE = 60.0  # seconds


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    return [s.getsockname()[1] for s in sockets]


def client(**overrides):
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30
    )
    arguments = {
        "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "region_name": os.environ["AWS_REGION"],
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "config": config,
    }
    return boto3.client("s3", **(arguments | overrides))


def make_bucket(name, pid):
    """Waits for the whole server: the first object is written before it counts as up."""
    from botocore.exceptions import BotoCoreError, ClientError

    s3, end = client(), time.monotonic() + DEADLINE
    while True:
        try:
            if name not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
                s3.create_bucket(Bucket=name)
            s3.put_object(Bucket=name, Key="up", Body=b"up")
            s3.delete_object(Bucket=name, Key="up")
            return
        except (BotoCoreError, ClientError) as error:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                raise SystemExit("the S3 server ended before it answered") from error
            if time.monotonic() > end:
                raise SystemExit(f"the S3 server did not answer within {DEADLINE:.0f} s: {error}") from error
            time.sleep(0.2)


def refused(what, status, action):
    from botocore.exceptions import ClientError

    try:
        action()
    except ClientError as error:
        seen = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if seen != status:
            raise SystemExit(f"{what}: status {seen}, should be {status}: {error}") from error
        print(f"ok {what}: {status} {error.response['Error']['Code']}", flush=True)
        return
    raise SystemExit(f"{what}: was let through")


def check(bucket):
    s3, key = client(), "check/object"
    create = lambda body: s3.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
    create(b"first")
    refused("a second create of an object", 412, lambda: create(b"second"))
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    if body != b"first":
        raise SystemExit(f"the refused write changed the object to {body!r}")
    stranger = client(aws_secret_access_key="not-the-secret")
    refused("a wrong secret key", 403, lambda: stranger.get_object(Bucket=bucket, Key=key))
    refused("a wrong secret key that writes", 403, lambda: stranger.put_object(Bucket=bucket, Key="other", Body=b""))
    s3.delete_object(Bucket=bucket, Key=key)


def main():
    match sys.argv[1:]:
        case ["ports", count]:
            print(*free_ports(int(count)), sep="\n")
        case ["bucket", name, pid]:
            make_bucket(name, int(pid))
        case ["check", name]:
            check(name)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
