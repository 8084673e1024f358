#!/bin/sh
# Starts a run or continues it: what every file here runs, so that none needs to know which of both.
#
#   CONFIG=configs/lester2021/xxl.py OUT=/runs/xxl sh launch/train.sh [flags of prompt-jax train]
#
# Exit code 0 when the run is complete, 75 (try again) when it was told to stop by SIGTERM or Ctrl-C
# before, else that of prompt-jax. OUT has to outlive the machines, and every process has to see it.
# Checked: a run that is stopped, goes on, and is complete (tests/test_launch.py).
set -eu
if [ -e "$OUT/report.md" ]; then
  echo "$OUT is complete"
  exit 0
fi
RESUME=""
if [ -e "$OUT/config.json" ]; then RESUME=--resume; fi

# shellcheck disable=SC2086 # No flag at all where there is none.
prompt-jax train "$CONFIG" --out "$OUT" $RESUME "$@" &
run=$!
# Slurm and Kubernetes signal this shell alone, which would end, or as a container's first process
# not even that, and leave the run to be killed with its state unsaved.
told=""
trap 'told=yes; kill -TERM "$run" 2>/dev/null || true' TERM INT
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # A signal ends `wait`, and not the run.
  code=0
  wait "$run" || code=$?
done

if [ -e "$OUT/report.md" ]; then exit "$code"; fi
if [ -n "$told" ]; then exit 75; fi
# Another process was told.
if [ "$code" -eq 0 ] && [ -e "$OUT/config.json" ]; then exit 75; fi
exit "$code"
