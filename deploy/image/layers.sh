#!/usr/bin/env bash
# Compiles to byte code what every process imports at its start, and moves the two biggest parts of /opt/gmpo to /layers/{torch,vllm}.
set -euo pipefail
site=/opt/gmpo/lib/python3.11/site-packages
# The same time on every file, so that the same packages give the same layer.
settle() { find "$@" -exec touch --no-dereference --date=@1700000000 {} +; }

settle /opt/gmpo
# Where nothing can be written beside the sources, every start would compile them again. Among them are templates that are no Python.
python -m compileall -qq -j 0 -x 'transformers/models/(?!auto|qwen)' "$site"/{ray,torch,transformers,vllm} || true

part() {
    local layer=/layers/$1/lib/python3.11/site-packages
    shift
    mkdir -p "$layer"
    for path in "$@"; do if [ -e "$path" ]; then mv "$path" "$layer/"; fi; done
}
part torch "$site"/{torch,nvidia,triton}
part vllm "$site"/vllm
settle /opt/gmpo /layers
