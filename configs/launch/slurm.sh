#!/bin/bash
# A run on the GPUs of several nodes of a SLURM cluster:
#
#     sbatch configs/launch/slurm.sh configs/rl/cartpole.yaml --population 65536
#
# and the same again, with `--resume RUN` in place of the config, goes on with it.
# One process a node, which has all of its GPUs; JAX reads from SLURM's variables who is
# the first. Checkpoints, and so `output`, need a directory that all nodes share.
#SBATCH --job-name=eggroll
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
# Two minutes before its time is over, the run is asked to save and stop.
set -euo pipefail

srun --kill-on-bad-exit=1 .venv/bin/eggroll train "$@" --distributed
