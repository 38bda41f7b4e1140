#!/usr/bin/env bash
# Requests a Cloud TPU, installs Python and the right wheels, trains on all of its workers, follows the log, goes on after a
# preemption, and deletes the TPU however it ends.
#
#   ./run_tpu.sh --name=bert --zone=us-west4-a --type=v5litepod-8 --workdir=gs://BUCKET/run1 --config=quickstart
#
# --dry-run prints every command instead of running it. docs/tpu.md says what of this was run and what was not.
set -euo pipefail

name="" zone="" project="" type="v5litepod-8" version="" workdir="" config="" python="uv" runtime="pjrt"
network="" subnetwork="" service_account="" labels="" wait_for="" max_restarts=10
dry_run=false keep=false spot=false reserved=false internal_ips=false detach=false attach=false
sets=()

usage() {
  cat <<'END'
usage: run_tpu.sh --name=NAME --zone=ZONE --workdir=gs://BUCKET/RUN --config=PATH|RECIPE [options]
  --type=v5litepod-8         the TPU's type and size: v4-*, v5litepod-*, v5p-*, v6e-*; also of several hosts
  --runtime=pjrt             what drives the TPU: pjrt (JAX's runtime), or tensorflow (its own; one host, v2 to v5p)
  --set key=value [...]      changes config keys; --set=key=value may be repeated, too
  --spot | --reserved        a spot TPU: cheaper, may be preempted; or one from a reservation; otherwise on demand
  --max-restarts=10          how often to go on by itself after a preemption
  --wait=DURATION            how long to wait for capacity, as 6h (default: without end)
  --project=PROJECT          the Google Cloud project (default: gcloud's)
  --version=IMAGE            the TPU VM's runtime version (default: Google's base image for the type)
  --python=uv                how the VM gets Python 3.11: uv, or deadsnakes (Ubuntu packages)
  --network=N --subnetwork=S --internal-ips --service-account=EMAIL --labels=KEY=VALUE,...   of the TPU VM
  --detach                   leave once the job has started; --attach with the same flags follows it, and deletes at the end
  --keep                     do not delete the TPU at the end
  --dry-run                  print the commands, run none
END
}

fail() {
  echo "error: $1" >&2
  exit "${2:-2}"
}

while [[ $# -gt 0 ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --runtime=*) runtime="${1#*=}" ;;
    --workdir=*) workdir="${1#*=}" ;;
    --config=*) config="${1#*=}" ;;
    --network=*) network="${1#*=}" ;;
    --subnetwork=*) subnetwork="${1#*=}" ;;
    --service-account=*) service_account="${1#*=}" ;;
    --labels=*) labels="${1#*=}" ;;
    --wait=*) wait_for="${1#*=}" ;;
    --max-restarts=*) max_restarts="${1#*=}" ;;
    --set=*) sets+=("${1#*=}") ;;
    --set)
      while [[ $# -gt 1 && "$2" == *=* && "$2" != --* ]]; do
        sets+=("$2")
        shift
      done
      ;;
    --spot) spot=true ;;
    --reserved) reserved=true ;;
    --internal-ips) internal_ips=true ;;
    --detach) detach=true ;;
    --attach) attach=true ;;
    --keep) keep=true ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
  shift
done

for required in name zone workdir config; do
  [[ -n "${!required}" ]] || { usage >&2; fail "--$required is needed"; }
