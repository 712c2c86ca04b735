# The rounds of VILA^2. Every stage renames its folder into place when it is complete, so `make` goes on wherever it
# was stopped.
#
#   make round3                              the embedded world, on a CPU
#   make round3 RECIPE=recipes/vila2-8b.toml the paper's settings, on GPUs
#   LAUNCH=slurm make round3                 the same as Slurm jobs that wait for each other
#   LAUNCH=make make -n round3               stage by stage as rules of make, to be read, edited and composed

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules --no-print-directory

RECIPE ?= recipes/world.toml
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Versions that were tested together; LOCK= takes the newest that pyproject.toml allows.
LOCK ?= requirements.lock
INSTALL ?= $(VENV)/bin/pip install --quiet --disable-pip-version-check
SET ?=
SMOKE ?=
BENCH := runs/benchmark-rounds/seed0
VILA2 = $(VENV)/bin/vila2
quoted = '$(subst ','\'',$(1))'
FLAGS = --recipe $(call quoted,$(RECIPE)) $(SET)
# What of a run is asked for. The product, which reads the recipe, knows the stages that lead there, and which of
# them can run side by side; `vila2 run TARGET --print make` writes them as rules.
control_names = $(patsubst control-%,final-%,$(1))
TARGETS := $(filter round% specialists controls final-% world,$(call control_names,$(MAKECMDGOALS)))
RULES := runs/rules-$(word 1,$(shell printf %s $(call quoted,$(RECIPE) $(SET) $(TARGETS)) | cksum)).mk

LAUNCH ?=

.PHONY: help setup lock test lint types docs wheel report bench bench-smoke clean FORCE

help: ## list the targets
	@grep -hE '^(# )?[a-z%0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^(# )?([^:]+):.*## (.*)/  \2\t\3/' | expand -t 16

setup: $(VENV)/installed ## make the virtual environment and install the package into it

$(VENV)/installed: pyproject.toml $(LOCK)
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(INSTALL) "$(TORCH)"
	@$(INSTALL) $(if $(LOCK),--constraint $(LOCK)) -e '.[dev]'
	@touch $@

# vLLM allows only some versions of transformers, and its tests run in the same environment.
lock: ## write requirements.lock anew: the newest versions, tested before it is committed
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--extra dev --constraint .ci/vllm.txt pyproject.toml | \
		grep -vE '^(nvidia-|cuda-|triton|colorama|setuptools)' >$@.partial
	@{ sed -n '/^#/p' requirements.lock; cat $@.partial; } >$@.whole && rm $@.partial && mv $@.whole requirements.lock

# They start some hundred processes, each of which would compile torch and transformers anew.
test: setup ## run the tests, on up to 8 processors
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 \
		$(VENV)/bin/pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: setup ## ruff and the import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: setup ## mypy --strict
	$(VENV)/bin/mypy

docs: setup ## build the guide into build/docs, every warning an error
	@$(INSTALL) $(if $(LOCK),--constraint $(LOCK)) --requirement .ci/docs.txt
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet --clean
	@echo "the guide is in build/docs/index.html"

wheel: setup ## build the wheel, and try it in an empty folder on every Python there is
	.ci/wheel $(VENV)

# round%: ## rounds 0 to N, as in make round3: recaption, pretrain, sft, eval, judge
# specialists: ## specialists from the last round, their answers, and the final model trained with them
# controls: ## all controls of the final model; control-%: one of them, direct, equal-compute, only-ocr ...
# world: ## draw the embedded data (only where the recipe reads it)
ifneq ($(TARGETS),)
ifeq ($(LAUNCH),slurm)
.PHONY: $(TARGETS)
$(TARGETS): $(VENV)/installed
	PATH="$(abspath $(VENV))/bin:$$PATH" vila2 slurm submit $@ $(FLAGS)
else ifeq ($(LAUNCH),make)
include $(RULES)

# Written again each time, and read again only where it has changed.
$(RULES): $(VENV)/installed FORCE
	@mkdir -p $(@D)
	@$(VILA2) run $(TARGETS) --print make $(FLAGS) >$@.partial || { code=$$?; rm -f $@.partial; exit $$code; }
	@cmp -s $@.partial $@ && rm $@.partial || mv $@.partial $@
else
.PHONY: $(TARGETS)
$(TARGETS) &: $(VENV)/installed
	$(VILA2) run $(TARGETS) $(FLAGS)
endif

control-%: final-% ;
endif

report: setup ## write the run up as one HTML page
	$(VILA2) report $(FLAGS)

bench: setup ## the measurements behind the published tables (hours)
	$(VENV)/bin/python benchmarks/rounds.py --specialists
	$(VENV)/bin/python benchmarks/specialists.py
	$(VENV)/bin/python benchmarks/splits.py --model $(BENCH)/runs/world/round0/sft --shards $(BENCH)/data/pretrain/*.tar
	$(VENV)/bin/python benchmarks/scale.py --model $(BENCH)/runs/world/round0/sft
	$(VENV)/bin/python benchmarks/recaption.py
	$(VENV)/bin/python benchmarks/filter.py
	$(VENV)/bin/python benchmarks/choosing.py
	$(VENV)/bin/python benchmarks/prompts.py
	$(VENV)/bin/python benchmarks/reading.py
	$(VENV)/bin/python benchmarks/dataset.py
	$(VENV)/bin/python benchmarks/in_flight.py
	$(VENV)/bin/python benchmarks/memory.py
	$(VENV)/bin/python benchmarks/durability.py
	$(VENV)/bin/python benchmarks/eval_overhead.py --out benchmarks/results/eval_overhead.json
	$(VENV)/bin/python benchmarks/train.py
	$(VENV)/bin/python benchmarks/findings_vila.py
	$(VENV)/bin/python benchmarks/tiles.py

bench-smoke: setup ## every benchmark in its form of seconds, to see that none is broken (minutes)
	$(VENV)/bin/python benchmarks/smoke.py $(SMOKE)

clean: ## remove data, runs and caches; keeps the virtual environment
	rm -rf data/world runs build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

FORCE:
