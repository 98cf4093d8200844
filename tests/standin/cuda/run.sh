#!/usr/bin/env bash
# The program for GPUs on a machine without one, with a stand-in for the driver (libcuda.c).
#
# First with CUDA's real compiler: every kernel that training and inference launch is compiled by NVRTC for compute capability 8.0
# and 9.0, and assembled by ptxas; they do nothing then. Then with a stand-in for the compiler as well (libnvrtc.c), which compiles
# the same sources for the host: there they are run as they are launched, and must compute what the processor's own kernels do.
# No time of either means anything.
#
#     PERENNIAL=target/quick/perennial CUDA_PATH=SITE/nvidia/cu13 tests/standin/cuda/run.sh [CHECK...]
#
# PERENNIAL  the program, built with `--features cuda`
# CUDA_PATH  a folder with CUDA's `include`, `lib/libnvrtc.so.13` and `bin/ptxas`, as pip installs them (requirements.txt)
# NCCL       the stand-in for NCCL, libperennial_standin_nccl.so, if two workers are to sum over it
# DEVICE     the test program `device` of the kernels, built likewise
# PLAIN      the program built without them, if both are to give the same weights on the CPU
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${PERENNIAL:?the program}" "${CUDA_PATH:?the folder of CUDA}"
PERENNIAL=$(realpath "$PERENNIAL")
PLAIN=${PLAIN:+$(realpath "$PLAIN")}
DEVICE=${DEVICE:+$(realpath "$DEVICE")}
NCCL=${NCCL:+$(realpath "$NCCL")}
cuda=$(realpath "$CUDA_PATH")
export CUDA_PATH=$cuda
unset LD_LIBRARY_PATH

