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
.PHONY: nix-parse eval bench-nix
nix-parse: ## every .nix file parses
	@nix/checks/parse.sh

eval: ## evaluation tests: NIXPKGS=TREE [NIX_DARWIN=TREE INPUTS=FOLDER TESTS="name ..."]
	@NIXPKGS='$(NIXPKGS)' NIX_DARWIN='$(NIX_DARWIN)' NIX_DARWIN_LIB='$(NIX_DARWIN_LIB)' INPUTS='$(INPUTS)' nix/checks/eval/run.sh $(TESTS)

bench-nix: ## what evaluating hosts costs beside plain NixOS: NIXPKGS=TREE
	@NIXPKGS='$(NIXPKGS)' NIX_DARWIN='$(NIX_DARWIN)' NIX_DARWIN_LIB='$(NIX_DARWIN_LIB)' INPUTS='$(INPUTS)' nix/bench/run.sh
