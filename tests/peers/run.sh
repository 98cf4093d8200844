#!/usr/bin/env bash
# Holds the program against real peers: SeaweedFS as its store, PyTorch and onnxruntime as its readers of weights,
# TensorBoard as its reader of curves, webdataset as that of its packs.
#
#     PERENNIAL=target/release/perennial PYTHON=VENV/bin/python WEED=VENV/bin/weed tests/peers/run.sh
#
# SEEDLINGS  a .tgz of real pictures, one folder a class; made-up ones are drawn where it is unset or not there
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${PERENNIAL:?the program}" "${PYTHON:?a Python 3 with the packages of requirements.txt and torch}" "${WEED:?the server of SeaweedFS}"
PERENNIAL=$(realpath "$PERENNIAL")
# shellcheck source-path=SCRIPTDIR source=seaweedfs.sh
source "$here/seaweedfs.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-peers.XXXXXX")
trainer=
cleanup() {
    if [[ -n $trainer ]]; then
        kill -KILL "$trainer" 2>/dev/null || true
    fi
    seaweedfs_stop
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

fail() {
    seaweedfs_explain
    echo "FAILED ${FUNCNAME[1]}: $*" >&2
    exit 1
}

# `value FILE EVENT KEY`: the key's value in the last event of that name; nothing where there is none.
value() {
    "$PYTHON" - "$@" <<'EOF'
import json, sys
path, event, key = sys.argv[1:]
records = [json.loads(line) for line in open(path) if line.endswith("\n")]
found = [record[key] for record in records if record.get("event") == event]
print(found[-1] if found else "")
EOF
}

# `both_hashes FILE`: of the weights and of their average, from the events of a run that finished.
both_hashes() {
    local raw ema
    raw=$(value "$1" finished weights_sha256)
    ema=$(value "$1" finished ema_sha256)
    [[ $raw =~ ^[0-9a-f]{64}$ && $ema =~ ^[0-9a-f]{64}$ ]] || return 1
    echo "$raw $ema"
}

# `train STORE WORKERS EVENTS [OPTION...]`
train() {
    local store=$1 workers=$2 events=$3
    shift 3
    "$PERENNIAL" train job.toml --data "$data" --store "$store" --workers "$workers" --threads 1 --json "$@" \
        >"$events" 2>"$events.err" || { tail -n 5 "$events" "$events.err" >&2; return 1; }
}

pictures() {
    if [[ -f ${SEEDLINGS:-} ]]; then
        mkdir pictures
        tar -xzf "$SEEDLINGS" -C pictures --strip-components=1
        echo "on the pictures of $(basename "$SEEDLINGS")"
    else
        "$PERENNIAL" data synth pictures --classes 6 --per-class 40 --size 64 --seed 1
    fi
    data=$work/pictures
    # Everything that is drawn at random is on, and the batch divides nothing.
    cat >job.toml <<'EOF'
name = "peers"
[data]
image_size = 32
[model]
drop_path = 0.1
[train]
epochs = 2
batch_size = 13
slots = 3
[augment]
cutout = 0.5
[mix]
mixup_alpha = 0.8
cutmix_alpha = 1.0
prob = 0.5
[ema]
decay = 0.9
[checkpoint]
every_steps = 2
EOF
}

s3_creates_once_and_refuses_strangers() {
    "$PYTHON" "$here/s3.py" check jobs
}

two_workers_on_s3_equal_one_on_a_folder() {
    local folder s3
    train "$work/store" 1 folder.jsonl --tensorboard live || fail "the run on a folder"
    train s3://jobs/two 2 s3.jsonl || fail "the run on S3"
    folder=$(both_hashes folder.jsonl) || fail "the run on a folder told no hashes"
    s3=$(both_hashes s3.jsonl) || fail "the run on S3 told no hashes"
    [[ $folder == "$s3" ]] || fail "$folder on a folder, $s3 on S3"
    "$PERENNIAL" checkpoint verify peers --store s3://jobs/two || fail "a checkpoint on S3 does not verify"
}

a_wrong_key_is_refused_in_one_sentence() {
    local status=0
    AWS_SECRET_ACCESS_KEY=not-the-secret timeout 60 "$PERENNIAL" train job.toml --data "$data" --store s3://jobs/wrong \
        --workers 2 --threads 1 --json >wrong.jsonl 2>wrong.err || status=$?
    [[ $status == 1 || $status == 2 ]] || fail "exit status $status: $(cat wrong.err)"
    [[ $(wc -l <wrong.err) == 1 && $(cat wrong.err) == error:* ]] || fail "not one sentence: $(cat wrong.err)"
    [[ -z $(value wrong.jsonl step loss) ]] || fail "it trained all the same"
    cat wrong.err
}

killed_in_mid_epoch_and_resumed_on_s3_it_ends_the_same() {
    local expected resumed from steps deadline=$((SECONDS + 120))
    : >killed.jsonl
    "$PERENNIAL" train job.toml --data "$data" --store s3://jobs/killed --workers 2 --threads 1 --json \
        --tensorboard killed >killed.jsonl 2>killed.err &
    trainer=$!
    until grep -q '"event":"checkpoint"' killed.jsonl; do
        kill -0 "$trainer" 2>/dev/null || fail "it ended before its first checkpoint: $(tail -n 3 killed.jsonl killed.err)"
        ((SECONDS < deadline)) || fail "no checkpoint within 120 s"
        sleep 0.02
    done
    kill -KILL "$trainer"
    wait "$trainer" 2>/dev/null || true
    trainer=
    [[ -z $(value killed.jsonl finished weights_sha256) ]] || fail "it finished before it was killed"

    train s3://jobs/killed 3 resumed.jsonl --resume --tensorboard killed || fail "the resumed run"
    from=$(value resumed.jsonl started resumed_from)
    steps=$(value resumed.jsonl job steps_per_epoch)
    ((from % steps != 0)) || fail "it resumed from step $from, which is not within an epoch of $steps steps"
    expected=$(both_hashes folder.jsonl)
    resumed=$(both_hashes resumed.jsonl) || fail "the resumed run told no hashes"
    [[ $resumed == "$expected" ]] || fail "$expected undisturbed, $resumed resumed"
    echo "killed at step $from of $steps in its epoch, resumed with 3 workers"
}

# `logits_agree OPTION`: exported weights in PyTorch and in the program, on every picture.
logits_agree() {
    local kind=$1 count
    count=$(find png -type f | wc -l)
    "$PERENNIAL" checkpoint export peers --store s3://jobs/two ${kind:+"$kind"} --out "weights$kind.safetensors" || return 1
    "$PERENNIAL" predict --weights "weights$kind.safetensors" --json --logits png >"predictions$kind.jsonl" || return 1
    "$PYTHON" "$here/check_logits.py" "weights$kind.safetensors" "predictions$kind.jsonl" . --size 32 --least "$count"
}

torch_loads_the_weights_and_agrees_on_logits() {
    "$PYTHON" "$here/pictures.py" png pictures png
    logits_agree "" || fail "the weights"
    logits_agree --ema || fail "the average of the weights"
}

# `onnx_agrees VARIANT [OPTION...]`: an exported model in onnxruntime and the weights in the program, on every picture.
onnx_agrees() {
    local model=$1.onnx count
    count=$(wc -l <predictions.jsonl)
    shift
    "$PERENNIAL" export-onnx "$@" "$model" >onnx.txt || return 1
    "$PYTHON" "$here/check_onnx.py" "$model" "predictions$kind.jsonl" . --least "$count"
}

onnxruntime_computes_the_same_logits_from_an_export() {
    local kind=
    (($(wc -l <predictions.jsonl) >= 100)) || fail "fewer than a hundred pictures"
    onnx_agrees free --weights weights.safetensors || fail "the weights, any batch"
    onnx_agrees fixed --weights weights.safetensors --batch 16 || fail "the weights, a fixed batch"
    onnx_agrees bytes peers --store s3://jobs/two --normalise || fail "the checkpoint, with normalisation inside"
    kind=--ema
    onnx_agrees average peers --store s3://jobs/two --ema || fail "the average of the weights"
    onnx_agrees fixed-bytes --weights weights--ema.safetensors --normalise --batch 7 || fail "the average, fixed, from bytes"
}

tensorboard_reads_the_numbers_of_the_job() {
    "$PYTHON" "$here/check_events.py" live/peers --events folder.jsonl || fail "the run as it happened"
    "$PERENNIAL" curves peers --store "$work/store" --tensorboard stored || fail "the stored run"
    "$PYTHON" "$here/check_events.py" stored/peers --log store/peers/log || fail "the stored run"
    # Steps that were taken again are there once.
    "$PYTHON" "$here/check_events.py" killed/peers --events killed.jsonl --events resumed.jsonl || fail "the resumed run"
}

webdataset_reads_the_shards() {
    "$PERENNIAL" data pack "$data" packed --shard-size 1 || fail "the packing"
    "$PYTHON" "$here/check_pack.py" packed "$data" || fail "webdataset reads something else"
}

a_pack_on_s3_trains_to_the_weights_of_its_folder() {
    local folder packed
    folder=$(both_hashes folder.jsonl)
    "$PERENNIAL" data pack "$data" s3://jobs/pictures --shard-size 1 || fail "the packing"
    "$PERENNIAL" data pack "$data" s3://jobs/pictures --shard-size 1 --json >again.json || fail "packing again"
    [[ $("$PYTHON" -c 'import json; print(json.load(open("again.json"))["found"] > 1)') == True ]] || fail "all was packed again"
    data=s3://jobs/pictures XDG_CACHE_HOME=$work PERENNIAL_STORE_FAULTS=seed=3,rate=0.1 \
        train s3://jobs/packed 2 packed.jsonl || fail "the run on a pack"
    packed=$(both_hashes packed.jsonl) || fail "the run on a pack told no hashes"
    [[ $folder == "$packed" ]] || fail "$folder on a folder, $packed on its pack"
}

check() {
    local start=$SECONDS
    "$1"
    echo "ok $1 ($((SECONDS - start)) s)"
}

pictures
seaweedfs_start jobs
check s3_creates_once_and_refuses_strangers
check two_workers_on_s3_equal_one_on_a_folder
check a_wrong_key_is_refused_in_one_sentence
check killed_in_mid_epoch_and_resumed_on_s3_it_ends_the_same
check torch_loads_the_weights_and_agrees_on_logits
check onnxruntime_computes_the_same_logits_from_an_export
check tensorboard_reads_the_numbers_of_the_job
check webdataset_reads_the_shards
check a_pack_on_s3_trains_to_the_weights_of_its_folder
