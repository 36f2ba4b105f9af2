#!/usr/bin/env bash
# Run inside the CPU image, as its user: bash -c "$(< smoke.sh)". Says what it saw; the first thing that is not so ends it.
set -euo pipefail
export RAY_ADDRESS=local GMPO_RUN_ROOT=/tmp/runs GMPO_HEALTH_PORT=18797
say() { printf '%6ss  %s\n' "$SECONDS" "$*"; }
refuse() { say "NOT SO: $*"; exit 1; }

[ "$(id -u):$(id -g)" = 1000:1000 ] || refuse "user $(id)"
mine=$(find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /run -o -path /home/gmpo \) -prune \
    -o ! -type l -writable -print 2>/dev/null) || true  # some folders it may not even read
[ -z "$mine" ] || refuse "written by the user: $mine"
say "runs as $(whoami), who can write to its home and to folders for temporary files only"

for compiler in gcc g++ cc c++ clang nvcc; do
    if command -v "$compiler" >/dev/null; then refuse "compiler $compiler"; fi
done
python - <<'PYTHON'
import os
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 1001)) for _ in range(2))
steps = (DeepSpeedCPUAdam([ours], lr=1e-2, weight_decay=0.1), torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1))
for parameter, optimizer in zip((ours, theirs), steps):
    parameter.grad = torch.linspace(1, -2, 1001)
    optimizer.step()
torch.testing.assert_close(ours, theirs)
del steps, optimizer  # DeepSpeed's cannot be torn down when Python ends
PYTHON
say "no compiler; DeepSpeed's CPU Adam is there and steps as torch's AdamW"

[ -z "$(find / -xdev -name pip.conf -not -path '/proc/*' 2>/dev/null)" ] || refuse "settings of pip in the image"
for program in bash bwrap grep python ray serve wget; do command -v "$program" >/dev/null || refuse "no $program"; done
[ "$(bash -lc 'command -v ray')" = /opt/gmpo/bin/ray ] || refuse "ray is not on a login shell's PATH"

/opt/image/health.sh || refuse "ill, though nothing is served"
python -m http.server "$GMPO_HEALTH_PORT" --bind 127.0.0.1 --directory /tmp >/dev/null 2>&1 &
server=$!
until (exec 3<> "/dev/tcp/127.0.0.1/$GMPO_HEALTH_PORT") 2>/dev/null; do kill -0 "$server"; done
if /opt/image/health.sh; then refuse "well, though /health is not found"; fi
kill "$server"
say "the health check tells an endpoint that does not answer from none"

gmpo --help >/dev/null
say "gmpo --help; $(ray --version)"

gmpo train /opt/gmpo/recipes/tiny.yaml run.name=smoke run.steps=4 run.prompts_per_step=4 run.export_every=4 generation.group_size=4 \
    learner.updates_per_step=2 learner.checkpoint_every=2 prompts.held_out=0 evaluation.every=0
[ "$(wc -l < /tmp/runs/smoke/metrics.jsonl)" = 4 ] || refuse "not four steps"
gmpo ledger /tmp/runs/smoke
say "the tiny recipe trained four steps"
