#!/bin/bash
# A run on all workers of a Cloud TPU slice: makes it, installs, trains, and keeps what it made.
#
#   PROJECT=mine ZONE=us-west4-a SIZE=v5litepod-8 CONFIG=configs/lester2021/xxl.py bash launch/tpu_vm.sh
#
# Run again after a preemption: the slice is made anew and the run goes on from BUCKET.
# Checked here: its syntax and the flags of prompt-jax. Not run: no cloud was at hand.
set -euo pipefail
: "${PROJECT:?}" "${ZONE:?}" "${CONFIG:?}"
NAME="${NAME:-prompt-jax}" SIZE="${SIZE:-v5litepod-8}" BUCKET="${BUCKET:-$PROJECT-prompt-jax}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}" RUN="${RUN:-run}"
tpu() { gcloud compute tpus tpu-vm "$@" --project="$PROJECT" --zone="$ZONE"; }

if ! tpu describe "$NAME" >/dev/null 2>&1; then
  tpu create "$NAME" --accelerator-type="$SIZE" --version="$RUNTIME" --spot
fi
tpu ssh "$NAME" --worker=all --command="
  set -e
  test -d prompt_jax || git clone -q https://github.com/prompt-jax/prompt_jax
  pip install -q './prompt_jax[tpu]'
  gcloud storage cp -r gs://$BUCKET/$RUN . 2>/dev/null || true"
# The first worker keeps the run folder in the bucket while it trains.
tpu ssh "$NAME" --worker=all --command="
  cd prompt_jax
  (while sleep 300; do gcloud storage rsync -r ../$RUN gs://$BUCKET/$RUN; done) >/dev/null 2>&1 &
  keeper=\$!
  CONFIG=$CONFIG OUT=../$RUN sh launch/train.sh --mesh.fsdp auto --mesh.tensor auto
  code=\$?
  kill \$keeper
  test ! -d ../$RUN || gcloud storage rsync -r ../$RUN gs://$BUCKET/$RUN
  exit \$code"
