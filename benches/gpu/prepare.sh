#!/usr/bin/env bash
# Builds what run.sh needs on a machine with a GPU, where there may be neither Rust nor a network: the program and two test
# programs, stripped, with the numbers and pictures that they are held against, in target/gpu. Nothing of CUDA is needed for it.
#
#     [CUDA=13.0] [PACK=1] benches/gpu/prepare.sh
#
# CUDA       takes NVRTC and CUDA's headers of that version along, from pip, for a machine that has none. It must not be later
#            than the CUDA of the machine's driver, which `nvidia-smi` tells: what a later NVRTC writes that driver does not read
# PACK       makes target/gpu.tar.xz of it as well, which run.sh unpacks: a sixth of the size, where what travels is limited
# SEEDLINGS  a .tgz of pictures, one folder a class (default: the one beside the checkout, when it is there)
# FIXTURES   the folder with the official networks' numbers (default: the one beside the checkout, or the case kept in the tests)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export CARGO_TERM_COLOR=never
pictures=${SEEDLINGS:-../shared/data/seedlings_96.tgz}
fixtures=${FIXTURES:-../shared/fixtures/models}
packages=(-p perennial-cli -p perennial-kernels -p perennial-model --features perennial-cli/cuda)
rm -rf target/gpu target/gpu.tar.xz
mkdir -p target/gpu/fixtures
cargo build --release --locked "${packages[@]}"
install -s target/release/perennial target/gpu/perennial
for name in device casvit; do
    program=$(cargo test --release --locked --no-run "${packages[@]}" --test "$name" --message-format json |
        grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d'"' -f4)
    install -s "$program" "target/gpu/test-$name"
done

if compgen -G "$fixtures/casvit_*.json" >/dev/null; then
    cp "$fixtures"/casvit_*.json target/gpu/fixtures
else
    cp shared/model/tests/data/casvit_*.json target/gpu/fixtures
fi
if [[ -f $pictures ]]; then
    cp "$pictures" target/gpu/pictures.tgz
fi
chmod -R u+w target/gpu

if [[ -n ${CUDA:-} ]]; then
    # One call: a second one leaves out what shares a folder with the first.
    python3 -m pip install --quiet --no-deps --no-compile --disable-pip-version-check --target target/gpu/cuda \
        "nvidia-cuda-nvrtc==$CUDA.*" "nvidia-cuda-runtime==$CUDA.*" "nvidia-cuda-crt==$CUDA.*" "nvidia-cuda-cccl==$CUDA.*"
    find target/gpu/cuda -name '*.a' -delete
    find target/gpu/cuda -path '*/include/cccl/*' \( -name cub -o -name thrust \) -prune -exec rm -r {} +
fi
if [[ -n ${PACK:-} ]]; then
    tar -C target -cf - gpu | xz -6 -T 2 >target/gpu.tar.xz
    ls -l target/gpu.tar.xz
fi
du -ah target/gpu --max-depth 1
