#!/bin/bash
# The same as gke_jobset.yaml by xpk, which writes the JobSet itself.
#
#   CLUSTER=mine IMAGE=REGISTRY/prompt-jax:tpu-0.1.0 bash launch/xpk.sh
#
# Checked here: its syntax and the flags of prompt-jax. Not run: no cluster was at hand.
set -euo pipefail
: "${CLUSTER:?}" "${IMAGE:?}"
CONFIG="${CONFIG:-configs/lester2021/xxl.py}" OUT="${OUT:-/runs/xxl}"
xpk workload create \
  --cluster="$CLUSTER" \
  --workload="${WORKLOAD:-prompt-jax}" \
  --tpu-type="${SIZE:-v5litepod-8}" \
  --num-slices="${SLICES:-1}" \
  --max-restarts=20 \
  --docker-image="$IMAGE" \
  --command="CONFIG=$CONFIG OUT=$OUT sh launch/train.sh --mesh.fsdp auto --mesh.tensor auto"
