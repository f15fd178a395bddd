# Two commands matter: `make demo` shows a pipeline at work on this machine,
# `make test` runs everything that CI runs. README tells more.
SHELL := /bin/bash
.DELETE_ON_ERROR:

BUILD := .build
DATA  := .data
# Race detection everywhere but in benchmarks. Results of tests against servers
# are never taken from a cache.
GOTEST := go test -race -count=1 -timeout 40m

# How many packages, or end-to-end tests, run at a time: they wait for servers for much
# of their time, so half as many again as there are cores.
LANES ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))
# What takes longest begins first, lest it runs alone at the end.
LONG  := $(addprefix ./,dataplane/sink/clickhouse dataplane/sink/postgres dataplane/source/postgres dataplane/deliver starter)

# The other versions of Postgres that are claimed need less around them.
PG_STACK   := --kafka embedded --fsync=false
SOAK_KILLS ?= 20

# How often each worker role is killed in each phase by the end-to-end tests; make
# soak does it twenty times.
export E2E_KILLS ?= 1

# The programs that the end-to-end tests run, built before any test waits for them.
export E2E_WORKER      := $(CURDIR)/$(BUILD)/worker-race
export E2E_WORKER_FAST := $(CURDIR)/$(BUILD)/worker

.PHONY: demo demo-once incident drills rotations rotation-matrix test test-postgres postgres-16 postgres-17 soak lint unit bench build workers devstack stack down clean

## demo: a pipeline from one Postgres into another and into ClickHouse, until Ctrl-C
demo: build
	@$(BUILD)/demo

## incident: rows diverge, are found, repaired and reported on; takes about two minutes
incident: build
	@$(BUILD)/demo --incident

## drills: a table diverges in every way there is, one after the other; what it took is printed.
## E2E_DRILLS_ROWS=1000000 plays those that grow with the table with one of so many rows
drills: build workers
	@E2E_DRILLS=each testsuite/with-stack go test -count=1 -timeout 3h -v ./testsuite/e2e -run 'TestDrills$$' | grep -E 'DRILL|^(---|FAIL|ok)|drills_test.go.*(found|after)'

## rotations: both logins of a pipeline are rotated fifty times under 2,000 changes a second,
## after as long a time without rotations to compare how old what the sinks show is; takes
## about fourteen minutes. E2E_ROTATIONS_RATE=300 does it under so many changes a second
rotations: build workers
	@E2E_ROTATIONS=50 testsuite/with-stack go test -count=1 -timeout 1h -v ./testsuite/e2e -run 'TestRotation$$' | grep -E 'ROTATIONS|rotation [0-9]+ of|^(---|FAIL|ok)|(rotate|probe)_test.go.*(want|left|password|attempts|probe|showed|shows)'

## rotation-matrix: whatever may go wrong in each step of a rotation, one after the other;
## takes about half an hour. E2E_ROTATION_MATRIX=adopting plays that step alone
rotation-matrix: build workers
	@E2E_ROTATION_MATRIX=$${E2E_ROTATION_MATRIX:-all} testsuite/with-stack go test -count=1 -timeout 2h -v ./testsuite/e2e -run 'TestRotationMatrix$$' | grep -E 'MATRIX|matrix_test.go|^(---|FAIL|ok)'

## demo-once: the same, ending by itself; exit code 0 only if both sinks equal the source
demo-once: build
	@$(BUILD)/demo --once

build: devstack
	@mkdir -p $(BUILD)
	@go build -o $(BUILD)/ ./worker ./starter ./testsuite/demo

workers: build
	@go build -race -o $(BUILD)/worker-race ./worker

devstack:
	@mkdir -p $(BUILD)
	@cd devstack && go build -o ../$(BUILD)/devstack .

# The end-to-end tests run beside each other, but nothing else runs beside them: on
# two cores their bounds would measure the machine.
## test: linters, unit, property, replay, integration and end-to-end tests, on real servers
test: lint workers
	@cd devstack && go vet ./... && go test ./...
	@testsuite/with-stack $(SHELL) -c '$(GOTEST) -p $(LANES) $(LONG) $$(go list ./... | grep -v testsuite/e2e) && $(GOTEST) ./testsuite/e2e'
	@$(MAKE) --no-print-directory test-postgres

## test-postgres: what depends on Postgres, on the newest version and the one between, beside each other
test-postgres: workers
	@$(BUILD)/devstack prepare --postgres 17 && $(BUILD)/devstack prepare --postgres 16
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target postgres-17 postgres-16

postgres-17:
	@STACK_LOGS=logs-17 STACK_FLAGS="$(PG_STACK) --postgres 17" testsuite/with-stack $(SHELL) -c \
		'$(GOTEST) ./dataplane/source/postgres ./dataplane/sink/postgres && $(GOTEST) -run "^TestTypes$$" ./testsuite/e2e'

postgres-16:
	@STACK_LOGS=logs-16 STACK_FLAGS="$(PG_STACK) --postgres 16 --ports-base 27100" testsuite/with-stack $(GOTEST) ./dataplane/source/postgres

## soak: workers of each role killed twenty times in each phase, at random moments
soak: workers
	@E2E_KILLS=$(SOAK_KILLS) testsuite/with-stack go test -race -count=1 -timeout 3h -v -run '^Test(Kill|Zombie)' ./testsuite/e2e

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
