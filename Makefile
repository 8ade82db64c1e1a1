# `make` or `make help` lists the targets.
#
#   REGISTRY=registry.example.org/team   (images, yamls) puts this in front of the images' names
#   LAB_KUBECONFIG=FILE                  (demo) installs on this existing cluster instead of a lab

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The parts share cargo's target directory: one after the other.
.NOTPARALLEL:

# No cargo here selects packages (`-p`): each would resolve the features of these only, and compile a dependency again
# when they differ. Targets (`--bin`, `--test`) select from the whole workspace, whose features are always the same.
# (Tests add the features of dev-dependencies: what is built for tests is built with a test.)
CARGO ?= cargo
SECONDS ?= 10
release := $(or $(CARGO_TARGET_DIR),target)/release
export REGISTRY ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what building and the lab need, beside Rust and Go
	sh lab/deps.sh

.PHONY: images
images: ## Write the container images to out/images/, without a container engine
	$(CARGO) run --release --bin kubevmm-images -- build --out out/images

.PHONY: deb
deb: ## Build the executor's Debian package, for hosts that are no cluster nodes: target/debian/
	@$(CARGO) deb --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deb
	$(CARGO) build --release --bin kubevmm-executor
	$(CARGO) deb --no-build --package kubevmm-executor

.PHONY: yamls
yamls: ## Generate the CRDs, and write the images' names into yamls/
	mkdir -p out
	$(CARGO) run --quiet --example crds > out/10-crds.yaml
	mv out/10-crds.yaml yamls/10-crds.yaml
	$(CARGO) run --quiet --bin kubevmm-images -- yamls yamls

.PHONY: virtctl
virtctl: ## Build the command line: target/release/virtctl
	$(CARGO) build --release --bin virtctl

.PHONY: demo
ifdef LAB_KUBECONFIG
demo: virtctl ## Bring up a cluster with libvirt on this machine, install KubeVMM, boot a VM, log in
else
# Kubernetes and the root file systems are built beside the rest: the one waits for the network, the other for the
# compiler's slow ends. A process group of its own, so that none of it goes on when the rest fails or is broken off.
demo: deps
	$(CARGO) build --release --bin lab
	set -m; $(release)/lab build & built=$$!; set +m; trap 'kill -- -$$built 2>/dev/null || :' EXIT; \
	$(CARGO) build --release --bins; \
	wait $$built
	$(MAKE) --no-print-directory images
endif
	lab/demo.sh

.PHONY: demo-down
demo-down: ## Take away everything that `make demo` brought up, but the caches
	$(CARGO) run --release --quiet --bin lab -- down

.PHONY: test
test: unit fuzz e2e ## Run all tests: unit, component, fuzzing, end to end

.PHONY: unit
unit: deps ## Run the unit and component tests (root: the lab's own test brings one up)
	$(CARGO) test

.PHONY: fuzz
fuzz: ## Fuzz the analyser's readers of XML and YAML for SECONDS=10 each
	cd analyser/fuzz && mkdir -p artifacts corpus/xml corpus/yaml && for target in xml yaml; do \
	  seeds=$$([ $$target = xml ] && echo ../tests/golden || echo seeds/yaml); \
	  echo "fuzzing $$target for $(SECONDS) seconds"; \
	  $(CARGO) run --release --quiet --target "$$(rustc --print host-tuple)" --bin $$target -- -verbosity=0 \
	    -max_total_time=$(SECONDS) -max_len=4096 -print_final_stats=1 -artifact_prefix=artifacts/$$target- \
	    corpus/$$target $$seeds 2>&1 | { grep -v '# Uses: \|ecommended dictionary' || :; }; \
	done

.PHONY: e2e
e2e: deps images ## Run the end-to-end tests, on a lab of their own (root)
	$(CARGO) build --bin lab --bin virtctl --test e2e
	$(CARGO) test --test e2e

.PHONY: bench
bench: bench-codec bench-extender bench-executors bench-scheduling bench-start ## Run all benches (the last one on the lab that `make demo` left)

.PHONY: bench-codec
bench-codec: ## Measure the analyser's conversions, beside Python (PYTHON=python3, with lxml and PyYAML) and xmllint
	$(CARGO) bench --quiet --bench codec

.PHONY: bench-extender
bench-extender: ## Measure the scheduler extender with 5,000 hosts and 20,000 VMs: its answers' times and its memory
	$(CARGO) bench --quiet --bench extender

.PHONY: bench-start
bench-start: ## Measure apply-to-started on the lab that `make demo` left, beside virsh's own define and start
	$(CARGO) run --release --quiet --bin kubevmm-bench -- start --at-most 2

.PHONY: bench-executors
bench-executors: deps ## Measure the start of an executor with 300 domains, and what 100 idle ones write
	$(CARGO) build --release --bin lab --bin kubevmm-executor
	$(CARGO) run --release --quiet --bin kubevmm-bench -- executors

.PHONY: bench-scheduling
bench-scheduling: deps ## Measure the placement pods that a kube-scheduler binds in a second, with the extender and without
	$(CARGO) build --release --bin lab --bin kubevmm-scheduler-extender
	$(CARGO) run --release --quiet --bin kubevmm-bench -- scheduling

.PHONY: lint
lint: style deny ## Check the format, clippy's advice, and the dependencies' licences

.PHONY: style
style: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	# Left out of "all" so that `cargo test` does not bring up a lab.
	$(CARGO) clippy --test e2e -- -D warnings

.PHONY: deny
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check bans licenses sources
