# Development commands, also used by CI. `make demo` and `make test` install everything that they need.
PYTHON ?= python3
BIN := .venv/bin
PRIVACY_FLOOR := 95

.PHONY: install demo test test-slow coverage lint types docs build bench clean

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

# One test process per logical core. `make test` reports the coverage and fails if that of privacy/ is below its floor.
test: install
	$(BIN)/python -m pytest -n logical --dist loadgroup --cov --cov-report=
	$(BIN)/coverage report --format=total | sed 's/^/Coverage of all code, percent: /'
	$(BIN)/coverage report --include='privacy/*' --fail-under=$(PRIVACY_FLOOR)

test-slow: install
	$(BIN)/python -m pytest -m slow

coverage: install
	$(BIN)/coverage report

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

bench: install
	$(BIN)/salus bench link --json

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
