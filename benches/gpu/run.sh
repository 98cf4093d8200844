#!/usr/bin/env bash
# Everything that only a real GPU can tell, in one call of less than ten minutes: a row for each question, printed as it is
# answered. A row that cannot be run says so and why; one that failed makes the exit status 1. At the end stands which of the
# six questions were answered: right, speed and memory beside others, recovery, and where the time goes.
#
#     benches/gpu/prepare.sh                                  # anywhere
#     PYTHON=VENV/bin/python benches/gpu/run.sh [LOGS]        # on a machine with an NVIDIA GPU
#
# LOGS       a folder for what each command said (default: target/gpu/logs)
# SECONDS_ALL  how long all of it may take (default: 585)
# DEVICE     the GPU (default: cuda:0)
# PYTHON     a Python with torch for that GPU (default: python3, if it is one); without it the rows beside PyTorch are not run
# SEEDLINGS  a .tgz of pictures, one folder a class (default: those of prepare.sh); some are drawn where there are none
# CUDA_PATH  the folder of CUDA. Where it is unset the first is taken with which a kernel runs: the system's, PyTorch's, prepare.sh's
# PERENNIAL_NCCL  the file of NCCL, where the loader does not find it; PyTorch's own where that has one
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.." || exit

programs=$PWD/target/gpu
logs=$(realpath -m "${1:-target/gpu-logs}")
device=${DEVICE:-cuda:0}
all=${SECONDS_ALL:-585}
PERENNIAL=$programs/perennial
work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-gpu.XXXXXX")
processes=()
cleanup() {
    local process
    for process in "${processes[@]}"; do
        kill -KILL "$process" 2>/dev/null
    done
    rm -rf "$work"
}
trap cleanup EXIT
mkdir -p "$logs"
failed=0
# Of each question, by its number: rows that were answered, that were not run, that failed.
declare -A answered=() missing=() wrongs=()

print_row() { printf '| %-44s | %s |\n' "$1" "$2" | tee -a "$logs/table.md"; }

# `row QUESTION ANSWER`
row() {
    print_row "$1" "$2"
    answered[${1:0:1}]=1
}

not_run() {
    print_row "$1" "not run: $2"
    missing[${1:0:1}]=1
}

wrong() {
    print_row "$1" "FAILED: $2"
    wrongs[${1:0:1}]=1
    failed=1
}

# Which of the six questions this call has answered.
conclude() {
    local number said
    for number in 1 2 3 4 5 6; do
        said="not run"
        [[ -n ${answered[$number]:-} ]] && said="answered"
        [[ -n ${answered[$number]:-} && -n ${missing[$number]:-} ]] && said="answered in part"
        [[ -n ${wrongs[$number]:-} ]] && said="FAILED"
        echo "question $number: $said" | tee -a "$logs/table.md"
    done
    echo "$SECONDS s on $(grep -m 1 " $device " "$logs/doctor.out" | tr -s ' ')" | tee -a "$logs/table.md"
}

# `seconds MOST`: that many, or those that are left.
seconds() {
    local left=$((all - SECONDS))
    echo $((left < $1 ? (left > 0 ? left : 0) : $1))
}

# `logged NAME SECONDS COMMAND...`: stdout in LOGS/NAME.out, stderr in LOGS/NAME.err.
logged() {
    local name=$1 limit
    limit=$(seconds "$2")
    shift 2
    if ((limit < 5)); then
        echo "no time is left" >"$logs/$name.err"
        : >"$logs/$name.out"
        return 125
    fi
    timeout --kill-after 5 "$limit" "$@" >"$logs/$name.out" 2>"$logs/$name.err"
}

# `unanswered QUESTION STATUS WORDS`: a command ended so.
unanswered() {
    case $2 in
    125) not_run "$1" "no time is left" ;;
    124 | 137) wrong "$1" "it did not end in time: $3" ;;
    *) wrong "$1" "$3" ;;
    esac
}

# `number FILE KEY`: of the last JSON object with that key.
number() { grep -o "\"$2\":[^,}]*" "$1" | tail -n 1 | cut -d: -f2- | tr -d '"'; }

