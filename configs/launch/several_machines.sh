#!/bin/bash
# A run on machines without a scheduler, or on several processes of this one. On each
# machine, with its own number (0 is the first, at whose address the others look):
#
#     PROCESSES=2 PROCESS=0 COORDINATOR=10.0.0.1:12400 \
#         configs/launch/several_machines.sh configs/rl/cartpole.yaml
#
# All need the same code, config and versions, and a directory that they share.
set -euo pipefail
: "${PROCESSES:?how many machines}" "${PROCESS:?the number of this one, from 0}"
: "${COORDINATOR:?address and port of the first}"

.venv/bin/eggroll train "$@" --distributed \
    --coordinator "$COORDINATOR" --processes "$PROCESSES" --process "$PROCESS"
