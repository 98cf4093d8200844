#!/usr/bin/env bash
# Builds what run.sh needs on a machine with a GPU, where there may be no Rust: the program and two test programs, stripped, in
# target/gpu. Nothing of CUDA is needed for it.
#
#     benches/gpu/prepare.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export CARGO_TERM_COLOR=never
packages=(-p perennial-cli -p perennial-kernels -p perennial-model --features perennial-cli/cuda)
mkdir -p target/gpu
cargo build --release --locked "${packages[@]}"
install -s target/release/perennial target/gpu/perennial
for name in device casvit; do
    program=$(cargo test --release --locked --no-run "${packages[@]}" --test "$name" --message-format json |
        grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d'"' -f4)
    install -s "$program" "target/gpu/test-$name"
done
ls -l target/gpu
