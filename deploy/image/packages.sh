#!/usr/bin/env bash
# Fills the virtual environment /opt/gmpo from the lock: every package but DeepSpeed, which is compiled against them (operator.sh).
set -euo pipefail
device=${1:?cpu or gpu}
torch_index=${2:-}
cd "$(dirname "$0")"

compiler=(g++)
if [ "$(command -v python3.11)" = /usr/bin/python3.11 ]; then compiler+=(python3.11-dev); fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${compiler[@]}"

# Both are optional: settings of pip, and certificates of who stands between it and the index.
if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi
if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi

python3.11 -m venv /opt/gmpo
pip install -q --no-compile pip==26.3
# The lock names every package, so nothing is resolved. Tools of tests and types stay out.
left_out=$(grep -v '^#' not-in-image.txt | paste -sd'|')
grep -vE "^(#|deepspeed==|($left_out)==)" "requirements-$device.txt" > wanted.txt
pip install -q --no-compile --no-deps ${torch_index:+--extra-index-url "$torch_index"} -r wanted.txt
site=/opt/gmpo/lib/python3.11/site-packages
rm -rf "$site"/torch/test "$site"/{pandas,numba,pyarrow}/tests
