#!/usr/bin/env bash
# One run on several machines, by torch's own launcher: the same line on each of them.
#
#   HEAD=node-0 NODES=2 GPUS=8 ./torchrun.sh run.yaml output=/shared/runs/first
#
# HEAD is the machine that the others ask, NODES how many there are, GPUS the processes of each. The recipe, its data and
# its output lie on a file system that all of them see. SHARDS=1 shares the weights out (FSDP2); without it each process
# has all of them.
#
# SIGTERM, Ctrl-C and SIGUSR1 to a launcher reach the processes of its machine: they tell the others, finish the step,
# save a checkpoint and end. The same line again goes on from there. (An older torch than the pinned one may not know
# --signals-to-handle and --shutdown-timeout: leave that line out, and send SIGTERM; it then kills after 30 seconds.)
#
# Tried with NODES=2 GPUS=1 on one machine without GPUs; not run on several machines.
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "usage: HEAD=HOST NODES=N GPUS=N $0 RECIPE [SETTING=VALUE]..." >&2
  exit 2
fi
if [ "${SHARDS:-0}" = 1 ]; then
  export ACCELERATE_USE_FSDP=true FSDP_VERSION=2
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec torchrun \
  --nnodes "${NODES:?}" --nproc_per_node "${GPUS:?}" \
  --rdzv_backend c10d --rdzv_endpoint "${HEAD:?}:${PORT:-29500}" --rdzv_id "${RUN:-holdfast}" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "${PATIENCE:-600}" \
  -m holdfast train "$@"
