#!/bin/bash
# Submit from a folder that both nodes see: sbatch examples/two-slurm-nodes.sh
# Store and runs lie there, too. A job that is ended by its time limit continues where it was:
# submit the same script again. Not tried on a cluster yet: torchrun is, on one machine.
#SBATCH --job-name=tip
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    --no-python tip run examples/two-slurm-nodes.toml