last_words() { tail -q -n 2 "$logs/$1.err" "$logs/$1.out" 2>/dev/null | tr '\n' ' ' | cut -c1-300; }

# `share A B`: A / B in two digits.
share() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }

# --- what there is ---

unpack() {
    [[ ! -x $PERENNIAL && -f target/gpu.tar.xz ]] || return
    if command -v xz >/dev/null; then
        tar -C target -xJf target/gpu.tar.xz
    else
        python3 -c 'import tarfile; tarfile.open("target/gpu.tar.xz").extractall("target")'
    fi
}

find_python() {
    [[ -z ${PYTHON:-} ]] || return
    python3 -c 'import torch' 2>/dev/null && PYTHON=python3
}

# PyTorch's folder `nvidia/$1`.
of_pytorch() {
    "${PYTHON:-false}" -c "import importlib; print(list(importlib.import_module('nvidia.$1').__path__)[0])" 2>/dev/null
}

find_nccl() {
    local file
    [[ -z ${PERENNIAL_NCCL:-} ]] || return
    file=$(of_pytorch nccl)/lib/libnccl.so.2
    [[ -f $file ]] && export PERENNIAL_NCCL=$file
}

# The first CUDA with which a kernel is compiled, loaded and run.
find_cuda() {
    local folder libraries=${LD_LIBRARY_PATH:-} candidates=("${CUDA_PATH:-}")
    if [[ -z ${CUDA_PATH:-} ]]; then
        candidates=(/usr/local/cuda "$(of_pytorch cu13)" "$programs/cuda/nvidia/cu13")
    fi
    for folder in "${candidates[@]}"; do
        [[ -f $folder/include/cuda_fp16.h ]] || continue
        export CUDA_PATH=$folder LD_LIBRARY_PATH=$folder/lib64:$folder/lib:$libraries
        if logged first-step 60 "$PERENNIAL" bench step --device "$device" --image-size 32 --batch 4 --slots 1 --steps 1 --json; then
            echo "CUDA of $folder, NCCL ${PERENNIAL_NCCL:-where the loader finds it}, PyTorch of ${PYTHON:-nowhere}"
            return
        fi
        echo "$folder: $(last_words first-step)"
    done
    return 1
}

# --- 1. what it computes is right ---

tested() {
    local name=$1 question=$2 status=0
    PERENNIAL_TEST_DEVICE=$device PERENNIAL_TEST_FIXTURES=$programs/fixtures logged "test-$name" 120 "$programs/test-$name" || status=$?
    if [[ $status == 0 ]]; then
        row "$question" "$(grep -o '[0-9]* passed' "$logs/test-$name.out") in f32, bf16 and f16"
    else
        unanswered "$question" "$status" "$(grep -m 1 -E 'panicked|off' -A1 "$logs/test-$name.out" | tr '\n' ' ' | cut -c1-300)"
    fi
}

right() {
    tested device "1. operations and their gradients"
    tested casvit "1. CAS-ViT against its official numbers"
}

# --- 2. and 3. training: the same weights, whoever computes ---

pictures() {
    local archive=${SEEDLINGS:-$programs/pictures.tgz}
    if [[ -f $archive ]]; then
        mkdir "$work/pictures" && tar -xzf "$archive" -C "$work/pictures" --strip-components=1
    else
        "$PERENNIAL" data synth "$work/pictures" --classes 12 --per-class 60 --size 64 --seed 1 >/dev/null
    fi
}

# `train NAME WORKERS [OPTION...]`
train() {
    local name=$1 workers=$2
    shift 2
    logged "$name" 120 "$PERENNIAL" train docs/seedlings.toml --data "$work/pictures" --store "$work/$name" --device "$device" \
        --workers "$workers" --threads 4 --set train.epochs=3 --set train.slots=4 --json "$@"
}

