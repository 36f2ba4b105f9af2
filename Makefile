# Everything a person or CI does here. Each target sets up what it needs in .venv.
PYTHON ?= python3
# Optional: a package index that has CPU builds of torch (PyTorch publishes one beside its main index); not needed where pip finds one.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -m1 GPU)
LOCK := deploy/requirements-cpu.txt
TOOLS := .tools/.ready

.PHONY: setup demo test test-deploy chaos paper-small paper-sweeps lint lock clean

setup: $(READY)

# On a CPU the lock is installed without dependency resolution: it names every package, and leaves out triton, torchvision, torchaudio and
# torchcodec, whose only builds are for CUDA (the last three break vLLM's imports without it).
$(READY): pyproject.toml $(LOCK)
	@echo "setting up $(VENV) for $(if $(GPU),a GPU,a CPU) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(GPU),)
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --no-deps -r $(LOCK) || \
		{ echo "If no CPU build of torch was found: set TORCH_INDEX to PyTorch's index of CPU wheels and run make again."; exit 1; }
	@$(PIP) --no-deps --no-build-isolation -e .
else
	@$(PIP) -e '.[gpu,dev]'
endif
	@touch $@

demo: setup
	@$(BIN)/python deploy/demo.py

lint: setup
	@$(BIN)/ruff format --check actors services deploy tests
	@$(BIN)/ruff check actors services deploy tests
	@$(BIN)/mypy

# The unit tests by as many processes as there are cores, up to four; the others, whose processes share a machine, one after the other.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 tests/unit
	@$(BIN)/pytest --ignore tests/unit

# The chart, the image's recipe, rules and dashboards, by the real helm, hadolint, promtool and so on.
test-deploy: setup $(TOOLS)
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'deploy and not integration'
	@$(BIN)/pytest -m 'deploy and integration'

$(TOOLS): deploy/tools/install.sh deploy/tools/requirements.txt
	@echo "setting up .tools ..."
	@deploy/tools/install.sh $(PYTHON)
	@touch $@

# Whole runs harmed at random and in rarer ways, an hour and more; GMPO_CHAOS_SEEDS random schedules (20).
chaos: setup
	@$(BIN)/pytest -m chaos --log-cli-level=INFO

# The paper's claims measured anew, two hours on two cores; and how far the objectives can be pushed, six hours and more. Both go on where
# they were cut. STUDY_FLAGS=--only-results writes the page of what is there.
paper-small: setup
	@$(BIN)/gmpo study deploy/studies/paper-small.yaml deploy/studies/paper-long.yaml --results docs/results.md $(STUDY_FLAGS)

paper-sweeps: setup
	@$(BIN)/gmpo study $(foreach name,staleness stability corrections,deploy/studies/$(name).yaml) --results docs/sweeps.md $(STUDY_FLAGS)

# Resolve pyproject.toml anew and write the lock; commit the result.
lock:
	@rm -rf $(VENV).lock && $(PYTHON) -m venv $(VENV).lock
	@$(VENV).lock/bin/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0+cpu setuptools
	@$(VENV).lock/bin/pip install --quiet '.[cpu,dev]'
	@$(VENV).lock/bin/pip freeze --all | grep -vE '^(gmpo|pip|torchvision|torchaudio|torchcodec|torch|triton)([= @]|$$)' > $(LOCK).new
	@{ echo "# Written by make lock: every package of the CPU environment. Do not edit."; echo "torch==2.13.0+cpu"; cat $(LOCK).new; } > $(LOCK)
	@rm -rf $(VENV).lock $(LOCK).new

clean:
	@rm -rf $(VENV) .tools .mypy_cache .pytest_cache .ruff_cache *.egg-info
