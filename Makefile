# alknet-p2p. `make help` lists the targets; CI runs only these.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# From git where there is one; a tree without tags or without git builds too.
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BIN       := bin/alknet-p2p
PLATFORMS ?= linux/amd64 darwin/amd64 windows/amd64
FUZZTIME  ?= 10s
SCHEDULES ?= 100000
BENCH     ?= .
BENCHTIME ?= 1s
SOAK      ?= 1h
IDLE      ?= 1000
# Of natlab: dials of each pair, the best of which counts; how long a path may
# take to become direct; each cable's delay and loss (0 to 1). KINDS (a,b) or
# CELLS (a:b,c:d) measure others than the seven, OTHERS=1 those that are no
# matrix, EVENTS=1 what happens to networks.
ROUNDS    ?= 2
WAIT      ?= 10s
DELAY     ?= 0s
LOSS      ?= 0
# auto: namespace tests run where they can; required: where they cannot, that is a failure.
NAMESPACES ?= auto

# One way to compile for all that does not run tests, so that what one target
# compiled the next finds in the cache.
GOENV := CGO_ENABLED=0 GOFLAGS='$(strip $(shell go env GOFLAGS) -trimpath)'
TOOL  := $(GOENV) go tool -modfile=tools/go.mod
TEST  := CGO_ENABLED=1 go test -race -shuffle=on

# Packages whose tests build network namespaces: those that define the flag.
# They run apart, one at a time, because they measure time; with a limit of their
# own, since a package of many real networks takes longer than go test allows one.
NAMESPACE_PKGS := $(shell grep -rlF --include='*_test.go' '"natlab.required"' . 2>/dev/null | xargs -r -n1 dirname | sort -u)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/alknet-p2p, one static binary
	$(GOENV) go build -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/alknet-p2p

.PHONY: demo
demo: build ## build it and show the whole story on this machine
	$(BIN) demo

.PHONY: test
test: deps ## run all tests with the race detector (NAMESPACES=required: none skipped)
	@if [ '$(NAMESPACES)' = required ] && [ -z '$(strip $(NAMESPACE_PKGS))' ]; then \
		echo 'NAMESPACES=required, but no package has namespace tests' >&2; exit 1; fi
	@failed=0; \
	$(TEST) $$(go list ./... | grep -vxF -e '' $(if $(strip $(NAMESPACE_PKGS)),-f <(go list $(NAMESPACE_PKGS)))) || failed=1; \
	$(if $(strip $(NAMESPACE_PKGS)),$(TEST) -p 1 -timeout 30m $(NAMESPACE_PKGS) $(if $(filter required,$(NAMESPACES)),-args -natlab.required) || failed=1;) \
	$(if $(filter required,$(NAMESPACES)),$(TEST) ./internal/interop -args -interop.required || failed=1;) \
	exit $$failed

# deps says what is missing, by Debian package, and what that means.
.PHONY: deps
deps:
	@if ! command -v $$(go env CC) >/dev/null; then \
		echo 'The race detector needs a C compiler: apt-get install gcc libc6-dev' >&2; exit 1; fi
	@why=''; missing=''; \
	[ "$$(go env GOOS)" = linux ] || why='this is not Linux'; \
	[ -n "$$why" ] || [ "$$(id -u)" = 0 ] || why='not root'; \
	PATH="$$PATH:/usr/sbin:/sbin"; \
	command -v nft >/dev/null || missing="$$missing nftables"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	command -v miniupnpd >/dev/null || missing="$$missing miniupnpd-nftables"; \
	command -v tayga >/dev/null || missing="$$missing tayga"; \
	[ -x /usr/lib/squid/security_file_certgen ] || missing="$$missing squid-openssl"; \
	[ -n "$$why" ] || [ -z "$$missing" ] || why="missing Debian packages: apt-get install$$missing"; \
	if [ -n "$$why" ]; then \
		if [ '$(NAMESPACES)' = required ]; then echo "Namespace tests are required, but: $$why" >&2; exit 1; fi; \
		echo "The tests in network namespaces (real NATs) are skipped: $$why"; \
	fi

.PHONY: check
check: format vet lint tidy fix cross test ## everything CI demands: format, vet, lint, tidy, cross builds, tests

