#!/usr/bin/env bash
# Writes deploy/requirements-gpu.txt anew: what pip resolves for the GPU image, by the packages' metadata, without installing them.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3.11}" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q --upgrade pip
"$scratch/venv/bin/pip" install -q --dry-run --ignore-installed --report "$scratch/report.json" '.[gpu,code,trackers]'
"$scratch/venv/bin/python" - "$scratch/report.json" > "$scratch/lock" <<'PYTHON'
import json, pathlib, sys

found = [entry["metadata"] for entry in json.loads(pathlib.Path(sys.argv[1]).read_text())["install"]]
sys.stdout.write("# Written by deploy/image/lock_gpu.sh: every package of the GPU image. Do not edit.\n")
for package in sorted(found, key=lambda package: package["name"].lower()):
    if package["name"] != "gmpo":
        sys.stdout.write(f"{package['name']}=={package['version']}\n")
PYTHON
mv "$scratch/lock" deploy/requirements-gpu.txt
