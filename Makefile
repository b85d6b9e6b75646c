# make demo   the main job on embedded data (under three minutes after installation)
# make test   the test suite
# make check  what CI runs besides the tests: lint, types, import contract, snippets, the site
# make docs   the site, in site/ (build/docs has the pages that went into it)
# make test-lowest  a share of the tests with the lowest versions of all dependencies
# make test-torch   the tests and programs that need PyTorch
# make package      what is published, in dist/, checked
#
# Every target sets up its own virtual environment first. Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV ?= .venv/$(VERSION)
BIN := $(VENV)/bin
DEMO ?= runs/demo
SNIPPETS ?= $(shell grep -l '^```python' README.md docs/*.md docs/guides/*.md docs/interop/*.md docs/api/*.md \
	| grep -v cookbook)

# The lowest versions have no wheels for later interpreters. SHARE=1: all tests.
OLDEST ?= python3.11
SHARE ?= 32
TURN ?= $(shell git rev-parse HEAD)

.PHONY: environments demo test test-lowest test-torch check lint format types contract snippets figures docs package clean

demo: $(VENV)/ready
	$(BIN)/nestax run information-plane --data digits --arms sgd,gdm,adamw,dmgd,published \
		--seeds 5 --epochs 3999 --tune --out $(DEMO) --overwrite

test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-lowest: .venv/lowest/ready
	.venv/lowest/bin/python -m pytest --numprocesses auto --dist worksteal \
		--share=$(SHARE) --turn=$(TURN)

test-torch: .venv/torch/ready
	PYTHONPATH=src .venv/torch/bin/python -m pytest tests/interop
	PYTHONPATH=src .venv/torch/bin/python tests/readme.py \
		$(shell grep -l '<!-- needs torch -->' docs/*.md docs/guides/*.md docs/interop/*.md)

check: lint types contract snippets docs

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/ready
	$(BIN)/pyright --pythonpath $(BIN)/python

contract: $(VENV)/ready
	$(BIN)/lint-imports

snippets: $(VENV)/ready
	$(BIN)/python tests/readme.py $(SNIPPETS)

figures: $(VENV)/ready
	$(BIN)/python tests/readme.py --figures docs/figures $(SNIPPETS)

docs: $(VENV)/ready
	$(BIN)/python docs/gather.py
	PYTHONPATH=src $(BIN)/zensical build --clean --strict
	$(BIN)/python docs/check.py site

# One stamp per interpreter; remade when the requirements change.
$(VENV)/ready: pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "nestax needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo absent)."; \
		echo "Name a newer one:  make $(or $(MAKECMDGOALS),demo) PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints/python$(if $(filter 3.11,$(VERSION)),3.11,3.12+).txt \
		-e ".[studies]" --group dev --group docs
	@touch $@

.venv/lowest/ready: pyproject.toml constraints/lowest.txt
	@command -v $(OLDEST) >/dev/null || { \
		echo "the lowest versions are tested on Python 3.11; name one:  make test-lowest OLDEST=PATH"; exit 1; }
	$(OLDEST) -m venv --clear .venv/lowest
	.venv/lowest/bin/python -m pip install --quiet "pip>=25.1"
	.venv/lowest/bin/python -m pip install --quiet -c constraints/lowest.txt -e ".[studies]" --group test
	@touch $@

# PyTorch is large: its environment has nothing else of its own, and borrows the rest.
.venv/torch/ready: $(VENV)/ready constraints/torch.txt
	$(PYTHON) -m venv --clear .venv/torch
	.venv/torch/bin/python -m pip install --quiet -c constraints/torch.txt torch
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$(.venv/torch/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth
	@touch $@

# All that .ci/run needs.
environments: $(VENV)/ready .venv/lowest/ready .venv/torch/ready

# The archives; their texts; and that the tests can be run from the source archive alone.
package: $(VENV)/ready
	rm -rf dist build/sdist
	$(PYTHON) -m venv --clear .venv/package
	.venv/package/bin/python -m pip install --quiet build twine
	.venv/package/bin/python -m build
	.venv/package/bin/twine check --strict dist/*
	mkdir -p build/sdist && tar -xzf dist/nestax-*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && PYTHONPATH=src $(abspath $(BIN))/python -m pytest \
		--share=$(SHARE) --turn=$(TURN) --numprocesses auto --dist worksteal

clean:
	rm -rf .venv build dist site
