# Everything here needs Go alone, from a fresh clone; what tests need beyond it is skipped out loud when absent.
export PATH := $(PATH):/usr/local/go/bin:$(HOME)/go/bin:/usr/local/bin:/usr/bin:/bin
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LINTER    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME  ?= 60s
FUZZ_PACKAGES ?= ./...
E2E_FLAGS ?=
BENCH_FLAGS ?=
CHAOS_FLAGS ?=

.PHONY: build run test lint e2e bench bench-policy fuzz chaos

build: ; CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/stoker ./cmd/stoker

run: build ; bin/stoker demo

# The race detector is compiled with a C compiler; go says by CGO_ENABLED whether it found one.
test: ; @race=; if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null; then race=-race; else echo "make test: no C compiler here, so without the race detector"; export CGO_ENABLED=0; fi; set -x; $(GO) test $$race ./...

lint: ; command -v golangci-lint >/dev/null || $(GO) install $(LINTER); golangci-lint run --allow-parallel-runners --build-tags e2e ./...

e2e: ; $(GO) test -tags e2e -count 1 -timeout 30m $(E2E_FLAGS) ./e2e

bench: build ; $(GO) run ./scripts/bench $(BENCH_FLAGS)

bench-policy: ; $(GO) run ./scripts/bench-policy $(BENCH_FLAGS)

chaos: ; $(GO) run ./scripts/chaos $(CHAOS_FLAGS)

fuzz: ; scripts/fuzz $(FUZZTIME) $(FUZZ_PACKAGES)