same_weights() {
    local workers hash status question expected=
    for workers in 1 2 4; do
        question="2. training, $workers processes of $((4 / workers)) slots" status=0
        train "train-$workers" "$workers" || status=$?
        if [[ $status != 0 ]]; then
            unanswered "$question" "$status" "$(last_words "train-$workers")"
            continue
        fi
        hash=$(number "$logs/train-$workers.out" weights_sha256)
        expected=${expected:-$hash}
        if [[ $hash == "$expected" ]]; then
            row "$question" "weights ${hash:0:16}"
        else
            wrong "$question" "weights ${hash:0:16} instead of ${expected:0:16}"
        fi
    done
}

# `recovered QUESTION NAME SINCE SECONDS`: the weights and the first step after the event.
recovered() {
    local question=$1 name=$2 hash took
    took=$(grep '"event":"step"' "$logs/$name.out" | awk -v now="$3" -v after="$4" '$1 > after { printf "%.2f", $1 - now; exit }')
    hash=$(number "$logs/$name.out" weights_sha256)
    if [[ -z $took ]]; then
        wrong "$question" "nobody was missed"
    elif [[ -z $hash || $hash != "$(number "$logs/train-1.out" weights_sha256)" ]]; then
        wrong "$question" "weights ${hash:0:16}"
    elif awk "BEGIN { exit !($took > 3) }"; then
        wrong "$question" "same weights, but the next step came after $took s instead of 3"
    else
        row "$question" "same weights; next step after $took s (at most 3)"
    fi
}

# A child of the process $1 that is a worker.
worker_of() {
    local folder
    for folder in /proc/[0-9]*; do
        if [[ $(sed 's/.*) . //; s/ .*//' "$folder/stat" 2>/dev/null) == "$1" ]] &&
            tr '\0' ' ' <"$folder/cmdline" | grep -q ' worker '; then
            echo "${folder#/proc/}"
            return
        fi
    done
}

# One of two processes is killed in mid-run; another is started in its place.
killed() {
    local question="3. a process is killed, sums over TCP" trainer worker lost now
    if (($(seconds 60) < 60)); then
        not_run "$question" "no time is left"
        return
    fi
    "$PERENNIAL" train docs/seedlings.toml --data "$work/pictures" --store "$work/killed" --device "$device" --workers 2 --threads 4 \
        --set train.epochs=3 --set train.slots=4 --json > >(
        while IFS= read -r line; do echo "$EPOCHREALTIME $line"; done >"$logs/killed.out"
    ) 2>"$logs/killed.err" &
    trainer=$!
    processes+=("$trainer")
    stepped killed "$trainer"
    worker=$(worker_of "$trainer")
    now=$EPOCHREALTIME
    if [[ -z $worker ]] || ! kill -KILL "$worker"; then
        wrong "$question" "there was no process to kill: $(last_words killed)"
    elif ! ends 120 "$trainer"; then
        wrong "$question" "$(last_words killed)"
    else
        lost=$(grep -m 1 '"event":"worker_lost"' "$logs/killed.out" | cut -d' ' -f1)
        recovered "$question" killed "$now" "${lost:-$EPOCHREALTIME}"
    fi
}

# --- 3. sums over NCCL between processes on one GPU ---

# NCCL refuses two members with one GPU of one machine. So each says that it is on a machine of its own, and they speak over
# sockets: right or wrong can be told so, and how long a recovery takes, but nothing of NCCL's speed.
as_machines=(NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 NCCL_MNNVL_ENABLE=0 NCCL_RAS_ENABLE=0 NCCL_ALGO=Ring NCCL_PROTO=Simple
    NCCL_MAX_NCHANNELS=2 NCCL_DEBUG=WARN PERENNIAL_LOG=info)

