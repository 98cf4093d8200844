#!/usr/bin/env bash
# Everything that only a real GPU can tell, in one call of less than ten minutes: a row for each question, printed as it is
# answered. A row that cannot be run says so and why; one that failed makes the exit status 1.
#
#     benches/gpu/prepare.sh                                  # anywhere
#     PYTHON=VENV/bin/python benches/gpu/run.sh [LOGS]        # on a machine with an NVIDIA GPU
#
# LOGS       a folder for what each command said (default: target/gpu/logs)
# DEVICE     the GPU (default: cuda:0)
# PYTHON     a Python with torch for that GPU; without it the rows beside PyTorch are not run
# SEEDLINGS  a .tgz of pictures, one folder a class; some are drawn where it is unset or not there
# CUDA_PATH  the folder of CUDA, as for the program itself
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."

programs=$PWD/target/gpu
logs=$(realpath -m "${1:-target/gpu/logs}")
device=${DEVICE:-cuda:0}
PERENNIAL=$programs/perennial
work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-gpu.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$logs"
failed=0

# `row QUESTION ANSWER`
row() { printf '| %-44s | %s |\n' "$1" "$2"; }

not_run() { row "$1" "not run: $2"; }

wrong() {
    row "$1" "FAILED: $2"
    failed=1
}

# `logged NAME SECONDS COMMAND...`: stdout in LOGS/NAME.out, stderr in LOGS/NAME.err.
logged() {
    local name=$1 limit=$2
    shift 2
    timeout "$limit" "$@" >"$logs/$name.out" 2>"$logs/$name.err"
}

# `number FILE KEY`: of the last JSON object with that key.
number() { grep -o "\"$2\":[^,}]*" "$1" | tail -n 1 | cut -d: -f2- | tr -d '"'; }

last_words() { tail -n 2 "$logs/$1.err" "$logs/$1.out" 2>/dev/null | tr '\n' ' ' | cut -c1-300; }

# --- 1. what it computes is right ---

tested() {
    local name=$1 question=$2
    if PERENNIAL_TEST_DEVICE=$device logged "test-$name" 180 "$programs/test-$name"; then
        row "$question" "$(grep -o '[0-9]* passed' "$logs/test-$name.out") in f32"
    else
        wrong "$question" "$(grep -m 1 -E 'panicked|off by' -A1 "$logs/test-$name.out" | tr '\n' ' ' | cut -c1-300)"
    fi
}

right() {
    tested device "1. operations and their gradients"
    tested casvit "1. CAS-ViT against its official numbers"
    not_run "1. the same in bf16" "there are no kernels in bf16 for GPUs"
}

# --- 2. and 3. training: the same weights, whoever computes ---

pictures() {
    if [[ -f ${SEEDLINGS:-} ]]; then
        mkdir "$work/pictures" && tar -xzf "$SEEDLINGS" -C "$work/pictures" --strip-components=1
    else
        "$PERENNIAL" data synth "$work/pictures" --classes 12 --per-class 60 --size 64 --seed 1 >/dev/null
    fi
}

# `train NAME WORKERS [OPTION...]`
train() {
    local name=$1 workers=$2
    shift 2
    logged "$name" 150 "$PERENNIAL" train docs/seedlings.toml --data "$work/pictures" --store "$work/$name" --device "$device" \
        --workers "$workers" --threads 4 --set train.epochs=3 --set train.slots=4 --json "$@"
}

same_weights() {
    local workers hash expected=
    for workers in 1 2 4; do
        if ! train "train-$workers" "$workers"; then
            wrong "2. training, $workers processes" "$(last_words "train-$workers")"
            continue
        fi
        hash=$(number "$logs/train-$workers.out" weights_sha256)
        expected=${expected:-$hash}
        if [[ $hash == "$expected" ]]; then
            row "2. training, $workers processes of $((4 / workers)) slots" "weights ${hash:0:16}"
        else
            wrong "2. training, $workers processes" "weights ${hash:0:16} instead of ${expected:0:16}"
        fi
    done
}

