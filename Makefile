# Two commands for a fresh Debian machine, as root or with sudo: `make run` and `make test`. Each does its own set-up.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
# Make's own file for "this is done and newer than what it was made from".
READY := .venv/.ready
SITE := src/kpod_metrics/site/index.html
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo --preserve-env=CI,SOAK,FUZZ,INPUTS,MUTANTS,SEED")
ARGS ?=
# What only tests and benchmarks use: network namespaces, others' small BPF tools, `perf bench` as a workload.
LOAD_PACKAGES := iproute2 libbpf-tools linux-perf
# And a browser, for the page that people read.
TEST_PACKAGES := $(LOAD_PACKAGES) chromium
# What boots another kernel: an emulator, file systems, a linker for other architectures, `depmod`.
EMULATOR_PACKAGES := qemu-system-x86 e2fsprogs lld kmod debian-archive-keyring
# Others' large tools that the bench measures beside ours; some need another kernel.
BENCH_PACKAGES := $(LOAD_PACKAGES) $(EMULATOR_PACKAGES) bpfcc-tools bpftrace
# What builds the image, and a network for it.
IMAGE_PACKAGES := buildah debootstrap git iproute2

# What boots the kernels of the other architecture too.
KERNEL_PACKAGES := $(EMULATOR_PACKAGES) qemu-system-arm

.PHONY: help build run test test-slow test-long image test-image test-kernels check audit docs format generate bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  */make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

build: $(READY) $(SITE)  ## the environment in .venv and the BPF objects, no more

$(READY): pyproject.toml requirements-dev.txt hatch_build.py $(wildcard bpf/*.c bpf/*.h)
	scripts/setup

# The build hook has done it on a fresh tree; this is for pages that changed since.
$(SITE): hatch_build.py $(wildcard docs/*.md docs/*.svg docs/*/*.svg src/kpod_metrics/*.css src/kpod_metrics/landing/*.css) | $(READY)
	$(PY) hatch_build.py

run: build  ## run the agent on this machine, no Kubernetes needed: http://localhost:9090/metrics
	$(SUDO) setpriv --pdeathsig TERM .venv/bin/kpod-metrics run --discovery cgroup $(ARGS)

check: build  ## the quick part of the tests: format, lint, types, imports, generated files, tests without a kernel
	scripts/check

docs: build  ## the documentation as a site, into build/site
	.venv/bin/properdocs build --clean

test: build  ## everything to a green test run; needs root for what loads programs into the kernel
	scripts/packages $(TEST_PACKAGES)
	scripts/check --lint-only
	$(SUDO) scripts/test $(ARGS)

test-slow: build  ## what takes minutes: the bench's parts, the demo on every panel, no descriptors or memory left, a soak
	scripts/packages $(TEST_PACKAGES)
	$(SUDO) scripts/test slow $(ARGS)

test-long: build  ## break it in every way, for hours: SOAK, FUZZ (minutes), INPUTS, MUTANTS, SEED; writes docs/evidence-reliability.md
	scripts/packages $(TEST_PACKAGES)
	$(SUDO) scripts/test-long $(ARGS)

image: build  ## the agent's image, as an OCI archive in dist/, for a cluster or a registry (docs/install.md)
	scripts/packages $(IMAGE_PACKAGES)
	$(SUDO) scripts/image

test-image: build  ## build the image and run it as the chart does, under runc: every count, every right, every mount
	scripts/packages $(IMAGE_PACKAGES)
	$(SUDO) scripts/test-image $(ARGS)

test-kernels: build  ## the live tests on other kernels, in virtual machines: KERNEL=6.1 for one; writes docs/evidence-kernels.md
	scripts/packages $(KERNEL_PACKAGES)
	$(PY) -m tests.kernels $(ARGS)

audit: build  ## ask for advisories of every pinned package; needs the advisories' service
	scripts/audit $(ARGS)

format: build  ## put Python and C into the project's format
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format --quiet .
	.venv/bin/clang-format -i $$(git ls-files "*.c" "*.h")

generate: build  ## write the files that are made from the declarations
	$(PY) -m kpod_metrics.reference --write docs
	$(PY) -m monitoring --write
	$(PY) scripts/chart.py --write
	$(PY) scripts/lock.py > deploy/requirements.txt

bench: build  ## measure speed and memory against the alternatives, into docs/evidence-performance.md
	scripts/packages $(BENCH_PACKAGES)
	$(SUDO) $(PY) -m bench $(ARGS)

clean:  ## remove all that was built
	rm -rf .venv dist build src/kpod_metrics/bpf/*.bpf.o src/kpod_metrics/site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
