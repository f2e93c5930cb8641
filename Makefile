# beamline-dataflow: `make demo` and `make test` do all set-up by themselves.
VENV   ?= .venv
OUTPUT ?= demo-output
SAMPLE ?=
# A module's tests share their beamline, so they stay in one process. The long modules come first in
# the order of the folders, so that no process is left with one of them at the end.
PARALLEL ?= -n $(WORKERS) --dist loadscope --no-loadscope-reorder
# Half of the time a test of the real stack waits: a process more than two cores can run.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 2 ? 2 : n < 4 ? n + 1 : 4)))
SECONDS ?= 60
# The viewers of the APS want Python 3.12 and an environment of their own.
VIEWERS ?= .venv-viewers
PYTHON312 ?= python3.12
# The queue server comes with Jupyter and more, in an environment of its own.
QUEUESERVER ?= .venv-queueserver
# h5web, silx and what draws with them; the browser is CHROMIUM, or chromium on PATH.
PLOTS ?= .venv-plots

BIN     := $(VENV)/bin
SOURCES := $(wildcard ioc/device_server/src/*.[ch])
INPUTS  := pyproject.toml constraints.txt hatch_build.py tools/install.sh $(SOURCES)

.DEFAULT_GOAL := help
.PHONY: help demo test slow viewers queueserver install lint types unit system build docs-pvs docs-plots fuzz sanitize valgrind quality clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## Simulate the beamline, scan it, write and check the files (SAMPLE=FILE.xdi, OUTPUT=DIR)
	$(BIN)/beamline demo --output-dir $(OUTPUT) $(if $(SAMPLE),--sample $(SAMPLE))

test: lint types ## Run linters, type checks and all tests but the slow ones
	$(BIN)/pytest $(PARALLEL) -m "not slow"

slow: $(VENV)/.installed-test ## Run the tests that take minutes (kills, restarts, servers), and more examples in the unit tests
	$(BIN)/pytest $(PARALLEL) -m slow
	$(BIN)/pytest $(PARALLEL) -m "not slow" --hypothesis-profile=thorough tests/unit

viewers: $(VENV)/.installed-test $(VIEWERS)/.installed ## Open XPCS files in xpcs-viewer and pySimpleMask, test Qt and JAX (installs them)
	BEAMLINE_VIEWERS=$(VIEWERS)/bin/python $(BIN)/pytest tests/system/test_xpcs_files.py
	QT_QPA_PLATFORM=offscreen FORBID_SKIPS=1 $(VIEWERS)/bin/pytest tests/viewers tests/unit/test_gui.py tests/unit/test_xpcs_adapters.py

# The extras of this project, and what they are held against. A skip is a failure here.
$(VIEWERS)/.installed: $(INPUTS)
	PYTHON=$(PYTHON312) tools/install.sh $(VIEWERS) test,gui,jax
	$(PYTHON312) -m pip --python $(VIEWERS)/bin/python install --quiet xpcs-viewer==1.2.2 pySimpleMask==0.4.5
	@touch $@

queueserver: $(QUEUESERVER)/.installed ## Run our plans in bluesky-queueserver (installs it; needs redis-server on PATH)
	FORBID_SKIPS=1 $(QUEUESERVER)/bin/pytest tests/system/test_queueserver.py

$(QUEUESERVER)/.installed: $(INPUTS)
	tools/install.sh $(QUEUESERVER) test
	$(QUEUESERVER)/bin/python -m pip install --quiet --constraint constraints.txt bluesky-queueserver==0.0.25
	@touch $@

lint: $(VENV)/.installed-test ## Run the linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-test ## Run the type checker
	$(BIN)/mypy

unit: $(VENV)/.installed-test ## Run the fast tests only
	$(BIN)/pytest $(PARALLEL) tests/unit

system: $(VENV)/.installed-test ## Run the tests of the real stack only
	$(BIN)/pytest $(PARALLEL) -m system

docs-pvs: $(VENV)/.installed ## Write the table of all PVs, docs/pvs.md, anew
	$(BIN)/beamline ioc --list-pvs --format md --prefix BL02: > docs/pvs.new
	mv docs/pvs.new docs/pvs.md

docs-plots: $(VENV)/.installed-test $(PLOTS)/.installed ## Draw the default plots in h5web and silx (installs them; needs node, npm and chromium)
	$(BIN)/python tools/docs_plots/files.py $(PLOTS)/files
	$(PLOTS)/bin/python $(PLOTS)/web/draw.py $(PLOTS)/files $(PLOTS)/pictures

$(PLOTS)/.installed: $(wildcard tools/docs_plots/*)
	$(BIN)/python -m venv $(PLOTS)
	$(PLOTS)/bin/python -m pip install --quiet silx==3.1.3 'h5grove[flask]==4.0.0' PySide6-Essentials PyOpenGL qtawesome matplotlib
	mkdir -p $(PLOTS)/web
	cp tools/docs_plots/* $(PLOTS)/web
	cd $(PLOTS)/web && npm install --no-audit --no-fund
	cd $(PLOTS)/web && node_modules/.bin/esbuild page.jsx --bundle --format=esm --minify --outfile=page.js '--define:process.env.NODE_ENV="production"'
	@touch $@

fuzz: ## Fuzz the device server with libFuzzer, if clang is there (SECONDS=60 per target)
	$(MAKE) -C ioc/device_server fuzz SECONDS=$(SECONDS)

INSTRUMENTED = $(MAKE) -C ioc/device_server all && DEVICE_SERVER_PROGRAM=$(CURDIR)/
SERVER_TESTS = $(BIN)/pytest tests/system/device_server

sanitize: $(VENV)/.installed-test ## Test the device server under ASan and UBSan, its thread under TSan
	$(INSTRUMENTED)build-device-server/address/beamline-sim $(SERVER_TESTS)
	$(INSTRUMENTED)build-device-server/thread/beamline-sim $(SERVER_TESTS)/test_server_frames.py -k "not delay"

valgrind: $(VENV)/.installed-test ## Test the device server under valgrind
	$(INSTRUMENTED)ioc/device_server/harness/under_valgrind.sh $(SERVER_TESTS) -k "not delay and not sleeps and not thousand and not shutter_move"

quality: ## Fail every libc call of the device server once, and count its allocations
	$(MAKE) -C ioc/device_server harness

install: $(VENV)/.installed ## Install into $(VENV) (again after a change of the C sources)

$(VENV)/.installed: $(INPUTS)
	@echo "Installing into $(VENV) (about a minute the first time) ..."
	@tools/install.sh $(VENV)
	@touch $@

$(VENV)/.installed-test: $(INPUTS)
	@echo "Installing with the test tools into $(VENV) (about a minute the first time) ..."
	@tools/install.sh $(VENV) test
	@touch $(VENV)/.installed $@

clean: ## Remove the environment, the compiled program and the demo's output
	rm -rf $(VENV) ioc/_bin build-device-server demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