done
[[ "$name" =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] || fail "--name=$name: small letters, digits and -, beginning with a letter"
[[ "$workdir" == gs://?* ]] || fail "--workdir=$workdir: a TPU VM is deleted at the end; the workdir must be on gs://"
[[ "$python" == uv || "$python" == deadsnakes ]] || fail "--python=$python is not one of uv, deadsnakes"
[[ "$runtime" == pjrt || "$runtime" == tensorflow ]] || fail "--runtime=$runtime is not one of pjrt, tensorflow"
[[ "$max_restarts" =~ ^[0-9]+$ ]] || fail "--max-restarts=$max_restarts is no number"
! { $spot && $reserved; } || fail "--spot and --reserved: a TPU is one of them"
! { $detach && $attach; } || fail "--detach and --attach: one starts a job, the other one follows it"
size="${type##*-}"
[[ "$type" == *-* && "$size" =~ ^[0-9]+$ ]] || fail "--type=$type: a generation and a size, as v5litepod-8"
if [[ "$runtime" == tensorflow ]]; then
  [[ "$type" != v6e-* ]] || fail "--runtime=tensorflow: TensorFlow's runtime was not made for $type; --runtime=pjrt drives it"
  [[ "$size" -le 8 ]] || fail "--type=$type has several hosts; with --runtime=tensorflow this script drives one"
fi
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
here="$(cd "$(dirname "$0")" && pwd)"
[[ -f "$config" || ! -f "$here/configs/$config.yaml" ]] || config="$here/configs/$config.yaml"
[[ -f "$config" ]] || fail "--config: no file $config, and no recipe of that name in $here/configs"
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

place=(--zone="$zone")
[[ -z "$project" ]] || place+=(--project="$project")
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
stage="$(mktemp -d)"

run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  $dry_run || "$@"
}

on_workers() { # WORKER COMMAND
  run "${vm[@]}" ssh "$name" "${place[@]}" --worker="$1" --command="$2"
}

state() { # of the request: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, FAILED, SUSPENDED ...; ABSENT: no such request
  local answer
  for _ in 1 2 3 4 5; do
    if answer="$("${queue[@]}" describe "$name" "${place[@]}" --format='value(state.state)' 2>&1)"; then
      echo "${answer##*$'\n'}"
      return
    elif [[ "$answer" == *NOT_FOUND* || "$answer" == *"not found"* ]]; then
      echo ABSENT
      return
    fi
    sleep 10
  done
  echo UNKNOWN # the API did not answer: that says nothing of the TPU
}

vm_state() { # READY, PREEMPTED, TERMINATED ...; UNKNOWN: the API did not answer
  "${vm[@]}" describe "$name" "${place[@]}" --format='value(state)' 2>/dev/null || echo UNKNOWN
}

# A TPU costs money until it is deleted: several tries, and its absence is looked at.
delete() {
  $dry_run && { run "${queue[@]}" delete "$name" "${place[@]}" --force --quiet; return 0; }
  local try
  for try in 1 2 3 4 5; do
    [[ "$(state)" != ABSENT ]] || return 0
    run "${queue[@]}" delete "$name" "${place[@]}" --force --quiet || true
    [[ "$(state)" != ABSENT ]] || return 0
    sleep $((try * 15))
  done
  echo "error: $name could not be deleted AND STILL COSTS MONEY; delete it: ${queue[*]} delete $name ${place[*]} --force" >&2
  return 1
}

created=false
end() {
  local status=$?
  trap - EXIT INT TERM HUP
  rm -rf "$stage"
  if $created && ! $keep; then delete || status=1; fi
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# 1. What the VM gets: the project, the config, and a script of the job.
write_job() {
  local full travelled=launched.yaml arguments set
  full="$(cd "$(dirname "$config")" && pwd)/$(basename "$config")"
  cp "$config" "$stage/launched.yaml"
  # A config of the project is used in its place: its relative paths are looked up in its folder.
  [[ "$full" != "$here"/* ]] || travelled="${full#"$here"/}"
  arguments=(--config="$travelled" --workdir="$workdir" --tpu=local)
  [[ "$runtime" == pjrt ]] && arguments+=("--set=runtime.distribution=pjrt") || arguments+=("--set=runtime.distribution=tpu")
  # A TPU multiplies in bfloat16; a config or --set that names a precision wins.
  if ! grep -qE '^ *precision:' "$config" && [[ " ${sets[*]-} " != *" train.precision="* ]]; then
    arguments+=("--set=train.precision=bfloat16")
  fi
  for set in "${sets[@]+"${sets[@]}"}"; do arguments+=("--set=$set"); done
  {
    echo '#!/usr/bin/env bash'
    printf 'workdir=%q python=%q runtime=%q\n' "$workdir" "$python" "$runtime"
    printf 'arguments=(%s)\n' "$(printf '%q ' "${arguments[@]}")"
    cat "$here/configs/tpu/job.sh"
  } > "$stage/job.sh"
  tar -C "$here" --exclude=.venv --exclude=.venv-peer --exclude=.git --exclude=workdir -czf "$stage/project.tgz" .
}

# 2. The TPU, from a queue: a plain `create` fails when there is no capacity at that moment.
request() {
  local ask=("${queue[@]}" create "$name" "${place[@]}" --node-id="$name" --accelerator-type="$type" --runtime-version="$version")
  ! $spot || ask+=(--spot)
  ! $reserved || ask+=(--reserved)
  ! $internal_ips || ask+=(--internal-ips)
  [[ -z "$network" ]] || ask+=(--network="$network")
  [[ -z "$subnetwork" ]] || ask+=(--subnetwork="$subnetwork")
  [[ -z "$service_account" ]] || ask+=(--service-account="$service_account")
  [[ -z "$labels" ]] || ask+=(--labels="$labels")
  [[ -z "$wait_for" ]] || ask+=(--valid-until-duration="$wait_for")
  created=true # before the call: it may be interrupted when the request is made already
  run "${ask[@]}" || return 1
  ! $dry_run || return 0
  local now before=""
  while now="$(state)"; [[ "$now" != ACTIVE ]]; do
    [[ "$now" == "$before" ]] || echo "$name: $now"
    before="$now"
    case "$now" in
      FAILED | ABSENT) fail "$name: the request is $now (quota, capacity, or --wait ran out): $("${queue[@]}" describe "$name" \
        "${place[@]}" --format='value(state.failedData.error.message)' 2>/dev/null)" 1 ;;
      SUSPENDING | SUSPENDED) return 74 ;;
    esac
    sleep 20
  done
}

# 3. Python, the wheels and the job, on all workers. SSH may need some tries while a VM comes up.
install() {
  local try
  for try in 1 2 3 4 5; do
    if run "${vm[@]}" scp "$stage/project.tgz" "$stage/job.sh" "$stage/launched.yaml" "$name:" "${place[@]}" --worker=all \
      && on_workers all 'bash job.sh install'; then
      return 0
    fi
    is_lost && return 74
    sleep 20
  done
  fail "$name: the workers could not be set up in $try tries" 1
}

is_lost() { # whether the TPU is gone or about to; not whether a connection broke
  ! $dry_run || return 1
  case "$(state)" in SUSPENDING | SUSPENDED | FAILED | ABSENT) return 0 ;; esac
  case "$(vm_state)" in PREEMPTED | TERMINATED | STOPPED | DELETING) return 0 ;; esac
  return 1
}

# 4. The log of worker 0, until the job ends, over as many connections as it takes.
follow() {
  local answer is_shown again=0 broken=0
  : > "$stage/log"
  while true; do
    # From the line after the last one that was shown: a broken connection shows nothing twice.
    is_shown=true
    on_workers 0 "bash job.sh follow $(($(wc -l < "$stage/log") + 1))" > >(tee -a "$stage/log") || is_shown=false
    ! $dry_run || return 0
    # What gcloud returns may be its own, SSH's or the job's: the job's is what the job says.
    answer="$("${vm[@]}" ssh "$name" "${place[@]}" --worker=0 --command='bash job.sh status' 2>/dev/null || true)"
    answer="$(grep -o 'job status: .*' <<<"$answer" || true)"
    if [[ "$answer" =~ ^"job status: "[0-9]+$ ]] && ! $is_shown && [[ "$again" -lt 3 ]]; then
      again=$((again + 1)) # the end of the log is still to be shown
      continue
    fi
    case "$answer" in
      "job status: 0") return 0 ;;
      "job status: running") continue ;;
      "job status: killed")
        is_lost && return 74
        fail "the job on $name ended without an exit status: it was killed; $workdir has its last checkpoint" 1
        ;;
      "job status: "*)
        is_lost && return 74
        fail "the job on $name ended with status ${answer#job status: }; its log is in $workdir/logs" "${answer#job status: }"
        ;;
    esac
    is_lost && return 74
    broken=$((broken + 1))
    [[ "$broken" -le 40 ]] || fail "$name cannot be reached; the job may still run: rerun with --attach" 1
    echo "the connection broke; trying again in 30 s" >&2
    sleep 30
  done
}

once() { # the whole, on one TPU; 74: it was preempted
  if ! $attach; then
    request || return $?
    install || return $?
    on_workers all 'bash job.sh start' || { ! is_lost || return 74; return 1; }
    if $detach; then
      keep=true
      echo "the job runs on $name, which costs money until it is deleted; follow it with the same flags and --attach"
      return 0
    fi
  fi
  follow
}

if $attach; then
  $dry_run || [[ "$(state)" == ACTIVE ]] || fail "--attach: $name is $(state), not ACTIVE" 1
  created=true
elif ! $dry_run && [[ "$(state)" != ABSENT ]]; then
  # Another run's TPU is neither used nor deleted: its job may be running.
  [[ "$(state)" != UNKNOWN ]] || fail "the TPU API does not answer; look at: ${queue[*]} list ${place[*]}" 1
  fail "--name=$name: there is a request of this name, and its job may be running. Choose another name, follow it with --attach, \
or delete it first: ${queue[*]} delete $name ${place[*]} --force" 1
fi
write_job
for ((restart = 0; ; restart++)); do
  status=0
  once || status=$?
  [[ "$status" -eq 74 ]] || break
  [[ "$restart" -lt "$max_restarts" ]] || fail "$name was preempted, and --max-restarts=$max_restarts is used up; $workdir has \
the last checkpoint: rerun the same command to resume" 1
  echo "$name was preempted; asking for another one, which resumes from $workdir ($((restart + 1)) of $max_restarts)" >&2
  delete || exit 1
  attach=false
done
[[ "$status" -eq 0 ]] || exit "$status"
$detach || echo "the run is in $workdir"
