#!/bin/sh
# Starts or continues one run, for launchers that start all over after an end: what every file here runs.
#
#   CONFIG=configs/lester2021/xxl.py OUT=/runs/xxl sh launch/train.sh [flags of prompt-jax train]
#
# Exit code 75 (try again) when the run was stopped by SIGTERM and has a state to go on from; else
# that of prompt-jax. OUT has to outlive the machine of the first process; the others never read it.
set -eu
resume=""
if [ -e "$OUT/config.json" ]; then resume="--resume"; fi
if [ -e "$OUT/report.md" ]; then
  echo "$OUT is complete"
  exit 0
fi
# shellcheck disable=SC2086 # No flag at all where there is none.
prompt-jax train "$CONFIG" --out "$OUT" $resume "$@"
if [ -e "$OUT/config.json" ] && [ ! -e "$OUT/report.md" ]; then exit 75; fi
