# The two commands of the README are `make demo` and `make test`; everything else builds on the same environment.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo serve test test-fast chaos bench gpu check format clean

demo: $(READY)  ## a server, a mixed load with deadlines, the results, and a replay of every decision
	rm -rf var/demo
	$(BIN)/genserve demo --out var/demo

serve: $(READY)  ## a server that stays
	$(BIN)/genserve serve --build

# should the interpreter die of a signal, also at its very end, its threads are told
test test-fast chaos: export PYTHONFAULTHANDLER = 1

test: $(READY)  ## linters, types, import rules and the whole default suite
	$(MAKE) check
	$(BIN)/python -m pytest -m "not slow"

test-fast: $(READY)  ## the suite without Ray clusters and diffusion models
	$(BIN)/python -m pytest -m "not slow and not ray and not models"

chaos: $(READY)  ## soak and crash runs; SEED=n repeats one
	$(BIN)/python -m pytest -m slow

bench: $(READY)  ## every benchmark, as ratios in one run
	$(BIN)/python -m benchmarks

gpu: $(READY)  ## full-size models with random weights on this GPU, into var/gpu; MODEL=name for one
	$(BIN)/python -m benchmarks.bench_gpu $(if $(MODEL),--model $(MODEL))

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV): this downloads PyTorch and Ray and takes a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) var build dist *.egg-info
