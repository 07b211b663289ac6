# One page of recipes. Two environments: .venv serves (no torch), .venv-test trains and tests.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
# Not ?=, as some shells export HOST with the machine's name in it; `make run HOST=0.0.0.0` works.
HOST = 127.0.0.1

PIP = bin/python -m pip --disable-pip-version-check
INPUTS = pyproject.toml constraints.txt

# Tests run in as many processes as there are cores, up to four: each holds torch in memory. A file stays in one process, so
# that its servers start once; tests/markers.py puts the slowest first.
PYTEST = .venv-test/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Left out of test-fast as a whole: these start programs, build the site or import torch, which alone takes ten seconds.
SKIPPED = $(addprefix --ignore=tests/,benchmarks deploy docs e2e examples training test_zoo.py)

.PHONY: help run train-env test test-fast pytest lint docs constraints clean
.DELETE_ON_ERROR:

help:
	@echo "make run          serve the shipped models on http://127.0.0.1:8000 (PORT=, HOST=)"
	@echo "make train-env    create .venv-test, which holds sfddm-train, torch and what the tests need"
	@echo "make test         lint, check types and run every test"
	@echo "make test-fast    the tests that start no other program and train nothing (under two minutes)"
	@echo "make pytest       every test, without lint and types"
	@echo "make lint         ruff and mypy only"
	@echo "make docs         build the documentation site into build/site"
	@echo "make constraints  resolve all dependencies anew into constraints.txt"
	@echo "make clean        remove environments, caches and builds"

run: .venv/.stamp
	@exec .venv/bin/sfddm serve --host $(HOST) --port $(PORT)

train-env: .venv-test/.stamp

test: lint
	$(PYTEST)

pytest: .venv-test/.stamp
	$(PYTEST)

test-fast: .venv-test/.stamp
	$(PYTEST) $(SKIPPED) --hypothesis-profile fast -m "not (browser or container or e2e or prometheus or redis or training)"

lint: .venv-test/.stamp
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

# The variable silences an advertisement in the output.
docs: .venv-test/.stamp
	NO_MKDOCS_2_WARNING=1 .venv-test/bin/python -m mkdocs build --strict

.venv/.stamp: EXTRAS = cpu
.venv-test/.stamp: EXTRAS = cpu,openvino,otel,train,test,docs
.venv/.stamp: COMPILE = --compile
# Python itself compiles what the tests import, a small part of what is installed. It saves half a minute.
.venv-test/.stamp: COMPILE = --no-compile
.venv/.stamp .venv-test/.stamp: $(INPUTS)
	@$(CHECK_PYTHON)
	@echo "Installing into $(@D) (once): $(EXTRAS)"
	@"$(PYTHON)" -m venv $(@D)
	@$(@D)/$(PIP) install --quiet $(COMPILE) --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

# The extra gpu keeps its old pins: it cannot share an environment with cpu.
constraints:
	@$(CHECK_PYTHON)
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	"$(PYTHON)" -m venv "$$scratch/env"; \
	"$$scratch/env/bin/python" -m pip install --quiet ".[cpu,openvino,otel,train,test,docs]"; \
	{ sed -n '1,2p' constraints.txt; \
	  "$$scratch/env/bin/python" -m pip freeze --all --exclude pip --exclude sfddm-serve | sed 's/+cpu$$//'; \
	  echo; sed -n '/^# Extra gpu/,$$p' constraints.txt; } > "$$scratch/constraints.txt"; \
	mv "$$scratch/constraints.txt" constraints.txt

clean:
	rm -rf .venv .venv-test build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find models service training benchmarks docs examples tests -name __pycache__ -type d -exec rm -rf {} +

define CHECK_PYTHON
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not: install it, or name one with PYTHON=/path/to/python3.11." >&2; exit 1; }
endef
