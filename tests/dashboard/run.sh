#!/usr/bin/env bash
# The dashboard in a browser: a real training is submitted, watched, scaled, drained, stopped and resumed through it.
#
#     PERENNIAL=target/release/perennial PYTHON=VENV/bin/python tests/dashboard/run.sh
#
# CHROMIUM     the browser (default: the one in the PATH)
# SCREENSHOTS  a folder for pictures of the page (default: none are kept)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${PERENNIAL:?the program}" "${PYTHON:?a Python 3 with the packages of requirements.txt}"
export PERENNIAL=$(realpath "$PERENNIAL")
export CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [[ -z $CHROMIUM ]]; then
    echo "SKIPPED dashboard: there is no chromium (apt-get install chromium)" >&2
    exit 77
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/perennial-dashboard.XXXXXX")
trap 'rm -rf "$work"' EXIT
export SCREENSHOTS=${SCREENSHOTS:-$work/screenshots}
mkdir -p "$SCREENSHOTS"
SCREENSHOTS=$(realpath "$SCREENSHOTS")
cd "$work"
"$PERENNIAL" data synth pictures --classes 4 --per-class 60 >/dev/null
# Nothing of a configured proxy stands between the browser and this machine.
env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY "$PYTHON" "$here/test_dashboard.py"
