# SPDX-License-Identifier: MIT
# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
# sudo forgets where Go's own archive puts it.
export PATH := $(PATH):/usr/local/go/bin

PROGRAMS := nixfleet nixfleet-agent nixfleet-control-plane
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# What the demo needs of Debian, beyond Go and git; and the tests, for the race detector.
PACKAGES := nix-bin iproute2 util-linux procps systemd dbus zstd
TEST_PACKAGES := gcc libc6-dev

.PHONY: build deps test-deps demo test e2e crash crash-sim sim hostile mutants fuzz bench-trust bench-house bench-plane openapi-check lint generate fmt help

build: ## static programs into ./bin
	@mkdir -p bin
	@for p in $(PROGRAMS); do CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$$p ./cmd/$$p; done

deps: ## install what is missing on Debian for the demo (root)
test-deps: PACKAGES += $(TEST_PACKAGES)
test-deps: ## the same for the tests
deps test-deps:
	@missing=; for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then echo "missing:$$missing; install them, on Debian as root with: apt-get install$$missing" >&2; exit 1; fi; \
	  echo "installing$$missing" >&2; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; } >&2; fi
	@if [ "$$(id -u)" = 0 ] && command -v nix-store >/dev/null; then nix-store --init; fi # programs that open a new store at once trip over each other

demo: deps build ## a fleet on this machine, for a minute; KEEP=1 keeps it, JSON=1 prints one JSON document, REPORT=FILE writes a page
	@exec ./bin/nixfleet demo $(if $(KEEP),--keep) $(if $(JSON),--json) $(if $(REPORT),--report $(REPORT))

test: test-deps build ## every test this machine can run; SKIPPED=FILE writes what it skipped, as JSON
	@CGO_ENABLED=0 go build -o bin/house ./test/house
	@{ nix/checks/parse.sh; nix/checks/vm-apps.sh; nix/checks/real/alert-rules.sh; nix/packages/vendor-hash.sh --check; \
	  $(NIX_TREES) nix/checks/eval/run.sh; nix/checks/hosts-matrix/run.sh --tables; \
	  go test -json -race -timeout 20m ./...; } | bin/house $(if $(SKIPPED),-skipped $(SKIPPED))

e2e: deps build ## end-to-end tests on real hosts; CHAOS=20 kills agent or control plane that often
	@CHAOS=$(CHAOS) go test -count=1 -v -timeout 20m ./test/e2e

crash: deps build ## on real hosts: the agent killed and the power cut at every point of a rollout; CRASH=6 takes a few; the last line is JSON
	@go test -c -o bin/crash.test ./test/crash
	@cd test/crash && CRASH=$(or $(CRASH),all) ../../bin/crash.test -test.timeout 40m

crash-sim: ## the agent killed and the power cut at every point of an attempt, in a simulation; the last line is JSON
	@result=$$(mktemp); trap 'rm -f "$$result"' EXIT; code=0; \
	NIXFLEET_CRASH_RESULT="$$result" go test -count=1 ./internal/agent -run TestEngine_SurvivesItsEndAtEveryPoint >&2 || code=$$?; \
	cat "$$result"; exit $$code

sim: ## a whole fleet in one process, and what may befall it: SEEDS=200, SEED=n replays one, up to ten times, LOOSENED=70 also loosens rules of the product, in so many seeds each; the last line is JSON
	@result=$$(mktemp); trap 'rm -f "$$result"' EXIT; code=0; \
	NIXFLEET_SIM_SEEDS='$(or $(SEEDS),200)' NIXFLEET_SIM_SEED='$(SEED)' NIXFLEET_SIM_LOOSENED='$(LOOSENED)' NIXFLEET_SIM_RESULT="$$result" \
	  go test -count=1 -timeout 2h $(if $(SEED)$(LOOSENED),-v) ./test/sim -run '$(if $(LOOSENED),Fleet,KeepsItsRules)' >&2 || code=$$?; \
	cat "$$result"; exit $$code

hostile: test-deps build ## attacks on real agents and control planes, then mutants of what refuses them; MUTANTS=200 or all, SEED=n; the last line is JSON
	@CGO_ENABLED=0 go build -o bin/mutants ./test/mutants
	@result=$$(mktemp); trap 'rm -f "$$result"' EXIT; code=0; \
	NIXFLEET_HOSTILE_RESULT="$$result" go test -count=1 -timeout 20m -run Attacks ./test/hostile >&2 || code=$$?; \
	bin/mutants -count '$(or $(MUTANTS),160)' -seed '$(or $(SEED),0)' -attacks "$$result" || code=$$?; exit $$code

mutants: test-deps ## a sample of the mutants of the trust rules; MUTANTS=60, SEED=n
	@CGO_ENABLED=0 go build -o bin/mutants ./test/mutants
	@bin/mutants -count '$(or $(MUTANTS),60)' -seed '$(or $(SEED),0)' -only internal/trust/

fuzz: ## every fuzz target, one after another: FUZZTIME=60s each [ONLY=PATTERN]; the last line is JSON
	@CGO_ENABLED=0 go build -o bin/fuzz ./test/fuzz
	@exec bin/fuzz -time $(or $(FUZZTIME),60s) $(if $(ONLY),-only '$(ONLY)')

