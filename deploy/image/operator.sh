#!/usr/bin/env bash
# Installs DeepSpeed; for a CPU with its Adam compiled in, so that nobody compiles later. For GPUs that would need CUDA's compiler, and
# nothing of this project uses the operator: its optimizer is torch's.
set -euo pipefail
device=${1:?cpu or gpu}
export CPU_ARCH=${2:?a value of -march}
cd "$(dirname "$0")"
if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi
if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi

if [ "$device" = cpu ]; then
    export DS_BUILD_CPU_ADAM=1 CC=$PWD/portable-c++.sh CXX=$PWD/portable-c++.sh
fi
DS_ACCELERATOR=cpu pip install -q --no-compile --no-deps --no-build-isolation "$(grep '^deepspeed==' "requirements-$device.txt")"
