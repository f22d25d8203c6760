# What people and CI call. Everything a target needs, it installs or names.

CARGO   ?= cargo
TOOLS   := target/tools
BIN     := target/debug
DENY    := $(TOOLS)/bin/cargo-deny
DENY_VERSION := 0.20.2
FUZZ    := $(TOOLS)/bin/cargo-fuzz
FUZZ_VERSION := 0.13.2
FUZZ_SECONDS ?= 60

# command:package, as Debian and Ubuntu call them
NEEDED  := cc:gcc ping:iputils-ping ip:iproute2 faketime:faketime

.PHONY: help build lab lab-down test check unit sim e2e bench openapi deps clean \
	soak sim-soak fuzz-soak e2e-soak idle-soak

help:
	@echo "make lab        build, and bring up a fleet of three nodes on this machine"
	@echo "make lab-down   remove it"
	@echo "make test       everything CI runs: format, lints, docs, licences, tests"
	@echo "make soak       the long runs: all seeds, fuzzing, idle traffic"
	@echo "make bench      the figures of docs/benchmarks.md"

deps:
	@missing=""; \
	for need in $(NEEDED); do \
		command -v $${need%%:*} >/dev/null 2>&1 || [ -x /usr/sbin/$${need%%:*} ] || missing="$$missing $${need##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	else \
		echo "missing:$$missing; install it, on Debian or Ubuntu with: sudo apt-get install$$missing"; exit 1; \
	fi

build: deps
	@$(CARGO) build --locked --quiet -p meshd -p epsilon-cli

lab: build
	@$(BIN)/epsilon lab up --nodes 3

lab-down: build
	@$(BIN)/epsilon lab down

test: check unit sim e2e

check: deps $(DENY)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	$(DENY) --log-level error check bans licenses sources

unit: build
	$(CARGO) test --locked --workspace --exclude epsilon-netsim-tests --quiet
	$(CARGO) test --locked -p epsilon-netsim-tests --lib --quiet

sim: deps
	$(CARGO) test --locked -p epsilon-netsim-tests --test sim
	EPSILON_SIM_SEED=1 EPSILON_SIM_NODES=1000 $(CARGO) test --locked -p epsilon-netsim-tests --test sim -- churn::views --nocapture

e2e: build
	$(CARGO) test --locked -p epsilon-netsim-tests --test e2e

bench: deps
	$(CARGO) build --locked --release --quiet -p meshd -p epsilon-cli
	$(CARGO) bench --locked --quiet -p epsilon-netsim-tests --bench fleet

# About an hour and a half on two cores.
soak: sim-soak fuzz-soak e2e-soak idle-soak

sim-soak: deps
	EPSILON_SIM_SEEDS=200 $(CARGO) test --locked --profile soak -p epsilon-netsim-tests --test sim -- churn::views --nocapture
	EPSILON_SIM_SEEDS=5 EPSILON_SIM_NODES=1000 $(CARGO) test --locked --profile soak -p epsilon-netsim-tests --test sim -- churn::views --nocapture

fuzz-soak: deps $(FUZZ)
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" netsim-tests/fuzz/run $(FUZZ_SECONDS)

e2e-soak: build
	for round in 1 2 3; do $(CARGO) test --locked -p epsilon-netsim-tests --test e2e || exit 1; done

idle-soak: deps
	$(CARGO) build --locked --release --quiet -p meshd -p epsilon-cli
	BENCH_IDLE_SECONDS=600 $(CARGO) bench --locked --quiet -p epsilon-netsim-tests --bench fleet

openapi:
	$(CARGO) run --locked --quiet -p meshd -- --print-openapi > docs/openapi.json

$(DENY):
	$(CARGO) install --quiet --locked --root $(TOOLS) cargo-deny --version $(DENY_VERSION)

$(FUZZ):
	$(CARGO) install --quiet --locked --root $(TOOLS) cargo-fuzz --version $(FUZZ_VERSION)

clean:
	$(CARGO) clean