bench-trust: ## what verifying, handshakes and a hostile agent cost; the last line is JSON; BENCH_STRICT=1 fails beyond a limit
	@CGO_ENABLED=0 go build -trimpath -o bin/nixfleet-control-plane ./cmd/nixfleet-control-plane
	@CGO_ENABLED=0 go build -o bin/trustbench ./test/trustbench
	@exec bin/trustbench $(if $(BENCH_STRICT),-strict)

bench-house: test-deps build ## the state of the house: words, hints, sizes, dead code, skips; the last line is JSON
	@CGO_ENABLED=0 go build -o bin/house ./test/house
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; code=0; \
	$(MAKE) --no-print-directory test SKIPPED="$$out/skipped.json" >&2 || code=$$?; \
	NIXFLEET_FIGURES="$$out" go test -count=1 ./internal/archtest ./test/hints >&2 || code=$$?; \
	go tool -modfile=tools/go.mod deadcode -json ./... > "$$out/dead.json"; \
	go tool -modfile=tools/go.mod deadcode -json -test ./... > "$$out/dead-tests.json"; \
	bin/house -figures "$$out" || code=$$?; \
	exit $$code

bench-plane: ## the control plane at size, its machines played by processes of their own; the last line is JSON. MACHINES=10000 HISTORY=1000000 (events and audit entries) IDLE=15m LARGE=100000 ONLY=held,restart (some of idle, held, rollouts, restart, history, large)
	@CGO_ENABLED=0 go test -c -o bin/plane.test ./controlplane/program
	@NIXFLEET_BENCH_ONLY=$(ONLY) NIXFLEET_BENCH_PLANE=$(or $(MACHINES),10000),$(or $(HISTORY),1000000),$(or $(IDLE),15m),$(or $(LARGE),100000) bin/plane.test -test.run '^TestPlaneBench$$' -test.timeout 2h

openapi-check: ## others' programs read docs/reference/openapi.json and call a control plane by clients that they generate; needs npm; the last line is JSON
	@CGO_ENABLED=0 go build -o bin/openapi ./test/openapi
	@exec bin/openapi

lint: ## formatting, vet, static checks
	@out=$$(gofmt -l . ); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	@go vet ./...
	@go tool -modfile=tools/go.mod staticcheck ./...
	@go tool -modfile=tools/go.mod shadow ./...

generate: ## write generated files anew: OpenAPI document, reference
	@go test ./controlplane/server -run 'OpenAPI|Matrix' -update
	@go test ./internal/reference -update

fmt: ## format the Go source
	@gofmt -w .

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

# --- Nix ---
NIX_TREES = NIXPKGS='$(NIXPKGS)' NIX_DARWIN='$(NIX_DARWIN)' NIX_DARWIN_LIB='$(NIX_DARWIN_LIB)' INPUTS='$(INPUTS)'

.PHONY: trees upstream nix-docs nix-docs-check nix-real nix-parse eval hosts-matrix nix-units nix-flake vm-apps bench-nix vendor-hash vendor-hash-check
trees: ## which trees the tests of the Nix files need, which are there, and how to get the others
	@$(NIX_TREES) nix/checks/trees.sh

upstream: ## list names and types of the options that we set, as a release of NixOS has them: NIXPKGS=TREE INPUTS=FOLDER [REFERENCE=TREE]
	@$(NIX_TREES) nix/checks/upstream/list.sh $(REFERENCE)

nix-parse: ## every .nix file parses; shellcheck of the scripts beside them
	@nix/checks/parse.sh

eval: ## evaluation tests: NIXPKGS=TREE [NIX_DARWIN=TREE INPUTS=FOLDER TESTS="name ..."]
	@$(NIX_TREES) nix/checks/eval/run.sh $(TESTS)

hosts-matrix: ## each scope and role on hosts of twenty shapes: NIXPKGS=TREE NIX_DARWIN=TREE INPUTS=FOLDER [SHAPES="name ..." CELLS="name ..." UPDATE=1]; the last line is JSON
	@$(NIX_TREES) SHAPES='$(SHAPES)' CELLS='$(CELLS)' nix/checks/hosts-matrix/run.sh $(if $(UPDATE),--update)

nix-units: ## systemd's own checks of our units: NIXPKGS=TREE
	@$(NIX_TREES) nix/checks/units.sh

nix-flake: ## flake check without building, and the templates as flakes: NIXPKGS=TREE INPUTS=FOLDER
	@$(NIX_TREES) nix/checks/flake.sh

vm-apps: ## what the VM apps do around QEMU
	@nix/checks/vm-apps.sh

nix-real: ## generated rules, scripts and units run for real: NIXPKGS=TREE, as root
	@for script in ssh-limit rollback backup alert-rules units host-key; do $(NIX_TREES) nix/checks/real/$$script.sh; done

nix-docs: ## write the reference of options: NIXPKGS=TREE NIX_DARWIN=TREE
	@$(NIX_TREES) nix/docs/generate.sh

nix-docs-check: ## compare it
	@$(NIX_TREES) nix/docs/generate.sh --check

bench-nix: ## what evaluating hosts costs beside plain NixOS: NIXPKGS=TREE
	@$(NIX_TREES) nix/bench/run.sh

vendor-hash: ## write the hash of the vendored Go modules
	@nix/packages/vendor-hash.sh

vendor-hash-check: ## compare it
	@nix/packages/vendor-hash.sh --check

generate: vendor-hash
