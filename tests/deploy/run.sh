#!/usr/bin/env bash
# Holds deploy/ against the tools that would read it, and against the program.
#
#     PERENNIAL=target/release/perennial tests/deploy/run.sh
#
# TOOLS  a virtual environment of tools.sh (default: target/deploy-venv). What neither it nor the PATH has is SKIPPED.
# WEED   SeaweedFS's program (default: `weed`), for the services of the compose project
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(realpath "$here/../..")
: "${PERENNIAL:?the program}"
PERENNIAL=$(realpath "$PERENNIAL")
export PERENNIAL
tools=$(realpath -m "${TOOLS:-$root/target/deploy-venv}")
PATH=$tools/bin:$PATH
work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-deploy.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp -r "$root/deploy" "$work/deploy"
failed=0

has() { command -v "$1" >/dev/null; }
skip() { echo "SKIPPED $1: $2 is not there"; }
# `check WHAT COMMAND...`: the command's output is shown where it fails.
check() {
    local what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok $what"
    else
        echo "FAILED $what"
        sed 's/^/    /' "$work/out"
        failed=1
    fi
}
# A check that prints its own lines.
told() { "$@" || failed=1; }

# Certificates and keys as the READMEs say.
"$PERENNIAL" certs init "$work/certs" >/dev/null
"$PERENNIAL" certs issue "$work/certs" coordinator worker operator viewer --host localhost >/dev/null

kubernetes() {
    local kubernetes=$work/deploy/kubernetes chart=$work/deploy/helm/perennial
    mkdir "$work/objects"
    if has kubectl; then
        cp -r "$work/certs" "$kubernetes/example/certs"
        cp "$kubernetes/example/s3.env.example" "$kubernetes/example/s3.env"
        check "kustomize example" kubectl kustomize "$kubernetes/example" --output "$work/objects/kustomize-example.yaml"
        check "kustomize base" kubectl kustomize "$kubernetes/base" --output "$work/objects/kustomize-base.yaml"
        sed -i 's|# - ../components/gpu|- ../components/gpu|' "$kubernetes/example/kustomization.yaml"
        check "kustomize gpu" kubectl kustomize "$kubernetes/example" --output "$work/objects/kustomize-gpu.yaml"
        check "kustomize gpu asks for one" grep -q 'nvidia.com/gpu: "1"' "$work/objects/kustomize-gpu.yaml"
    else
        skip "kustomize" kubectl
    fi
    if has helm; then
        local everything=(--set monitoring.enabled=true --set autoscaling.enabled=true --set pools.gpu.gpus=1 --set pools.cpu.replicas=4)
        check "helm lint" helm lint --strict "$chart"
        check "helm template" helm template perennial "$chart" --namespace perennial --output-dir "$work/chart"
        helm template perennial "$chart" --namespace perennial >"$work/objects/helm.yaml"
        helm template other "$chart" --namespace elsewhere "${everything[@]}" >"$work/objects/helm-everything.yaml"
        check "helm refuses values that are none" refuses helm template p "$chart" --set coordinator.replica=1
        check "helm refuses a store on a disk" refuses helm template p "$chart" --set store=/jobs
    else
        skip "helm" helm
    fi
    if python3 -c 'import kubernetes_validate' 2>/dev/null; then
        told python3 "$here/check_manifests.py" "$work"/objects/*.yaml
    else
        skip "schemas of Kubernetes" "the Python package kubernetes-validate"
    fi
}
# shellcheck disable=SC2317,SC2329 # `check` calls it
refuses() { ! "$@"; }

units() {
    check "units' command lines" python3 "$here/check_units.py" "$root/deploy/systemd" "$work/certs"
    if ! has systemd-analyze; then
        skip "systemd" systemd-analyze
        return
    fi
    mkdir "$work/units"
    local unit
    # It looks for the program where the unit has it.
    for unit in "$root"/deploy/systemd/*.service; do
        sed "s|/usr/local/bin/perennial|$PERENNIAL|" "$unit" >"$work/units/$(basename "$unit")"
    done
    cp "$work/units/perennial-worker@.service" "$work/units/perennial-worker@cpu.service"
    check "systemd units" quiet systemd-analyze verify --man=no "$work/units/perennial-coordinator.service" \
        "$work/units/perennial-worker@cpu.service"
}
# It warns with exit status 0.
# shellcheck disable=SC2317,SC2329 # `check` calls it
quiet() {
    local said
    said=$("$@" 2>&1) || { echo "$said"; return 1; }
    [[ -z $said ]] || { echo "$said"; return 1; }
}

scripts() {
    local files=("$root"/deploy/slurm/*.sbatch "$here"/*.sh)
    local file
    for file in "${files[@]}"; do
        check "bash -n ${file#"$root/"}" bash -n "$file"
    done
    if has shellcheck; then check "shellcheck" shellcheck -x "${files[@]}"; else skip "shellcheck" shellcheck; fi
}

containers() {
    local file=$root/deploy/container/Containerfile
    if has hadolint; then check "hadolint" hadolint "$file"; else skip "hadolint" hadolint; fi
    if python3 -c 'import compose_spec' 2>/dev/null; then
        check "compose" python3 "$here/check_compose.py" "$root/deploy/compose"
        services
    else
        skip "compose" "the Python package compose-spec"
    fi
}
services() {
    local status=0
    python3 "$here/run_compose.py" "$root/deploy" || status=$?
    case $status in
        0) ;;
        77) echo "SKIPPED the services of compose" ;;
        *) failed=1 ;;
    esac
}

told python3 "$here/check_words.py" "$root"
check "a worker of a unit's instance" "$PERENNIAL" worker --device cuda:0 --help
kubernetes
units
scripts
containers
exit "$failed"
