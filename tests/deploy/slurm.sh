#!/usr/bin/env bash
# The scripts of deploy/slurm on a real Slurm: its daemons on this machine, one node with as many processors as needed.
# Submit, scale, requeue, the coordinator cancelled and followed by another; the weights are those of one worker.
#
#     PERENNIAL=target/release/perennial tests/deploy/slurm.sh
#
# As root, with Debian's slurmctld, slurmd, slurm-client and munge; exit status 77 where these are not there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
deploy=$(realpath "$here/../../deploy/slurm")
: "${PERENNIAL:?the program}"
PERENNIAL=$(realpath "$PERENNIAL")

for program in slurmctld slurmd sbatch munged; do
    command -v "$program" >/dev/null || { echo "cannot run: no $program (packages slurmctld slurmd slurm-client munge)"; exit 77; }
done
[[ $EUID == 0 ]] || { echo "cannot run: the daemons of Slurm need root"; exit 77; }

work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-slurm.XXXXXX")
chmod 755 "$work"
daemons=()
cleanup() {
    local status=$?
    if ((status != 0)); then tail -n 12 "$work"/*.log >&2 || true; fi
    scancel --user root 2>/dev/null || true
    await "all jobs are gone" no_jobs 2>/dev/null || true
    kill -TERM "${daemons[@]}" 2>/dev/null || true
    wait "${daemons[@]}" 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
# `await WHAT COMMAND...`: until the command succeeds, at most five minutes.
await() {
    local what=$1 deadline=$((SECONDS + 300))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "FAILED: not within five minutes: $what" >&2; return 1; }
        sleep 0.2
    done
}
no_jobs() { [[ -z $(squeue --noheader) ]]; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# The cluster. Everything that it writes is below $work.
node=$(hostname -s)
export SLURM_CONF=$work/slurm.conf MUNGE_SOCKET=$work/munge/socket
mkdir "$work"/{state,spool,munge}
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
chmod 600 "$work/munge.key"
munged --foreground --force --key-file="$work/munge.key" --socket="$MUNGE_SOCKET" --pid-file="$work/munge/pid" \
    --seed-file="$work/munge/seed" --log-file="$work/munge.log" --num-threads=1 2>"$work/munged.log" &
daemons+=($!)
cat >"$SLURM_CONF" <<END
ClusterName=perennial
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthInfo=socket=$MUNGE_SOCKET
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
OverTimeLimit=1
NodeName=$node NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 State=UNKNOWN
PartitionName=all Nodes=$node Default=YES State=UP
END
await "munged listens" test -S "$MUNGE_SOCKET"
slurmctld -D >"$work/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D >"$work/slurmd.log" 2>&1 &
daemons+=($!)
trap cleanup EXIT
idle() { [[ $(sinfo --noheader --format=%T) == idle ]]; }
await "the node is idle" idle

# What a person does.
cd "$work"
mkdir bin
ln -s "$PERENNIAL" bin/perennial
port=$(free_port)
export PATH=$work/bin:$PATH STORE=$work/store PORT=$port COORDINATORS=https://$node:$port CERTS=$work/certs
perennial data synth pictures --classes 4 --per-class 150 --size 32 --seed 1 >/dev/null
cat >flowers.toml <<END
name = "flowers"
[data]
dir = "$work/pictures"
image_size = 32
[train]
epochs = ${EPOCHS:-16}
batch_size = 32
slots = 4
[checkpoint]
every_steps = 10
END
perennial train flowers.toml --set name=alone --store alone --workers 1 --json >alone.json
perennial certs init certs >/dev/null
perennial certs issue certs coordinator worker operator --host "$node" >/dev/null
export PERENNIAL_TLS_CA=certs/ca.pem PERENNIAL_TLS_CERT=certs/operator.pem PERENNIAL_TLS_KEY=certs/operator.key

status() { perennial status --store "$STORE" flowers --json; }
# `says KEY VALUE`: of the job's status.
says() { status | python3 -c 'import json, sys; told = json.load(sys.stdin); sys.exit(str(told.get(sys.argv[1])) != sys.argv[2])' "$@"; }
members() { status | python3 -c 'import json, sys; told = json.load(sys.stdin); print(sum(it["state"] == "member" for it in told["workers"]))'; }
has_members() { [[ $(members) == "$1" ]]; }
state_of() { squeue --noheader --array --jobs "$1" --format=%T 2>/dev/null; }
is() { [[ $(state_of "$1") == "$2" ]]; }
gone() { [[ -z $(state_of "$1") ]]; }
submit() { sbatch --parsable --mem=100M --cpus-per-task=1 "$@"; }

coordinator=$(submit --nodelist "$node" "$deploy/coordinator.sbatch")
workers=$(submit --array=0-1 "$deploy/worker.sbatch")
await "the queue is served" perennial submit flowers.toml --store "$STORE"
await "two workers train" has_members 2
echo "ok submit: a coordinator and two workers train"

more=$(submit --array=2-3 "$deploy/worker.sbatch")
await "four workers train" has_members 4
scancel "${more}_3"
await "a cancelled worker is gone" gone "${more}_3"
await "three workers train" has_members 3
grep -q "asked to leave twice\|leaves regardless" "perennial-worker-${more}_3.log" && { echo "FAILED: it did not leave in order" >&2; exit 1; }
echo "ok scale: to four workers and to three"

scontrol requeue "${workers}_1"
await "two workers train meanwhile" has_members 2
await "it waits" is "${workers}_1" PENDING
# Slurm lets a requeued job wait for two minutes, so that its node may recover.
scontrol update jobid="${workers}_1" StartTime=now
await "it is back" has_members 3
echo "ok requeue: a worker left and came back"

scancel "$coordinator"
await "the coordinator is gone" gone "$coordinator"
coordinator=$(submit --nodelist "$node" "$deploy/coordinator.sbatch")
await "the job goes on" says state running
echo "ok the coordinator was cancelled, another one goes on"

await "the job is finished" says state finished
hash_of() { python3 -c 'import json, sys; print([it["weights_sha256"] for it in map(json.loads, open(sys.argv[1])) if it.get("event") == "finished"][-1])' "$1"; }
perennial audit flowers --store "$STORE" --json >audit.json
perennial report flowers --store "$STORE" --json >report.json
alone=$(hash_of alone.json)
grep -q "$alone" report.json || { echo "FAILED: other weights than those of one worker, $alone" >&2; exit 1; }
echo "ok weights ${alone:0:12}, those of one worker"
