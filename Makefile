# make run    compare the models (installs what it needs into .venv first)
# make test   run the tests, except the slow ones
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= results
# A folder that holds ravdess/; a copy packed as FLAC brings a script that unpacks it.
DATA ?= $(or $(EMOBENCH_DATA),../shared/data)
WAV := build/data

# Python must be allowed to keep its compiled modules: TensorFlow starts three times slower without.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-slow test-real lint format bench results gate gate-run baseline clean

help:
	@echo "make run        compare the models of configs/all.yaml, write $(OUTPUT)/"
	@echo "make test       run the tests, except the slow ones"
	@echo "make test-slow  run the slow tests"
	@echo "make test-real  run the tests on real recordings (DATA=folder that holds ravdess/)"
	@echo "make lint       check style; make format mends it"
	@echo "make bench      print speeds as ratios to what one would write by hand"
	@echo "make gate       run configs/ci.yaml and compare it with results/baseline: fails if quality went down"
	@echo "make baseline   make results/baseline anew, after a change that is meant to change quality"
	@echo "make results    make the committed leaderboards again (DATA=folder that holds ravdess/)"

run: $(VENV)/.installed
	$(BIN)/emobench run configs/all.yaml --output $(OUTPUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow --timeout 1800

test-real: $(VENV)/.installed-test
	EMOBENCH_REAL=1 $(BIN)/python -m pytest -m "slow or not slow" tests/test_real.py --timeout 900

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only -m "slow or not slow" --timeout 1800

results: $(VENV)/.installed
	if [ -f $(DATA)/unpack_ravdess.py ]; then $(BIN)/python $(DATA)/unpack_ravdess.py $(WAV)/ravdess; \
	else mkdir -p $(WAV) && ln -sfn "$$(realpath $(DATA)/ravdess)" $(WAV)/ravdess; fi
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/all.yaml --output $(OUTPUT)
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/ravdess-5.yaml --output $(OUTPUT)
	EMOBENCH_DATA=$(WAV) $(BIN)/emobench run configs/ravdess-8.yaml --output $(OUTPUT)

# Afresh: what an earlier state of the code has finished or extracted must not pass for this one's.
gate-run: $(VENV)/.installed
	rm -rf build/gate
	EMOBENCH_STORE=$(CURDIR)/build/gate/store $(BIN)/emobench run configs/ci.yaml --output build/gate/runs

gate: gate-run
	$(BIN)/emobench compare results/baseline build/gate/runs --fail uar:0.02

baseline: gate-run
	rm -rf results/baseline
	cd build/gate/runs/* && into=$(CURDIR)/results/baseline/$$(basename "$$PWD") && mkdir -p "$$into" && \
	cp run.json leaderboard.csv leaderboard.md predictions.parquet "$$into"

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ruff
	@touch $@
