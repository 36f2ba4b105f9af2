#!/usr/bin/env bash
# What a pod needs of the system, and its user. Run once, as root, while the image is built.
set -euo pipefail
device=${1:?cpu or gpu}

packages=(
    bubblewrap       # shuts in the programs that code/python runs
    ca-certificates  # trackers, object stores
    libgomp1         # DeepSpeed's operator
    libnuma1         # vLLM on a CPU
    wget             # KubeRay's probes and health.sh
)
if ! command -v python3.11 >/dev/null; then
    packages+=(python3.11 python3.11-venv)
    # Triton compiles the launcher of each of its kernels in C, against Python's headers, when it first runs one.
    if [ "$device" = gpu ]; then packages+=(python3.11-dev); fi
fi
if [ "$device" = gpu ]; then packages+=(gcc libc6-dev); fi

apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/apt /var/log/*.log

groupadd --gid 1000 gmpo
useradd --uid 1000 --gid 1000 --no-log-init --create-home --shell /bin/bash gmpo

# A login shell, by which some versions of KubeRay start Ray, sets PATH anew.
# shellcheck disable=SC2016
echo 'PATH=/opt/gmpo/bin:$PATH' > /etc/profile.d/gmpo.sh