# `start NAME WORKERS [OPTION...]`: a coordinator (its id in $coordinator) and workers (theirs in ${members[@]}).
start() {
    local name=$1 workers=$2 port=$((20000 + RANDOM % 20000)) rank
    shift 2
    "$PERENNIAL" coordinator docs/seedlings.toml --data "$work/pictures" --store "$work/$name" --listen "127.0.0.1:$port" \
        --workers "$workers" --set train.epochs=3 --set train.slots=4 --json "$@" > >(
        while IFS= read -r line; do echo "$EPOCHREALTIME $line"; done >"$logs/$name.out"
    ) 2>"$logs/$name.err" &
    coordinator=$!
    members=()
    for ((rank = 0; rank < workers; rank++)); do
        env "${as_machines[@]}" NCCL_HOSTID="rank$rank" "$PERENNIAL" worker --coordinator "http://127.0.0.1:$port" --threads 4 \
            --device "$device" >"$logs/$name-$rank.out" 2>"$logs/$name-$rank.err" &
        members+=($!)
    done
    processes+=("$coordinator" "${members[@]}")
}

# `ends SECONDS PROCESS`: whether the child ends well, and in time.
ends() {
    local tenths status=0
    for ((tenths = $(seconds "$1") * 10; tenths > 0; tenths--)); do
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$2" 2>/dev/null
    wait "$2" 2>/dev/null || status=$?
    # What it printed last is on its way to its file.
    sleep 0.3
    return "$status"
}

# `stepped NAME PROCESS`: waits for the first step.
stepped() {
    local tenths
    for ((tenths = 1200; tenths > 0; tenths--)); do
        grep -q '"event":"step"' "$logs/$1.out" 2>/dev/null && return
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}

# `over_nccl NAME`: whether the members said so.
over_nccl() { grep -q 'sums go over NCCL' "$logs/$1-0.err"; }

# `first NAME KEY`: of the first step.
first() { grep -m 1 '"event":"step"' "$logs/$1.out" | grep -o "\"$2\":[^,}]*" | cut -d: -f2; }

# `over_nccl NAME QUESTION WORKERS [OPTION...]`: whether they trained, and over NCCL; says so where not.
over_nccl() {
    local name=$1 question=$2 workers=$3
    shift 3
    if (($(seconds 45) < 45)); then
        not_run "$question" "no time is left"
        return 1
    fi
    start "$name" "$workers" "$@"
    if ! ends 90 "$coordinator"; then
        wrong "$question" "$(last_words "$name") $(last_words "$name-0")"
    elif ! grep -q 'sums go over NCCL' "$logs/$name-0.err"; then
        wrong "$question" "$(grep -m 1 'sums go over TCP' "$logs/$name-0.err" | cut -c1-300)"
    else
        return 0
    fi
    return 1
}

# `first NAME KEY`: of the first step.
first() { grep -m 1 '"event":"step"' "$logs/$1.out" | grep -o "\"$2\":[^,}]*" | cut -d: -f2; }

exact_over_nccl() {
    local workers name question hash
    for workers in 2 3; do
        name=nccl-$workers question="3. training, $workers processes over NCCL, exact"
        over_nccl "$name" "$question" "$workers" || continue
        hash=$(number "$logs/$name.out" weights_sha256)
        if [[ -n $hash && $hash == "$(number "$logs/train-1.out" weights_sha256)" ]]; then
            row "$question" "the weights of one process"
        else
            wrong "$question" "weights ${hash:0:16}"
        fi
    done
}

fast_over_nccl() {
    local question="3. training, 2 processes over NCCL, fast" exact fast
    over_nccl nccl-fast "$question" 2 --set train.reduction=fast || return
    exact=$(first nccl-2 grad_norm) fast=$(first nccl-fast grad_norm)
    if awk "BEGIN { difference = (${fast:-0} - ${exact:-1}) / ${exact:-1}; exit !(difference < 1e-5 && difference > -1e-5) }"; then
        row "$question" "the first gradient's norm is $fast, exact $exact"
    else
        wrong "$question" "the first gradient's norm is $fast, exact $exact"
    fi
}

