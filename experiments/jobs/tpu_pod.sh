#!/bin/bash
# Meta-train on all hosts of a TPU slice, one process on each host; JAX finds the other hosts.
#
#   TPU=my-tpu ZONE=us-central2-b DEVICES=16 bash experiments/jobs/tpu_pod.sh --training.tasks-per-step 16
#
# Before that, on all hosts (--worker=all): clone this repository into ~/jmeta, make .venv in it with
# `pip install '.[runs]' 'jax[tpu]'`, and mount one shared folder for runs (such as Filestore) at the same path.
# The arguments are further options of `jmeta train`. After a preemption, or when a host was lost, start it again.

set -eu
TPU=${TPU:-my-tpu}
ZONE=${ZONE:-us-central2-b}
RECIPE=${RECIPE:-glyphs_maml}
DEVICES=${DEVICES:-8}
RUN_DIR=${RUN_DIR:-/mnt/runs/$RECIPE}

TRAIN="jmeta train $RECIPE --distributed --mesh tasks=$DEVICES --run-dir $RUN_DIR $*"

gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd jmeta && source .venv/bin/activate && exec $TRAIN"