.PHONY: format
format:
	@bad=$$($(TOOL) gofumpt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$bad" ]; then echo "Not formatted (make fmt):"; echo "$$bad"; exit 1; fi

.PHONY: fmt
fmt: ## format every Go file
	$(TOOL) gofumpt -w $$(git ls-files -co --exclude-standard '*.go')

.PHONY: vet
vet:
	$(GOENV) go vet ./...

.PHONY: lint
lint: ## run golangci-lint, built from tools/go.mod
	$(TOOL) golangci-lint run

.PHONY: tidy
tidy:
	go mod tidy -diff

.PHONY: fix
fix:
	$(GOENV) go fix -diff ./...

# Tests are compiled for the other systems too (go list -export does, and links
# nothing); the protocols stay free of what a browser lacks.
.PHONY: cross
cross: ## compile code and tests for PLATFORMS, and ./protocols/... for js/wasm
	@for p in $(PLATFORMS); do \
		echo "cross $$p"; \
		$(GOENV) GOOS=$${p%/*} GOARCH=$${p#*/} go build ./...; \
		$(GOENV) GOOS=$${p%/*} GOARCH=$${p#*/} go list -test -export ./... >/dev/null; \
	done
	@echo 'cross js/wasm ./protocols/...'
	@$(GOENV) GOOS=js GOARCH=wasm go build ./protocols/...

.PHONY: fuzz
fuzz: ## run every fuzz target in turn, each for FUZZTIME (10s)
	@grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sort | while IFS=: read -r file _ func; do \
		target=$${func#func }; \
		echo "fuzz $$(dirname $$file) $$target"; \
		go test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) "$$(dirname $$file)"; \
	done

.PHONY: rules
rules: ## write docs/call-rules.md anew: which tests show which rule
	go test ./internal/arch -run '^TestEveryRuleHasATest$$' -args -arch.update

.PHONY: schedules
schedules: ## play 100,000 random schedules of calls, some ten minutes (SCHEDULES=n)
	$(TEST) ./protocols/call -run 'CALL14RandomSchedules$$' -timeout 2h -args -call.schedules $(SCHEDULES)

.PHONY: bench
bench: ## run the benchmarks (BENCH=regexp BENCHTIME=1s); compare with benchstat
	go test -run='^$$' -bench='$(BENCH)' -benchtime=$(BENCHTIME) -benchmem ./...

.PHONY: soak
soak: ## change the network at random beneath running streams, for SOAK (1h); then measure IDLE (1000) idle sessions; root
	@$(MAKE) --no-print-directory deps NAMESPACES=required
	go test -v -timeout=0 -run='^Test(Soak|IdleSessions)$$' ./internal/acceptance -args -natlab.required -soak=$(SOAK) -idle=$(IDLE)

.PHONY: natlab
natlab: ## each kind of network dials each: table, and bin/natlab.json (ROUNDS=2 KINDS= CELLS= DELAY= LOSS= WAIT= OTHERS=1 EVENTS=1; JSON=1 prints it); root
	@$(MAKE) --no-print-directory deps NAMESPACES=required
	@mkdir -p bin
	@go test -v -timeout=0 -run='$(if $(EVENTS),NetworksChange,EveryNetworkReachesEvery)' ./internal/acceptance -args -natlab.required \
		-networks.json='$(CURDIR)/bin/natlab.json' -networks.rounds=$(ROUNDS) -networks.wait=$(WAIT) -networks.delay=$(DELAY) -networks.loss=$(LOSS) \
		-networks.kinds='$(or $(KINDS),$(if $(CELLS)$(OTHERS),,all))' -networks.cells='$(CELLS)' \
		$(if $(OTHERS),-networks.others) $(if $(EVENTS),-networks.events) $(if $(JSON),>&2)
	@$(if $(JSON),cat bin/natlab.json)

.PHONY: cover
cover: ## write coverage.html and print the total
	go test -coverpkg=./... -coverprofile=coverage.out ./...
	go tool cover -html=coverage.out -o coverage.html
	@go tool cover -func=coverage.out | tail -n 1

.PHONY: clean
clean: ## remove what the targets wrote
	rm -rf bin coverage.out coverage.html