# One of two processes is killed in mid-run; another is started in its place.
killed() {
    local question="3. a process is killed, sums over TCP" trainer worker lost= recovered= line now hash
    "$PERENNIAL" train docs/seedlings.toml --data "$work/pictures" --store "$work/killed" --device "$device" --workers 2 --threads 4 \
        --set train.epochs=3 --set train.slots=4 --json > >(
        while IFS= read -r line; do echo "$EPOCHREALTIME $line"; done >"$logs/killed.out"
    ) 2>"$logs/killed.err" &
    trainer=$!
    for _ in {1..1200}; do
        grep -q '"event":"step"' "$logs/killed.out" 2>/dev/null && break
        kill -0 "$trainer" 2>/dev/null || break
        sleep 0.1
    done
    worker=$(pgrep -P "$trainer" -f -- ' worker ' | head -n 1)
    now=$EPOCHREALTIME
    if [[ -z $worker ]] || ! kill -KILL "$worker"; then
        wrong "$question" "there was no process to kill"
        return
    fi
    if ! wait "$trainer"; then
        wrong "$question" "$(last_words killed)"
        return
    fi
    lost=$(grep -m 1 '"event":"worker_lost"' "$logs/killed.out" | cut -d' ' -f1)
    recovered=$(grep '"event":"step"' "$logs/killed.out" | awk -v lost="${lost:-0}" '$1 > lost { print $1; exit }')
    hash=$(number "$logs/killed.out" weights_sha256)
    if [[ -z $lost || -z $recovered ]]; then
        wrong "$question" "nobody was missed"
    elif [[ -e $logs/train-1.out && $hash != "$(number "$logs/train-1.out" weights_sha256)" ]]; then
        wrong "$question" "weights ${hash:0:16}"
    else
        row "$question" "same weights; next step after $(awk "BEGIN { printf \"%.2f\", $recovered - $now }") s"
    fi
}

# --- 4. and 5. speed and memory beside PyTorch ---

# `beside MODEL`: pictures a second and memory at 224 pixels, batch 256.
beside() {
    local model=$1 work=(--model "$1" --image-size 224 --batch 256 --steps 10) ours theirs way options
    if ! logged "step-$model" 120 "$PERENNIAL" bench step --device "$device" --slots 1 --json "${work[@]}"; then
        wrong "4. $model at 224 px, f32" "$(last_words "step-$model")"
        return
    fi
    ours=$(number "$logs/step-$model.out" images_per_second)
    row "4. $model at 224 px, batch 256, f32" "$(printf '%.0f' "$ours") images/s"
    row "5. its memory" "$(printf '%.0f' "$(number "$logs/step-$model.out" device_memory_mb)") MB held"
    not_run "4. $model in bf16" "there are no kernels in bf16 for GPUs"
    if [[ -z ${PYTHON:-} ]]; then
        not_run "4. $model in PyTorch" "PYTHON is not set"
        return
    fi
    for way in f32 f32-compiled amp amp-compiled; do
        options=()
        [[ $way == amp* ]] && options+=(--bf16)
        [[ $way == *compiled ]] && options+=(--compile)
        if logged "torch-$model-$way" 120 "$PYTHON" benches/peers/step_torch.py --device "$device" "${work[@]}" "${options[@]}"; then
            theirs=$(number "$logs/torch-$model-$way.out" images_per_second)
            row "4. $model in PyTorch, $way" "$(printf '%.0f' "$theirs") images/s; ours in f32 is $(awk "BEGIN { printf \"%.2f\", $ours / $theirs }") times that"
            row "5. its memory" "$(printf '%.0f' "$(number "$logs/torch-$model-$way.out" device_memory_mb)") MB held"
        else
            not_run "4. $model in PyTorch, $way" "$(last_words "torch-$model-$way")"
        fi
    done
}

# --- 6. where a step's time goes ---

profile() {
    local command=("$PERENNIAL" bench step --device "$device" --model casvit_xs --image-size 224 --batch 256 --slots 1 --steps 3)
    if ! command -v nsys >/dev/null; then
        not_run "6. a step by kernel" "there is no nsys"
    elif logged profile 120 nsys profile --force-overwrite true -o "$work/step" "${command[@]}" &&
        logged profile-kernels 60 nsys stats --report cuda_gpu_kern_sum --format csv "$work/step.nsys-rep"; then
        row "6. a step by kernel" "in $logs/profile-kernels.out"
    else
        wrong "6. a step by kernel" "$(last_words profile)"
    fi
}

if [[ ! -x $PERENNIAL ]]; then
    echo "there is no $PERENNIAL: run benches/gpu/prepare.sh first" >&2
    exit 2
fi
"$PERENNIAL" doctor | tee "$logs/doctor.out"
grep -q "^$device  *[^ -]" "$logs/doctor.out" || { echo "$device cannot be used" >&2; exit 1; }
nvidia-smi >"$logs/nvidia-smi.out" 2>&1
right
if pictures; then
    same_weights
    killed
else
    wrong "2. training" "no pictures"
fi
not_run "3. sums over NCCL, exact beside fast" "the training loop sums over TCP"
for model in casvit_xs casvit_t; do
    beside "$model"
done
not_run "4. share of the memory-bandwidth floor" "the bytes of a step on a GPU are not counted"
profile
exit "$failed"
