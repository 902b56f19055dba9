# On a fresh Debian machine, as root or with sudo: `make run` and `make test`. Each installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
# A file whose time says when the environment was last set up.
READY := .venv/.ready
SITE := src/kpod_metrics/site/index.html
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo --preserve-env=CI,SOAK,FUZZ,INPUTS,MUTANTS,SEED")
ARGS ?=
# For tests and benchmarks: network namespaces, other BPF tools, `perf bench` as a workload.
LOAD_PACKAGES := iproute2 libbpf-tools linux-perf
# A browser, for the landing page.
TEST_PACKAGES := $(LOAD_PACKAGES) chromium
# To boot another kernel: an emulator, file systems, a linker for other architectures, `depmod`.
EMULATOR_PACKAGES := qemu-system-x86 e2fsprogs lld kmod debian-archive-keyring
# Other tools that the bench compares with; some need another kernel.
BENCH_PACKAGES := $(LOAD_PACKAGES) $(EMULATOR_PACKAGES) bpfcc-tools bpftrace
# To build the image, and a network for it.
IMAGE_PACKAGES := buildah debootstrap git iproute2

# To boot the kernels of the other architecture too.
KERNEL_PACKAGES := $(EMULATOR_PACKAGES) qemu-system-arm

.PHONY: help build run test test-live test-slow test-long image test-image test-kernels check lock audit docs format generate accept bench clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*##  */make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

build: $(READY) $(SITE)  ## create the environment in .venv and compile the BPF programs

$(READY): pyproject.toml requirements-dev.txt hatch_build.py $(wildcard bpf/*.c bpf/*.h)
	scripts/setup

# The build hook renders the pages; this renders them again after a change.
$(SITE): hatch_build.py $(wildcard docs/*.md docs/*.svg docs/*/*.svg src/kpod_metrics/*.css src/kpod_metrics/landing/*.css) | $(READY)
	$(PY) hatch_build.py

run: build  ## run the agent on this machine, no Kubernetes needed: http://localhost:9090/metrics
	$(SUDO) setpriv --pdeathsig TERM .venv/bin/kpod-metrics run --discovery cgroup $(ARGS)

check: build  ## format, lint, types, imports, generated files, words, and all tests that need no kernel: a minute
	scripts/check

docs: build  ## build the documentation's site into build/site
	.venv/bin/properdocs build --clean

test: build  ## run all tests on this kernel, without the slow ones; needs root
	scripts/packages $(TEST_PACKAGES)
	scripts/check --lint-only
	$(SUDO) scripts/test $(ARGS)

test-live: build  ## run the part of `make test` that needs a kernel
	scripts/packages $(TEST_PACKAGES)
	$(SUDO) scripts/test live $(ARGS)

test-slow: build  ## run the slow tests: bench, demo on every panel, no descriptors or memory left, soak
	scripts/packages $(TEST_PACKAGES)
	$(SUDO) scripts/test slow $(ARGS)

test-long: build  ## break the agent in every way, for hours: SOAK, FUZZ (minutes), INPUTS, MUTANTS, SEED
	scripts/packages $(TEST_PACKAGES)
	$(SUDO) scripts/test-long $(ARGS)

image: build  ## build the image, as an OCI archive in dist/ (docs/install.md)
	scripts/packages $(IMAGE_PACKAGES)
	$(SUDO) scripts/image

test-image: build  ## build the image, run it under runc as the chart would, and test counts, rights and mounts
	scripts/packages $(IMAGE_PACKAGES)
	$(SUDO) scripts/test-image $(ARGS)

test-kernels: build  ## run the live tests on other kernels, in virtual machines; KERNEL=6.1 for one
	scripts/packages $(KERNEL_PACKAGES)
	$(PY) -m tests.kernels $(ARGS)

lock: build  ## pin all Python packages, with hashes, after a change in pyproject.toml; ARGS=--upgrade for new versions
	scripts/lock $(ARGS)

audit: build  ## check all pinned packages for known vulnerabilities; needs the network
	scripts/audit $(ARGS)

format: build  ## format Python and C
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format --quiet .
	.venv/bin/clang-format -i $$(git ls-files "*.c" "*.h")

generate: build  ## write the files that are generated from declarations
	$(PY) -m kpod_metrics.reference --write .
	$(PY) -m monitoring --write
	$(PY) scripts/chart.py --write
	$(PY) -m tests.reliability.tenants --write
	$(PY) scripts/image_requirements.py > deploy/requirements.txt

accept: generate  ## write all expected figures and examples that this machine can measure
	UPDATE_GOLDEN=1 $(PY) -m pytest -q tests/unit/exposition/test_text.py -k golden
	$(SUDO) $(PY) -m bench.budget --write > /dev/null || echo "bench/budget.json is as it was: see above"
	@$(PY) -m tests.kernels --missing

bench: build  ## measure speed and memory, also of other tools
	scripts/packages $(BENCH_PACKAGES)
	$(SUDO) $(PY) -m bench $(ARGS)

clean:  ## remove everything that was built
	rm -rf .venv dist build src/kpod_metrics/bpf/*.bpf.o src/kpod_metrics/site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
