# SPDX-License-Identifier: MIT
# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

PROGRAMS := nixfleet nixfleet-agent nixfleet-control-plane
LDFLAGS := -s -w

.PHONY: build help
build: ## static programs into ./bin
	@mkdir -p bin
	@for p in $(PROGRAMS); do CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$$p ./cmd/$$p; done

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

# --- Nix ---
NIX_TREES = NIXPKGS='$(NIXPKGS)' NIX_DARWIN='$(NIX_DARWIN)' NIX_DARWIN_LIB='$(NIX_DARWIN_LIB)' INPUTS='$(INPUTS)'

.PHONY: nix-parse eval nix-units nix-flake bench-nix vendor-hash vendor-hash-check
nix-parse: ## every .nix file parses
	@nix/checks/parse.sh

eval: ## evaluation tests: NIXPKGS=TREE [NIX_DARWIN=TREE INPUTS=FOLDER TESTS="name ..."]
	@$(NIX_TREES) nix/checks/eval/run.sh $(TESTS)

nix-units: ## systemd's own checks of our units: NIXPKGS=TREE
	@$(NIX_TREES) nix/checks/units.sh

nix-flake: ## flake check without building, and the templates as flakes: NIXPKGS=TREE INPUTS=FOLDER
	@$(NIX_TREES) nix/checks/flake.sh

bench-nix: ## what evaluating hosts costs beside plain NixOS: NIXPKGS=TREE
	@$(NIX_TREES) nix/bench/run.sh

vendor-hash: ## write the hash of the vendored Go modules
	@nix/packages/vendor-hash.sh

vendor-hash-check: ## compare it
	@nix/packages/vendor-hash.sh --check

generate: vendor-hash
