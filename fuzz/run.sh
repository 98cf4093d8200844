#!/bin/sh
# Runs each target for SECONDS (600 unless told). What is found stays in corpus/TARGET/, crashes in artifacts/TARGET/.
set -eu
cd "$(dirname "$0")"
seconds=${1:-600}
cargo fuzz build --sanitizer none
for target in $(cargo fuzz list); do
    echo "== $target: $seconds seconds"
    cargo fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1
done