# One of three is stopped, so that the others come to wait for it inside a sum, and killed before it counts as silent.
killed_over_nccl() {
    local question="3. a process is killed in a sum over NCCL" now
    if (($(seconds 45) < 45)); then
        not_run "$question" "no time is left"
        return
    fi
    start nccl-killed 3
    if ! stepped nccl-killed "$coordinator"; then
        wrong "$question" "$(last_words nccl-killed) $(last_words nccl-killed-0)"
        return
    fi
    kill -STOP "${members[2]}" && sleep 0.7
    now=$EPOCHREALTIME
    kill -KILL "${members[2]}"
    if ! ends 90 "$coordinator"; then
        wrong "$question" "$(last_words nccl-killed) $(last_words nccl-killed-0)"
    elif [[ $(grep -c 'sums go over NCCL' "$logs/nccl-killed-0.err") -lt 2 ]]; then
        wrong "$question" "there was no second communicator"
    else
        recovered "$question" nccl-killed "$now" "$now"
    fi
}

# --- 4. and 5. speed and memory beside PyTorch ---

# `ours MODEL PRECISION`: pictures a second and memory at 224 pixels, batch 256.
ours() {
    local name=step-$1-$2 question="4. $1 at 224 px, batch 256, $2" status=0 rate
    logged "$name" 90 "$PERENNIAL" bench step --device "$device" --precision "$2" --slots 1 --json "${work_of_step[@]}" --model "$1" || status=$?
    if [[ $status != 0 ]]; then
        unanswered "$question" "$status" "$(last_words "$name")"
        return
    fi
    rate=$(number "$logs/$name.out" images_per_second)
    row "$question" "$(printf '%.0f' "$rate") images/s$(of_floor "$1" "$rate")"
    row "5. its memory" "$(printf '%.0f' "$(number "$logs/$name.out" device_memory_mb)") MB held"
}

# `theirs MODEL PRECISION HOW OPTION...`: the same in PyTorch.
theirs() {
    local model=$1 precision=$2 name=torch-$1-$2-$3 question="4. $1 in PyTorch, $2 $3" status=0 rate own bar=
    shift 3
    if [[ -z ${PYTHON:-} ]]; then
        not_run "$question" "there is no Python with torch"
        return
    fi
    logged "$name" 150 "$PYTHON" benches/peers/step_torch.py --device "$device" "${work_of_step[@]}" --model "$model" "$@" || status=$?
    if [[ $status != 0 ]]; then
        not_run "$question" "$( ((status == 125)) && echo "no time is left" || last_words "$name")"
        return
    fi
    rate=$(number "$logs/$name.out" images_per_second)
    own=$(number "$logs/step-$model-$precision.out" images_per_second)
    [[ $name == *-bf16-eager ]] && bar=" (at least 1.0)"
    row "$question" "$(printf '%.0f' "$rate") images/s; ours is $(share "${own:-0}" "$rate") times that$bar"
    row "5. its memory" "$(printf '%.0f' "$(number "$logs/$name.out" device_memory_mb)") MB held"
}

work_of_step=(--image-size 224 --batch 256 --steps 10)

# Bytes a second that the GPU copies, read and written.
bandwidth() {
    logged bandwidth 60 "${PYTHON:-false}" - "$device" <<'PYTHON'
import sys, time, torch
source = torch.empty(1 << 31, dtype=torch.uint8, device=sys.argv[1])
to = torch.empty_like(source)
times = []
for _ in range(8):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    to.copy_(source)
    torch.cuda.synchronize()
    times.append(time.perf_counter() - begin)
print('{"bytes_per_second":%d}' % (2 * source.numel() / min(times)))
PYTHON
}

# What the operations of a step read and write, each once, as the processor's kernels count it for a small batch: for one picture.
bytes_of() {
    logged "bytes-$1" 60 "$PERENNIAL" bench step --model "$1" --image-size 224 --batch 8 --slots 1 --steps 1 --threads 1 --json \
        --profile "$logs/bytes-$1.json" || return
    grep -o '"bytes_per_second":[0-9.e+]*,"calls":[^}]*"ms":[0-9.e+-]*' "$logs/bytes-$1.out" |
        sed 's/"bytes_per_second"://; s/,.*"ms":/ /' | awk '{ bytes += $1 * $2 / 1e3 } END { printf "%.0f", bytes / 8 }'
}

