# Development commands, also used by CI. `make demo` and `make test` install everything that they need.
PYTHON ?= python3
BIN := .venv/bin
PRIVACY_FLOOR := 95

.PHONY: install demo test test-slow coverage lint types docs build offline-bundle images bench clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Salus needs Python 3.11 or newer, found %d.%d; set PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# The text detector asks for `opencv-python`, which has the same files without the trackers; the fuller one must be last.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --force-reinstall --no-deps opencv-contrib-python-headless
	touch $@

install: .venv/.installed

demo: install
	$(BIN)/salus demo

# One test process per logical core.
test: install
	$(BIN)/python -m pytest -n logical --dist loadgroup --timeout=900

test-slow: install
	$(BIN)/python -m pytest -m slow

# The same tests; measuring takes half as much processor time again. It fails if the coverage of privacy/ is below its floor.
coverage: install
	$(BIN)/python -m pytest -n logical --dist loadgroup --timeout=900 --cov --cov-report=
	$(BIN)/coverage report
	$(BIN)/coverage report --include='privacy/*' --fail-under=$(PRIVACY_FLOOR)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

docs: install
	$(BIN)/python -m pytest tests/test_docs.py

build: install
	$(BIN)/python -m build --outdir dist .

# Wheels and hashes for machines without internet; torch for CPUs unless TORCH_INDEX is empty.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
offline-bundle: install
	rm -rf dist/bundle
	$(BIN)/python deploy/bundle.py dist/bundle $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

# Images of a site and of a coordinator from that bundle; ENGINE may be podman, docker or buildah.
ENGINE ?= podman
BASE ?= docker.io/library/python:3.11-slim
images: offline-bundle
	$(ENGINE) build --build-arg BASE=$(BASE) -f deploy/Containerfile -t salus-site dist/bundle
	$(ENGINE) build --build-arg BASE=$(BASE) --build-arg PART=coordinator -f deploy/Containerfile -t salus-coordinator dist/bundle

bench: install
	$(BIN)/salus bench link --json

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
