# The rounds of VILA^2 as a graph: every target is a folder or file that a stage renames into place
# when it is complete, so `make` goes on wherever it was stopped.
#
#   make round3                              the embedded world, on a CPU
#   make round3 RECIPE=recipes/vila2-8b.toml the paper's settings, on GPUs
#   LAUNCH=slurm make round3                 the same as Slurm jobs that wait for each other

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
.SECONDEXPANSION:
MAKEFLAGS += --no-builtin-rules --no-print-directory

RECIPE ?= recipes/world.toml
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Versions that were tested together; LOCK= takes the newest that pyproject.toml allows.
LOCK ?= requirements.lock
SET ?=
NAME := $(shell sed -n 's/^name *= *"\(.*\)"/\1/p' $(RECIPE) | head -n 1)
RUN := runs/$(NAME)
BENCH := runs/benchmark-rounds/seed0
VILA2 = $(VENV)/bin/vila2
FLAGS = --recipe $(RECIPE) $(SET)
SPECIALISTS := $(shell sed -n 's/^\[specialists\.\([a-z0-9-]*\)\].*/\1/p' $(RECIPE))
IS_WORLD := $(shell grep -c '"world:' $(RECIPE))
IS_FILTERED := $(shell grep -cE '^filtered *= *true' $(RECIPE))
IS_LORA := $(or $(findstring specialize.lora=true,$(SET)),$(shell grep -xE 'lora *= *true( *\#.*)?' $(RECIPE)))
TRAINED_ON := $(if $(filter-out 0,$(IS_FILTERED))$(findstring pretrain.filtered=true,$(SET)),filter,recaption)
WORLD := $(if $(filter-out 0,$(IS_WORLD)),data/world/world.json)

LAUNCH ?=
SUBMIT = PATH="$(abspath $(VENV))/bin:$$PATH" vila2 slurm submit

.PHONY: help setup lock test lint types world specialists controls report bench clean FORCE

help: ## list the targets
	@grep -hE '^[a-z%0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([^:]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: $(VENV)/installed ## make the virtual environment and install the package into it

$(VENV)/installed: pyproject.toml $(LOCK)
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(if $(LOCK),--constraint $(LOCK)) -e '.[dev]'
	@touch $@

# vLLM allows only some versions of transformers, and its tests run in the same environment.
lock: ## write requirements.lock anew: the newest versions, tested before it is committed
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--extra dev --constraint .ci/vllm.txt pyproject.toml | \
		grep -vE '^(nvidia-|cuda-|triton|colorama|setuptools)' >$@.partial
	@{ sed -n '/^#/p' requirements.lock; cat $@.partial; } >$@.whole && rm $@.partial && mv $@.whole requirements.lock

test: setup ## run the tests, on up to 8 processors
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --maxprocesses 8 --dist loadfile

lint: setup ## ruff and the import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: setup ## mypy --strict
	$(VENV)/bin/mypy

world: $(WORLD) ## draw the embedded data (only for recipes/world.toml)

data/world/world.json: $(VENV)/installed
	$(VILA2) world $(FLAGS)

ifeq ($(LAUNCH),slurm)
round%: $(VENV)/installed $(WORLD) FORCE
	$(SUBMIT) round$* $(FLAGS)

specialists: $(VENV)/installed $(WORLD) FORCE
	$(SUBMIT) specialists $(FLAGS)
else
round%: $(RUN)/round%/eval/metrics.json $$(if $$(filter-out 0,$$*),$(RUN)/round$$*/judge/summary.json) FORCE ## rounds 0 to N, as in make round3: recaption, pretrain, sft, eval, judge
	@echo "round $* is complete: $(RUN)/round$*"

specialists: $(RUN)/final/eval/metrics.json FORCE ## specialists from the last round, their answers, and the final model trained with them
	@echo "the final model is complete: $(RUN)/final"
endif

$(RUN)/round0/pretrain/vila2.json: $(VENV)/installed $(WORLD) $(RECIPE)
	$(VILA2) pretrain --round 0 $(FLAGS)
	@touch $@

# A chain of pattern rules may use each rule once, so rounds 1 and up are spelled out.
define later_round
$(RUN)/round$(1)/recaption/summary.json: $(RUN)/round$(2)/eval/metrics.json \
		$(if $(filter-out 0,$(2)),$(RUN)/round$(2)/judge/summary.json)
	$$(VILA2) recaption --round $(1) $$(FLAGS)
	@touch $$@

$(RUN)/round$(1)/filter/summary.json: $(RUN)/round$(1)/recaption/summary.json
	$$(VILA2) filter --round $(1) $$(FLAGS)
	@touch $$@

$(RUN)/round$(1)/pretrain/vila2.json: $(RUN)/round$(1)/$(TRAINED_ON)/summary.json
	$$(VILA2) pretrain --round $(1) $$(FLAGS)
	@touch $$@

$(RUN)/round$(1)/judge/summary.json: $(RUN)/round$(1)/recaption/summary.json $(RUN)/round$(1)/sft/vila2.json
	$$(VILA2) judge --round $(1) $$(FLAGS)
	@touch $$@
