# make run    install into .venv, then compare the models
# make test   run the tests, except the slow ones
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
OUTPUT ?= results
# A folder that holds ravdess/; a copy packed as FLAC brings a script that unpacks it.
DATA ?= $(or $(EMOBENCH_DATA),../shared/data)
WAV := build/data

# Python must be allowed to keep its compiled modules: TensorFlow starts three times slower without.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-slow test-real lint format bench results picture gate gate-run baseline clean

help:
	@echo "make run        install, show a first result, then the full comparison; writes $(OUTPUT)/"
	@echo "make test       run the tests, except the slow ones"
	@echo "make test-slow  run the slow tests"
	@echo "make test-real  run the tests on real recordings (DATA=folder that holds ravdess/)"
	@echo "make lint       check style and types; make format fixes style"
	@echo "make bench      print how much faster this is than code written by hand"
	@echo "make gate       run configs/ci.yaml and compare it with results/baseline: fails if quality went down"
	@echo "make baseline   replace results/baseline, after a change that is meant to change quality"
	@echo "make results    rebuild the committed leaderboards (DATA=folder that holds ravdess/)"
	@echo "make picture    redraw docs/leaderboard.svg from the committed leaderboards"

run: $(VENV)/.installed
	@echo
	@echo "1 of 2: a first result in about half a minute (emobench run configs/quick.yaml)"
	@$(BIN)/emobench run configs/quick.yaml --output $(OUTPUT)
	@echo
	@echo "2 of 2: the full comparison, ten to twenty minutes (emobench run configs/all.yaml)"
	@echo "Ctrl-C stops it; make run continues it."
	@$(BIN)/emobench run configs/all.yaml --output $(OUTPUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow --timeout 1800

test-real: $(VENV)/.installed-test
	EMOBENCH_REAL=1 $(BIN)/python -m pytest -m "slow or not slow" tests/test_real.py --timeout 900

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy emobench

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only -m "slow or not slow" --timeout 1800

results: $(VENV)/.installed
	if [ -f $(DATA)/unpack_ravdess.py ]; then $(BIN)/python $(DATA)/unpack_ravdess.py $(WAV)/ravdess; \
	else mkdir -p $(WAV) && ln -sfn "$$(realpath $(DATA)/ravdess)" $(WAV)/ravdess; fi
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/all.yaml --output results/ravdess
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/ravdess-5.yaml --output results/ravdess
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/ravdess-8.yaml --output results/ravdess
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/networks.yaml --output results/ravdess
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/stress.yaml --output results/ravdess
	$(MAKE) picture

picture: $(VENV)/.installed
	$(BIN)/python docs/picture.py

# Afresh: what an earlier state of the code has finished or extracted must not pass for this one's.
gate-run: $(VENV)/.installed
	rm -rf build/gate
	EMOBENCH_STORE=$(CURDIR)/build/gate/store $(BIN)/emobench run configs/ci.yaml --output build/gate/runs

gate: gate-run
	$(BIN)/emobench compare results/baseline build/gate/runs --fail uar:0.02

baseline: gate-run
	rm -rf results/baseline
	cd build/gate/runs/* && into=$(CURDIR)/results/baseline/$$(basename "$$PWD") && mkdir -p "$$into" && \
	cp run.json leaderboard.csv leaderboard.md predictions.parquet SHA256SUMS "$$into"

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing emobench into $(VENV). Its libraries are large (2.6 GB): this takes a few minutes."
	@$(PIP) --constraint constraints.txt --editable . & pid=$$!; n=0; \
	while kill -0 $$pid 2>/dev/null; do \
		sleep 1; n=$$((n + 1)); \
		[ $$((n % 20)) -ne 0 ] || echo "Still installing: $$(du -sh $(VENV) | cut -f1) so far"; \
	done; wait $$pid
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

# With the libraries, whose types mypy reads.
$(VENV)/.installed-lint: $(VENV)/.installed
	@$(PIP) --quiet --constraint constraints.txt --editable ".[lint]"
	@touch $@
