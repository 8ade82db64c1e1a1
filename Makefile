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

CARGO ?= cargo
export REGISTRY ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what building and the lab need, beside Rust and Go
	sh lab/deps.sh

.PHONY: images
images: ## Write the container images to out/images/, without a container engine
	$(CARGO) run --release --quiet -p kubevmm-images -- build --out out/images

.PHONY: yamls
yamls: ## Generate the CRDs, and write the images' names into yamls/
	mkdir -p out
	$(CARGO) run --quiet -p kubevmm-api --example crds > out/10-crds.yaml
	mv out/10-crds.yaml yamls/10-crds.yaml
	$(CARGO) run --quiet -p kubevmm-images -- yamls yamls

.PHONY: virtctl
virtctl: ## Build the command line: target/release/virtctl
	$(CARGO) build --release -p virtctl

.PHONY: demo
demo: deps $(if $(LAB_KUBECONFIG),,images) ## Bring up a cluster with libvirt on this machine, install KubeVMM, boot a VM, log in
	$(CARGO) build --release -p kubevmm-lab -p virtctl -p kubevmm-tests
	lab/demo.sh

.PHONY: demo-down
demo-down: ## Take away everything that `make demo` brought up, but the caches
	$(CARGO) run --release --quiet -p kubevmm-lab -- down

.PHONY: test
test: unit e2e ## Run all tests: unit, component, end to end

.PHONY: unit
unit: ## Run the unit and component tests
	$(CARGO) test --workspace --exclude kubevmm-tests
	$(CARGO) test -p kubevmm-tests --lib --bins

.PHONY: e2e
e2e: images ## Run the end-to-end tests, on a lab of their own (root)
	$(CARGO) build -p kubevmm-lab -p virtctl
	$(CARGO) test -p kubevmm-tests --test e2e

.PHONY: bench
bench: ## Measure apply-to-started on the lab that `make demo` left, beside virsh's own define and start
	$(CARGO) run --release --quiet -p kubevmm-tests --bin kubevmm-bench -- --at-most 2

.PHONY: lint
lint: ## Check the format, clippy's advice, and the dependencies' licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check bans licenses sources