# `of_floor MODEL RATE`: the share of the speed at which the memory would be the only limit.
of_floor() {
    local copied bytes
    copied=$(number "$logs/bandwidth.out" bytes_per_second 2>/dev/null)
    bytes=${floor[$1]:-0}
    [[ -n $copied && $bytes != 0 ]] || return
    awk "BEGIN { printf \"; %.0f %% of what %.2f TB/s allow for %.0f MB a picture\", 100 * $2 * $bytes / $copied, $copied / 1e12, $bytes / 1e6 }"
}

# --- 6. where a step's time goes ---

# `by_kernel LOG`: what CubeCL measured, the kernels that took longest first. A line of its log is `| 12.5µs | Kernel_HASH`; whose hash that is
# stands where the kernel is compiled.
by_kernel() {
    awk -F' *[|] *' '
        /^name: / { name = $0; sub(/^name: /, "", name); sub(/::kernel::Kernel$/, "", name); sub(/<.*/, "", name); sub(/.*::/, "", name) }
        match($0, / kernel_[0-9a-f]+\(/) { names[substr($0, RSTART + 8, RLENGTH - 9)] = name }
        NF == 3 && $2 ~ /^[0-9.]+(ns|µs|ms|s)$/ {
            time = $2 + 0
            if ($2 ~ /ns$/) time /= 1e6
            else if ($2 ~ /µs$/) time /= 1e3
            else if ($2 !~ /ms$/) time *= 1e3
            name = hash = $3
            sub(/.*_/, "", hash)
            sub(/_[0-9a-f]+$/, "", name)
            if (hash in names) name = names[hash]
            sum[name] += time; count[name]++; all += time
        }
        END { for (name in sum) printf "%5.1f %% %10.3f ms %7d x %s\n", all ? 100 * sum[name] / all : 0, sum[name], count[name], name }
    ' "$1" | LC_ALL=C sort -rn
}

# As CubeCL measures it, which waits for each kernel: shares, not speeds.
profile() {
    local question="6. a step by kernel" status=0 kernels=$logs/profile-kernels.out
    rm -f "$logs/cubecl.log"
    CUBECL_DEBUG_LOG=$logs/cubecl.log CUBECL_DEBUG_OPTION=profile logged profile 60 "$PERENNIAL" bench step --device "$device" \
        --model casvit_xs --image-size 224 --batch 256 --slots 1 --steps 3 || status=$?
    by_kernel "$logs/cubecl.log" >"$kernels" 2>/dev/null
    if [[ $status != 0 ]]; then
        unanswered "$question" "$status" "$(last_words profile)"
    elif [[ -s $kernels ]]; then
        cat "$kernels"
        row "$question" "$(wc -l <"$kernels") kernels, in $kernels"
    else
        wrong "$question" "no kernel was measured"
    fi
}

: >"$logs/table.md"
unpack
if [[ ! -x $PERENNIAL ]]; then
    echo "there is no $PERENNIAL: run benches/gpu/prepare.sh first" >&2
    exit 2
fi
find_python
find_nccl
find_cuda || { echo "$device cannot be used" >&2; exit 1; }
"$PERENNIAL" doctor | tee "$logs/doctor.out"
nvidia-smi >"$logs/nvidia-smi.out" 2>&1
right
pictures=
if pictures; then
    pictures=there
    same_weights
else
    wrong "2. training" "no pictures"
fi
declare -A floor=()
bandwidth
for model in casvit_xs casvit_t; do
    floor[$model]=$(bytes_of "$model")
    ours "$model" f32
    ours "$model" bf16
    theirs "$model" f32 eager
    theirs "$model" bf16 eager --bf16
done
[[ $(grep -c 'of what' "$logs/table.md") -gt 0 ]] || not_run "4. share of the memory-bandwidth floor" "$(last_words bandwidth)"
profile
if [[ -n $pictures ]]; then
    exact_over_nccl
    fast_over_nccl
    killed_over_nccl
    killed
fi
# What takes longest and may be left out.
for model in casvit_xs casvit_t; do
    theirs "$model" bf16 compiled --bf16 --compile
done
ours casvit_xs f16
theirs casvit_xs f32 compiled --compile
conclude
exit "$failed"
