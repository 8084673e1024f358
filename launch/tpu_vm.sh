#!/bin/bash
# A run on all workers of a Cloud TPU slice: makes it, installs, mounts a bucket, trains.
#
#   PROJECT=mine ZONE=us-west4-a SIZE=v5litepod-16 BUCKET=mine CONFIG=configs/lester2021/xxl.py bash launch/tpu_vm.sh
#
# Give the same again after a preemption: the slice is made anew and the run goes on from the bucket. What
# is committed is what is installed. The slice costs until `gcloud compute tpus tpu-vm delete`.
# Checked: its syntax, shellcheck, the flags of prompt-jax, and its body with a gcloud that is none
# (tests/test_launch.py). Not run: no cloud was at hand.
set -euo pipefail
: "${PROJECT:?}" "${ZONE:?}" "${BUCKET:?}" "${CONFIG:?}"
NAME="${NAME:-prompt-jax}" SIZE="${SIZE:-v5litepod-16}" RUN="${RUN:-run}"
VERSION="${VERSION:-v2-alpha-tpuv5-lite}" # What the machines boot; it belongs to SIZE.
tpu() { gcloud compute tpus tpu-vm "$@" --project="$PROJECT" --zone="$ZONE"; }

state="$(tpu describe "$NAME" --format='value(state)' 2>/dev/null || true)"
case "$state" in
  PREEMPTED | TERMINATED) # It stays in the list, and never starts again.
    tpu delete "$NAME" --quiet
    state=""
    ;;
esac
if [ -z "$state" ]; then
  tpu create "$NAME" --accelerator-type="$SIZE" --version="$VERSION" --spot
fi

made="$(mktemp -d)"
trap 'rm -r "$made"' EXIT
git archive --output="$made/prompt_jax.tar.gz" HEAD
tpu scp "$made/prompt_jax.tar.gz" "$NAME:" --worker=all

# uv brings Python 3.11, which the machines may lack. Checkpoints are folders that get their name when
# they are whole, and gcsfuse renames none unless it is told how large they may be.
tpu ssh "$NAME" --worker=all --command="set -e
  mkdir -p prompt_jax runs
  tar -xzf prompt_jax.tar.gz -C prompt_jax
  python3 -m pip install -q --user uv
  python3 -m uv venv -q --allow-existing --python 3.11 env
  python3 -m uv pip install -q --python env/bin/python './prompt_jax[tpu]'
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key >/dev/null
  echo \"deb [signed-by=\$key] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -q -o DPkg::Lock::Timeout=600 update
  sudo apt-get -qy -o DPkg::Lock::Timeout=600 install gcsfuse
  mountpoint -q runs || gcsfuse --implicit-dirs --rename-dir-limit=10000 $BUCKET runs"
tpu ssh "$NAME" --worker=all --command="
  export PATH=\$PWD/env/bin:\$PATH CONFIG=$CONFIG OUT=\$PWD/runs/$RUN
  cd prompt_jax && exec sh launch/train.sh --mesh.fsdp auto --mesh.tensor auto"
