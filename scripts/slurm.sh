#!/bin/sh
# Trains under SLURM, on any number of machines and GPUs, and goes on in a new job when the time limit comes:
#
#   sbatch scripts/slurm.sh                                                the default, as below
#   sbatch --nodes 2 --time 1-0 scripts/slurm.sh --config configs/NAME.yaml
#
# Options before the script are those of sbatch and win over the #SBATCH lines; words behind it are those of `fit`.
# Submit it from where `python -m gan.cli` works; relative paths start there. `scancel JOB` ends it for good.

# Adapt these three to your cluster:
#SBATCH --time=04:00:00           # the limit of one piece of the run: at least ten minutes
#SBATCH --cpus-per-task=4         # cores of one process
#SBATCH --gpus-per-node=1         # not --gpus-per-task, which hides the other GPUs from a process; on CPUs, delete it
# and add what it asks for: #SBATCH --partition=NAME, #SBATCH --account=NAME, ...

# One process per GPU:
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1       # the same number as GPUs per node

# Leave these:
#SBATCH --job-name=gan            # Lightning takes a job named `bash` or `interactive` for one without SLURM
#SBATCH --signal=TERM@120         # seconds before the limit: the run finishes its batch, or on several processes up to
                                  # ten, saves, and ends with 143; give it more where batches are slow
#SBATCH --requeue                 # after a preemption or a broken node
#SBATCH --open-mode=append        # one log for all pieces

# module load cuda                # adapt: whatever makes `python` the right one
# . .venv/bin/activate

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"  # srun does not take it from sbatch, from 22.05 on

# The job keeps its number when it is requeued, and so its folder; a --run_dir of yours wins over this one. SLURM must
# not stop all processes as soon as one has ended: one that saves would be disturbed, and an error would become a 143.
srun --kill-on-bad-exit=0 --wait=120 python -m gan.cli fit --run_dir "runs/slurm-$SLURM_JOB_ID" --resume auto \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" "$@"
status=$?

# 143 is SIGTERM. scancel and preemption send it too, but to this script as well, which does not come here then.
if [ "$status" -eq 143 ]; then
    echo "time limit: job $SLURM_JOB_ID goes on in a new piece"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
