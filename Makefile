# What a newcomer needs: make demo, make test. Only Python 3.11 or newer and make have to be there.

PYTHON ?= python3
VENV ?= .venv
RUN_DIR ?= runs/demo

PIP_FLAGS ?= -qq --disable-pip-version-check
STAMP = $(VENV)/installed.stamp
BIN = $(VENV)/bin

.PHONY: help demo test hostile kills bench lint clean .venv

help:  ## this text
	@echo "usage: make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## distil scikit-learn's digits to one image per class and report on it in runs/demo
	@$(BIN)/python -m jdistill.run --config=experiments/datm.py --workdir=$(RUN_DIR)

test: $(STAMP)  ## run all tests on the CPU
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

hostile: $(STAMP)  ## try thousands of bad inputs: none may get through, hang, or change a file
	@$(BIN)/python -m tests.hostile

kills: $(STAMP)  ## kill runs of every experiment at random moments and compare what they end with
	@$(BIN)/python -m tests.kills

bench: $(STAMP)  ## measure speed and memory beside PyTorch, half an hour on an idle machine
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.trajectory_step
	@$(BIN)/python -m benchmarks.trajectory_step --cached --cases "width 32, 5 steps" "width 32, 20 steps"
	@$(BIN)/python -m benchmarks.training --what=evaluation
	@$(BIN)/python -m benchmarks.training --what=experts
	@$(BIN)/python -m benchmarks.student_step
	@$(BIN)/python -m benchmarks.matching_step
	@$(BIN)/python -m benchmarks.recover_step
	@$(BIN)/python -m benchmarks.chunked_loss
	@$(BIN)/python -m benchmarks.gkd_step
	@$(BIN)/python -m benchmarks.diffusion_step
	@$(BIN)/python -m benchmarks.selection
	@$(BIN)/python -m benchmarks.convolutions
	@$(BIN)/python -m benchmarks.memory_growth
	@$(BIN)/python -m benchmarks.scaling
	@$(BIN)/python -m benchmarks.first_step

lint: $(STAMP)  ## check style with ruff
	@$(BIN)/python -m ruff check .

.venv: $(STAMP)  ## make the environment that the other targets use

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jdistill needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; give another one: make PYTHON=python3.12 ...")'
	@echo "making $(VENV): packages of constraints.txt, a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "$(VENV) is ready: $$($(BIN)/python --version)"

clean:  ## remove the environment and build files, keep runs
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