work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-standin.XXXXXX")
others=()
cleanup() {
    for process in "${others[@]}"; do
        kill -KILL "$process" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

fail() {
    echo "FAILED ${FUNCNAME[1]}: $*" >&2
    exit 1
}

# Where there is a driver and a compiler, and where kernels are compiled for the host and run: before a command in the background,
# whose process is then the command's own.
gpu=(env "LD_LIBRARY_PATH=$work/standin:$cuda/lib")
host=(env "STANDIN_HOST=$work/host" "LD_LIBRARY_PATH=$work/host")

# `with_gpu COMMAND...` and `on_host COMMAND...`: the same for whatever the shell knows.
with_gpu() { LD_LIBRARY_PATH=$work/standin:$cuda/lib "$@"; }
on_host() { STANDIN_HOST=$work/host LD_LIBRARY_PATH=$work/host "$@"; }

# `refusal STATUS COMMAND...`: what the command says when it ends with this status, if that is one sentence.
refusal() {
    local expected=$1 status=0
    shift
    timeout 60 "$@" >out 2>err || status=$?
    [[ $status == "$expected" ]] || { echo "exit status $status: $(tail -n 5 err)" >&2; return 1; }
    [[ $(wc -l <err) == 1 && $(cat err) == error:* ]] || { echo "not one sentence: $(tail -n 5 err)" >&2; return 1; }
    cat err
}

# `value FILE EVENT KEY`: the key's last value in the events of that name.
value() {
    sed -n "s/^{.*\"event\":\"$2\".*\$/&/p" "$1" | grep -o "\"$3\":[^,}]*" | tail -n 1 | cut -d: -f2- | tr -d '"'
}

prepare() {
    mkdir standin host
    cc -O1 -Wall -Wextra -Werror -U_FORTIFY_SOURCE -shared -fPIC "$here/libcuda.c" -o standin/libcuda.so
    cc -O1 -Wall -Wextra -Werror -shared -fPIC "$here/libnvrtc.c" -o host/libnvrtc.so
    cc -O1 -Wall -Wextra -Werror -shared -fPIC "$here/libnvml.c" -o standin/libnvidia-ml.so.1
    cp standin/libcuda.so standin/libnvidia-ml.so.1 host
    "$PERENNIAL" data synth pictures --classes 3 --per-class 10 --size 32 --seed 1
    cat >job.toml <<'EOF'
name = "standin"
[data]
image_size = 32
[model]
drop_path = 0.1
[train]
epochs = 1
batch_size = 8
slots = 2
EOF
}

what_is_missing_is_named_in_one_sentence() {
    local said train=("$PERENNIAL" train job.toml --data pictures --device cuda:0)
    said=$(refusal 1 "${train[@]}") || fail "without a driver"
    [[ $said == *"the NVIDIA driver's library was not found: looked for \`libcuda.so\`"* ]] || fail "$said"
    said=$(LD_LIBRARY_PATH=$work/standin refusal 1 "${train[@]}") || fail "without a compiler"
    [[ $said == *"NVRTC was not found: looked for \`libnvrtc.so\`"*"LD_LIBRARY_PATH (\`$work/standin\`)"* ]] || fail "$said"
    said=$(CUDA_PATH=$work with_gpu refusal 1 "${train[@]}") || fail "without headers"
    [[ $said == *"are not in CUDA_PATH, which is"* ]] || fail "$said"
    said=$(with_gpu refusal 1 "${train[@]/cuda:0/cuda:1}") || fail "without a second GPU"
    [[ $said == *"the driver sees one GPU, which is \`cuda:0\`" ]] || fail "$said"
    said=$(STANDIN_DRIVER=12080 with_gpu refusal 1 "${train[@]}") || fail "with an old driver"
    [[ $said == *"NVRTC is of CUDA 13."*"the driver, which knows CUDA 12.8, cannot read"* ]] || fail "$said"
    [[ ! -e perennial-store ]] || fail "something was written all the same"
    with_gpu "$PERENNIAL" doctor
}

# Every kernel of the GPU of the capability $1, for the target $2.
kernels_compile() {
    local capability=$1 target=$2 count
    mkdir "ptx$capability"
    export STANDIN_CAPABILITY=$capability STANDIN_PTX=$work/ptx$capability
    with_gpu "$PERENNIAL" bench step --device cuda:0 --image-size 32 --batch 4 --slots 2 --steps 1 --json >bench.json 2>bench.err ||
        fail "a step for compute capability $capability: $(tail -n 5 bench.err)"
    # Inference has kernels of its own.
    with_gpu "$PERENNIAL" bench step --device cuda:0 --image-size 32 --batch 4 --steps 1 --inference --json >bench.json 2>bench.err ||
        fail "inference for compute capability $capability: $(tail -n 5 bench.err)"
    unset STANDIN_CAPABILITY STANDIN_PTX
    count=$(find "ptx$capability" -name '*.ptx' | wc -l)
    ((count >= 20)) || fail "only $count kernels were compiled"
    [[ $(grep -L "^\.target $target\$" "ptx$capability"/*.ptx | wc -l) == 0 ]] || fail "not all are for $target"
    ! grep -lE '^\s*(atom|red)\.' "ptx$capability"/*.ptx || fail "a kernel adds in the order of arrival"
    find "ptx$capability" -name '*.ptx' -print0 | xargs -0 -P 2 -I{} "$cuda/bin/ptxas" --gpu-name "$target" --output-file /dev/null {} ||
        fail "ptxas refuses a kernel"
    echo "$count kernels for $target"
}

kernels_compile_for_80() { kernels_compile 80 sm_80; }
kernels_compile_for_90() { kernels_compile 90 sm_90a; }

# A whole job: pictures, steps, evaluation, checkpoint, report.
a_worker_trains_a_job_to_its_end() {
    with_gpu "$PERENNIAL" train job.toml --data pictures --device cuda:0 --workers 1 --store store --json >train.jsonl 2>train.err ||
        fail "$(tail -n 5 train.jsonl train.err)"
    grep -q '"event":"finished"' train.jsonl || fail "it did not finish: $(tail -n 3 train.jsonl)"
    grep -qo '"numerics": *"cuda sm_90 (stand-in, not a GPU), cuda-f32-[0-9]*"' store/standin/checkpoints/*/MANIFEST.json ||
        fail "its checkpoint does not name the GPU: $(cat store/standin/checkpoints/*/MANIFEST.json)"
}

# A worker on the CPU is there; one on a GPU would add other last bits.
a_processor_of_another_kind_is_refused_with_the_reason() {
    local said url=127.0.0.1:$((20000 + RANDOM % 20000)) deadline=$((SECONDS + 60))
    "$PERENNIAL" coordinator job.toml --data pictures --listen "$url" --workers 2 --store mixed --json >mixed.jsonl 2>mixed.err &
    others+=($!)
    "$PERENNIAL" worker --coordinator "http://$url" 2>cpu.err &
    others+=($!)
    until grep -q '"event":"worker_joined"' mixed.jsonl; do
        ((SECONDS < deadline)) || fail "the worker on the CPU did not come: $(tail -n 3 mixed.jsonl mixed.err cpu.err)"
        sleep 0.1
    done
    said=$(with_gpu refusal 1 "$PERENNIAL" worker --coordinator "http://$url" --device cuda:0) || fail "the worker on the GPU"
    [[ $said == *"this worker computes with \`cuda sm_90"*"their results would differ in the last bits"* ]] || fail "$said"
    echo "$said"
}

a_full_memory_is_one_error_that_says_what_to_change() {
    local said
    said=$(STANDIN_MEMORY=30000000 with_gpu refusal 1 "$PERENNIAL" bench step --device cuda:0 --image-size 32 --batch 4 --slots 2 --steps 1) ||
        fail "of a step"
    [[ $said == *"the GPU's memory is full; lower \`train.batch_size\`, or raise \`train.slots\`"* ]] || fail "$said"
    said=$(STANDIN_MEMORY=30000000 with_gpu refusal 1 "$PERENNIAL" train job.toml --data pictures --device cuda:0 --workers 1 --store full) ||
        fail "of a worker"
    [[ $said == *"the GPU's memory is full"* ]] || fail "$said"
}

# `told_memory STORE`: waits until the status of the job there tells what the GPUs of its workers hold.
told_memory() {
    local deadline=$((SECONDS + 60)) memory used total peak
    until "$PERENNIAL" status standin --store "$1" --json >told.json 2>&1 && grep -q '"device_memory":{' told.json; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
    memory=$(grep -o '"device_memory":{[^}]*}' told.json | head -n 1)
    echo "$memory"
    read -r used total peak < <(grep -o '[0-9]*' <<<"$memory" | tr '\n' ' ')
    ((total == 8 << 30 && used > 0 && used <= peak && peak <= total))
}

# One of two workers on GPUs; the other one goes on.
a_gpu_that_fails_makes_its_worker_leave_with_the_reason() {
    local url=127.0.0.1:$((20000 + RANDOM % 20000)) coordinator failing deadline=$((SECONDS + 120)) status=0
    "$PERENNIAL" coordinator job.toml --data pictures --listen "$url" --workers 2 --store failing --set train.epochs=40 --json \
        >failing.jsonl 2>failing.err &
    coordinator=$!
    STANDIN_XID=$work/xid "${gpu[@]}" "$PERENNIAL" worker --coordinator "http://$url" --device cuda:0 2>failing-0.err &
    failing=$!
    "${gpu[@]}" "$PERENNIAL" worker --coordinator "http://$url" --device cuda:0 2>failing-1.err &
    others+=("$coordinator" "$failing" $!)
    until grep -q '"event":"step"' failing.jsonl; do
        ((SECONDS < deadline)) || fail "no step: $(tail -n 3 failing.jsonl failing.err failing-?.err)"
        sleep 0.1
    done
    told_memory failing || fail "of its memory $(tail -n 3 told.json failing-?.err)"
    echo 79 >xid
    wait "$failing" || status=$?
    [[ $status == 1 ]] || fail "exit status $status: $(tail -n 3 failing-0.err)"
    # Let go by the job, or, where a step takes as long as here, without that.
    grep 'the device `cuda:0` failed: the driver reports Xid 79; this worker leaves' failing-0.err || fail "$(tail -n 3 failing-0.err)"
    until grep -q '"event":"started".*"workers":1' failing.jsonl; do
        ((SECONDS < deadline)) || fail "the other one did not go on: $(tail -n 3 failing.jsonl failing.err failing-1.err)"
        sleep 0.1
    done
}

# Kernels as they are generated and launched, against references in f64.
the_kernels_compute_what_the_references_do() {
    [[ -n $DEVICE ]] || { echo "DEVICE is not set"; return; }
    PERENNIAL_TEST_DEVICE=cuda:0 on_host "$DEVICE" >device.out 2>&1 || fail "$(grep -A2 panicked device.out | head -n 6)"
    grep 'test result' device.out
}

# `trained NAME COMMAND...`: the events of a short job.
trained() {
    local name=$1
    shift
    "$@" --data pictures --store "host-$name" --set train.batch_size=11 --json >"host-$name.jsonl" 2>"host-$name.err" &&
        grep -q '"event":"finished"' "host-$name.jsonl" || { tail -n 3 "host-$name.jsonl" "host-$name.err" >&2; return 1; }
}

# `near NAME KEY TOLERANCE`: whether the key of the first step is what the processor computes.
near() {
    local gpu cpu
    gpu=$(grep -m 1 '"event":"step"' "host-$1.jsonl" | grep -o "\"$2\":[^,}]*" | cut -d: -f2)
    cpu=$(grep -m 1 '"event":"step"' host-cpu.jsonl | grep -o "\"$2\":[^,}]*" | cut -d: -f2)
    echo "the first step's $2: $gpu, on the processor $cpu"
    awk "BEGIN { difference = ($gpu - $cpu) / $cpu; exit !(difference < $3 && difference > -$3) }"
}

training_is_that_of_the_processor_and_two_workers_end_with_the_same_weights() {
    local one two
    trained cpu "$PERENNIAL" train job.toml || fail "on the processor"
    trained one on_host "$PERENNIAL" train job.toml --device cuda:0 --workers 1 || fail "one worker"
    trained two on_host "$PERENNIAL" train job.toml --device cuda:0 --workers 2 || fail "two workers"
    near one loss 1e-5 || fail "another loss"
    near one grad_norm 1e-4 || fail "another gradient"
    one=$(value host-one.jsonl finished weights_sha256)
    two=$(value host-two.jsonl finished weights_sha256)
    [[ $one =~ ^[0-9a-f]{64}$ && $one == "$two" ]] || fail "$one with one worker, $two with two"
}

# Two workers as on two machines. Gradients lie in the GPUs' memory when they are summed.
two_workers_that_sum_over_nccl_end_with_the_same_weights() {
    local url=127.0.0.1:$((20000 + RANDOM % 20000)) machine coordinator
    [[ -n $NCCL ]] || { echo "NCCL is not set"; return; }
    "$PERENNIAL" coordinator job.toml --data pictures --listen "$url" --workers 2 --store host-nccl --set train.batch_size=11 \
        --json >host-nccl.jsonl 2>host-nccl.err &
    coordinator=$!
    others+=("$coordinator")
    for machine in a b; do
        PERENNIAL_NCCL=$NCCL NCCL_HOSTID=$machine PERENNIAL_LOG=info "${host[@]}" "$PERENNIAL" worker --coordinator "http://$url" \
            --device cuda:0 2>"nccl-$machine.err" &
        others+=($!)
    done
    wait "$coordinator" || fail "$(tail -n 3 host-nccl.jsonl host-nccl.err nccl-?.err)"
    grep -q 'sums go over NCCL' nccl-a.err || fail "not over NCCL: $(tail -n 3 nccl-a.err)"
    [[ $(value host-nccl.jsonl finished weights_sha256) == "$(value host-one.jsonl finished weights_sha256)" ]] ||
        fail "other weights: $(value host-nccl.jsonl finished weights_sha256)"
}

# A step whose operands are rounded, on the processor by its own kernels, whose sums differ in the last bits with its vector unit: a
# few operands fall to the other side, and are then as far from each other as the numbers of the precision. A tenth of that is a lot.
rounded_operands_are_those_of_the_processor() {
    local precision
    declare -A tolerance=([bf16]=8e-4 [f16]=1e-4)
    for precision in bf16 f16; do
        trained cpu "$PERENNIAL" train job.toml --set "train.precision=$precision" --set "name=cpu-$precision" || fail "on the processor"
        trained "$precision" on_host "$PERENNIAL" train job.toml --device cuda:0 --workers 1 --set "train.precision=$precision" ||
            fail "in $precision"
        near "$precision" loss "${tolerance[$precision]}" || fail "another loss in $precision"
        near "$precision" grad_norm 1e-2 || fail "another gradient in $precision"
        grep -qo "\"numerics\": *\"cuda sm_90 (stand-in, not a GPU), cuda-f32-[0-9]*, $precision\"" \
            "host-$precision"/standin/checkpoints/*/MANIFEST.json || fail "its checkpoint does not name $precision"
    done
}

# The same program without a GPU, and one that was built without them: the very same weights.
on_the_cpu_nothing_has_changed() {
    local program hashes=()
    for program in "$PERENNIAL" $PLAIN; do
        "$program" train job.toml --data pictures --workers 1 --store "cpu${#hashes[@]}" --json >cpu.jsonl 2>cpu.err || fail "$(tail -n 5 cpu.err)"
        hashes+=("$(value cpu.jsonl finished weights_sha256)")
    done
    [[ ${hashes[0]} =~ ^[0-9a-f]{64}$ ]] || fail "no weights: ${hashes[*]}"
    [[ -z $PLAIN || ${hashes[0]} == "${hashes[1]}" ]] || fail "${hashes[*]}"
}

only=" $* "
check() {
    local start=$SECONDS
    [[ $only == "  " || $only == *" $1 "* ]] || return 0
    "$1"
    echo "ok $1 ($((SECONDS - start)) s)"
}

prepare
check what_is_missing_is_named_in_one_sentence
check kernels_compile_for_90
check kernels_compile_for_80
check a_worker_trains_a_job_to_its_end
check a_processor_of_another_kind_is_refused_with_the_reason
check a_full_memory_is_one_error_that_says_what_to_change
check a_gpu_that_fails_makes_its_worker_leave_with_the_reason
check the_kernels_compute_what_the_references_do
check training_is_that_of_the_processor_and_two_workers_end_with_the_same_weights
check two_workers_that_sum_over_nccl_end_with_the_same_weights
check rounded_operands_are_those_of_the_processor
check on_the_cpu_nothing_has_changed
