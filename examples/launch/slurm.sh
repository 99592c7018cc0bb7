#!/usr/bin/env bash
# One run on several machines, by Slurm: one task for each GPU, and again in the queue where the time was too short.
#
#   sbatch examples/launch/slurm.sh run.yaml output=/shared/runs/first
#
# The recipe, its data and its output lie on a file system that all machines see. Ten minutes before the job's time is
# up Slurm signals this script (--signal), which passes it on: the run finishes its step, saves a checkpoint and ends,
# and the job goes into the queue again, to go on from there. So does a job that is taken from its machines (--requeue).
# A job that ends by itself, or for a mistake in the recipe, stays ended.
#
# Not run on a cluster: the tests run it with other commands in the places of srun and scontrol.
#SBATCH --job-name=holdfast
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.txt
set -uo pipefail

if [ "$#" -eq 0 ]; then
  echo "usage: sbatch slurm.sh RECIPE [SETTING=VALUE]..." >&2
  exit 2
fi
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# The weights shared out over all GPUs (FSDP2); without this line each process has all of them.
export ACCELERATE_USE_FSDP=true FSDP_VERSION=2

stopped=no
trap 'stopped=yes; kill -USR1 "$step"' USR1 # srun passes it on to every task

# Each task is one process of the run and is told its place in it as torchrun would tell it.
# shellcheck disable=SC2016  # the task's shell fills this in
srun --kill-on-bad-exit=1 bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec python -m holdfast train "$@"' holdfast "$@" &
step=$!
while true; do # a signal ends the wait, and not the step
  wait "$step"
  code=$?
  kill -0 "$step" 2>/dev/null || break
done
if [ "$stopped" = yes ] && [ "$code" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