endef

define any_round
$(RUN)/round$(1)/sft/vila2.json: $(RUN)/round$(1)/pretrain/vila2.json
	$$(VILA2) sft --round $(1) $$(FLAGS)
	@touch $$@

$(RUN)/round$(1)/eval/metrics.json: $(RUN)/round$(1)/sft/vila2.json
	$$(VILA2) eval --round $(1) $$(FLAGS)
	@touch $$@
endef

NUMBERS := $(shell seq 0 20)
$(foreach n,$(NUMBERS),$(eval $(call any_round,$(n))))
$(foreach n,$(wordlist 2,21,$(NUMBERS)),$(eval $(call later_round,$(n),$(word $(n),$(NUMBERS)))))

ROUNDS := $(or $(shell sed -n 's/^rounds *= *\([0-9]*\).*/\1/p' $(RECIPE) | head -n 1),3)

$(RUN)/specialists/%/checkpoint/vila2.json: $(RUN)/round$(ROUNDS)/eval/metrics.json
	$(VILA2) specialize --name $* $(FLAGS)
	@touch $@

# Adapters of one checkpoint answer together.
ifneq ($(IS_LORA),)
$(SPECIALISTS:%=$(RUN)/specialists/%/relabel/summary.json) &: $(SPECIALISTS:%=$(RUN)/specialists/%/checkpoint/vila2.json)
	$(VILA2) specialize $(addprefix --name ,$(SPECIALISTS)) --relabel $(FLAGS)
	@touch $(SPECIALISTS:%=$(RUN)/specialists/%/relabel/summary.json)
else
$(RUN)/specialists/%/relabel/summary.json: $(RUN)/specialists/%/checkpoint/vila2.json
	$(VILA2) specialize --name $* --relabel $(FLAGS)
	@touch $@
endif

$(RUN)/final/pretrain/vila2.json: $(SPECIALISTS:%=$(RUN)/specialists/%/relabel/summary.json)
	$(VILA2) pretrain --round final $(FLAGS)
	@touch $@

$(RUN)/final/sft/vila2.json: $(RUN)/final/pretrain/vila2.json
	$(VILA2) sft --round final $(FLAGS)
	@touch $@

$(RUN)/final/eval/metrics.json: $(RUN)/final/sft/vila2.json
	$(VILA2) eval --round final $(FLAGS)
	@touch $@

define control
$(RUN)/final-$(1)/pretrain/vila2.json: $(2)
	$$(VILA2) pretrain --round final-$(1) $$(FLAGS)
	@touch $$@

$(RUN)/final-$(1)/sft/vila2.json: $(RUN)/final-$(1)/pretrain/vila2.json
	$$(VILA2) sft --round final-$(1) $$(FLAGS)
	@touch $$@

$(RUN)/final-$(1)/eval/metrics.json: $(RUN)/final-$(1)/sft/vila2.json
	$$(VILA2) eval --round final-$(1) $$(FLAGS)
	@touch $$@
endef

$(eval $(call control,direct,$(RUN)/round$(ROUNDS)/eval/metrics.json))
$(eval $(call control,equal-compute,$(RUN)/final/pretrain/vila2.json))
$(foreach n,$(SPECIALISTS),$(eval $(call control,only-$(n),$(RUN)/specialists/$(n)/relabel/summary.json)))

control-%: $(RUN)/final-%/eval/metrics.json FORCE ## a control of the final model: direct, equal-compute, only-ocr ...
	@echo "the control $* is complete: $(RUN)/final-$*"

controls: $(addprefix control-,direct equal-compute $(SPECIALISTS:%=only-%)) ## all controls of the final model

report: setup ## write the run up as one HTML page
	$(VILA2) report $(FLAGS)

bench: setup ## the measurements behind the published tables (hours)
	$(VENV)/bin/python benchmarks/rounds.py --specialists
	$(VENV)/bin/python benchmarks/specialists.py
	$(VENV)/bin/python benchmarks/lora.py
	$(VENV)/bin/python benchmarks/splits.py --model $(BENCH)/runs/world/round0/sft --shards $(BENCH)/data/pretrain/*.tar
	$(VENV)/bin/python benchmarks/scale.py --model $(BENCH)/runs/world/round0/sft
	$(VENV)/bin/python benchmarks/recaption.py
	$(VENV)/bin/python benchmarks/filter.py
	$(VENV)/bin/python benchmarks/prompts.py
	$(VENV)/bin/python benchmarks/reading.py
	$(VENV)/bin/python benchmarks/memory.py
	$(VENV)/bin/python benchmarks/durability.py
	$(VENV)/bin/python benchmarks/eval_overhead.py --out benchmarks/results/eval_overhead.json
	$(VENV)/bin/python benchmarks/train.py
	$(VENV)/bin/python benchmarks/findings_vila.py

clean: ## remove data, runs and caches; keeps the virtual environment
	rm -rf data/world runs build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

FORCE:
