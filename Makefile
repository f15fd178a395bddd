# Two commands matter: `make demo` shows a pipeline at work on this machine,
# `make test` runs everything that CI runs. README tells more.
SHELL := /bin/bash
.DELETE_ON_ERROR:

BUILD := .build
DATA  := .data
# Race detection everywhere but in benchmarks. Results of tests against servers
# are never taken from a cache.
GOTEST := go test -race -count=1 -timeout 40m

# How often each worker role is killed in each phase by the end-to-end tests; at
# night: make test E2E_KILLS=20
export E2E_KILLS ?= 1

.PHONY: demo demo-once test lint unit e2e bench build devstack stack down clean

## demo: a pipeline from one Postgres into another and into ClickHouse, until Ctrl-C
demo: build
	@$(BUILD)/demo

## demo-once: the same, ending by itself; exit code 0 only if both sinks equal the source
demo-once: build
	@$(BUILD)/demo --once

build: devstack
	@mkdir -p $(BUILD)
	@go build -o $(BUILD)/ ./worker ./starter ./testsuite/demo

devstack:
	@mkdir -p $(BUILD)
	@cd devstack && go build -o ../$(BUILD)/devstack .

## test: linters, unit, property, replay, integration and end-to-end tests, on real servers
test: lint build
	@cd devstack && go vet ./... && go test ./...
	@testsuite/with-stack $(GOTEST) ./...

## lint: gofmt, vet, staticcheck, errcheck, workflowcheck
lint:
	@.ci/lint/run

## unit: what needs no servers
unit:
	go test -race ./...

## bench: the figures of README, as ratios against peers measured in the same run
bench: build
	@testsuite/with-stack go run ./testsuite/bench

## stack: the servers alone, with their data in .data/stack
stack: devstack
	$(BUILD)/devstack up --data $(DATA)/stack

down: devstack
	$(BUILD)/devstack down --data $(DATA)/stack

clean:
	rm -rf $(BUILD) $(DATA)
