#!/bin/bash
# A run on a TPU pod, by xpk (https://github.com/AI-Hypercomputer/xpk), on a GKE cluster
# that `xpk cluster create` has made:
#
#     CLUSTER=mine TPU=v5litepod-256 OUTPUT=gs://bucket/runs \
#         configs/launch/tpu_pod.sh configs/rl/cartpole.yaml --population 1048576
#
# One process a host; JAX asks the pod who is the first, and where there are several
# slices the population, not a model, lies across them. Resume with `--resume RUN`.
set -euo pipefail
: "${CLUSTER:?the name of the cluster}" "${TPU:?the type of the slices}"
: "${OUTPUT:?a directory that all hosts share, such as a bucket that is mounted}"

xpk workload create \
    --cluster "$CLUSTER" \
    --workload "${NAME:-eggroll}" \
    --tpu-type "$TPU" \
    --num-slices "${SLICES:-1}" \
    --script-dir . \
    --command "pip install -e '.[cli,rl]' 'jax[tpu]' && eggroll train $* --output $OUTPUT --distributed"
