# What can be done here, and how: `make help`. Every target is one command, which can as well be typed by hand.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test checks data train evaluate docs venv clean

# What may be chosen: make train RECIPE=software50 PRESET=small ROUTING=task
PYTHON  ?= python3
TORCH   ?= torch==2.13.0
RECIPE  ?= $(if $(INPUT),own_data,software50)
PRESET  ?= $(call default,preset)
ROUTING ?= $(call default,model)
RUN     ?= $(call default,run)
INPUT   ?=
ARGS    ?=
DRY     ?=

VENV := .venv
BIN  := $(VENV)/bin
# What a recipe chooses itself.
default = $(shell sed -n 's/^  - $(1): \([a-z0-9_]*\).*/\1/p' recipes/$(RECIPE)/train.yaml 2>/dev/null)
RUN_DIR = runs/$(RECIPE)/$(PRESET)/$(ROUTING)$(if $(filter-out $(call default,run),$(RUN)),-$(RUN))
# For commands without a dry run of their own.
SHOW := $(if $(DRY),@echo ,)

# What a typing mistake gets, before any program sees it.
define check
@test -f "recipes/$(RECIPE)/train.yaml" || { echo "make: RECIPE=$(RECIPE): there is no such folder in recipes/ (there are $(shell ls recipes | grep -vx common | paste -sd ' '))" >&2; exit 2; }
endef

help:  ## show this text
	@echo "make TARGET [VARIABLE=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RECIPE   a folder of recipes/ ($(RECIPE))"
	@echo "  PRESET   how much data: recipes/RECIPE/preset ($(PRESET))"
	@echo "  ROUTING  dense, token, sentence, task, token_task: recipes/common/model ($(ROUTING))"
	@echo "  RUN      how long and on what: recipes/RECIPE/run ($(RUN))"
	@echo "  INPUT    make data: your own text, a folder of train.en-xx.{en,xx} files or a .tsv (RECIPE is then own_data)"
	@echo "  ARGS     more arguments for the command, such as optimization.max_update=1000"
	@echo "  DRY=1    print the commands, run nothing (.venv is made, since it knows them)"
	@echo "  PYTHON   a Python 3.11 or 3.12 ($(PYTHON))"
	@echo "  TORCH    what pip installs as torch ($(TORCH)); for another build set PIP_EXTRA_INDEX_URL too, to its index"

demo: venv  ## the main job in minutes: prepare the shipped text, train, score, translate
	$(SHOW)scripts/demo.sh

# Most tests wait for single-threaded commands, some for time to pass: hence one worker more than processors, four at most, since a worker
# needs up to 2 GB. It takes over from others when it is done.
test: venv  ## run all tests
	$(SHOW)$(BIN)/python -m pytest --numprocesses $$((`nproc` < 4 ? `nproc` + 1 : 4)) --dist worksteal $(ARGS)

checks: venv  ## style and types
	$(SHOW)$(BIN)/python -m flake8 mmt data_prep scripts tests
	$(SHOW)$(BIN)/python -m mypy

data: venv  ## fetch and prepare the text of a recipe
	$(check)
	@test "$(RECIPE)" != own_data -o -n "$(INPUT)" || { echo "make: RECIPE=own_data needs INPUT=: a folder of train.en-xx.{en,xx} files, or a .tsv" >&2; exit 2; }
	$(BIN)/python -m data_prep.run $(if $(INPUT),--input "$(INPUT)" --name $(RECIPE),--recipe $(RECIPE) --preset $(PRESET)) $(ARGS) $(if $(DRY),--dry-run)

train: venv  ## train a recipe, or go on where it stopped
	$(check)
	@$(BIN)/mmt train $(RECIPE) preset=$(PRESET) model=$(ROUTING) $(if $(RUN),run=$(RUN)) $(ARGS) $(if $(DRY),--dry-run)

evaluate: venv  ## score the trained model in all directions, or go on where it stopped
	$(check)
	$(SHOW)$(BIN)/mmt evaluate $(RUN_DIR) $(ARGS)

docs: venv  ## write docs/options.md anew from the code
	$(SHOW)$(BIN)/python scripts/make_options_docs.py

venv: $(VENV)/.installed  ## install everything into .venv (the other targets do it by themselves)

# Made again when the requirements change. torch comes first, so that TORCH alone decides which build of it.
$(VENV)/.installed: setup.cfg pyproject.toml
	@clear=; fits='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; \
	$(PYTHON) -c "$$fits" || { echo "make: PYTHON=$(PYTHON) must be a Python 3.11 or 3.12, but is $$($(PYTHON) -V 2>&1)" >&2; exit 2; }; \
	$(BIN)/python -c "$$fits" 2>/dev/null || clear=--clear; \
	echo "$(PYTHON) -m venv $(VENV)"; $(PYTHON) -m venv $$clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,data,slurm]"
	@# fairseq looks for --user-dir mmt in the folder where it is run, and then here.
	@ln -sfn "$(CURDIR)/mmt" "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mmt"
	@touch $@

clean:  ## remove .venv and caches; data/ and runs/ stay
	$(SHOW)rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache
