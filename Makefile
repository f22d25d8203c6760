# What people and CI call. Everything a target needs, it installs or names.

CARGO   ?= cargo
PREFIX  ?= /usr/local
TOOLS   := target/tools
BIN     := target/debug
DENY    := $(TOOLS)/bin/cargo-deny
DENY_VERSION := 0.20.2
FUZZ    := $(TOOLS)/bin/cargo-fuzz
FUZZ_VERSION := 0.13.2
FUZZING := netsim-tests/fuzz/Cargo.toml

# command:package, as Debian and Ubuntu call them
LAB_NEEDS  := cc:gcc ping:iputils-ping
TEST_NEEDS := $(LAB_NEEDS) nft:nftables ip:iproute2 faketime:faketime mkfs.ext4:e2fsprogs script:bsdutils c++:g++ wireguard-go:wireguard-go wg:wireguard-tools miniupnpd:miniupnpd-nftables
BENCH_NEEDS := $(LAB_NEEDS) iperf3:iperf3 wg:wireguard-tools

.PHONY: help build release install lab lab-down test check unit sim thousand e2e bench openapi deps clean soak

help:
	@echo "make lab        build, and bring up a fleet of three nodes on this machine"
	@echo "make lab-down   remove it"
	@echo "make release    build what make install copies to $(PREFIX)"
	@echo "make test       everything CI runs: format, lints, docs, licences, tests"
	@echo "make soak       the long runs: all seeds, fuzzing, idle traffic"
	@echo "make bench      the figures of docs/benchmarks.md"

# Installs what is missing where it may, else says what to install.
define require
	@missing=""; \
	for need in $(1); do \
		command -v $${need%%:*} >/dev/null 2>&1 || [ -x /usr/sbin/$${need%%:*} ] || missing="$$missing $${need##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	else \
		echo "missing:$$missing; install it, on Debian or Ubuntu with: sudo apt-get install$$missing"; exit 1; \
	fi
endef

deps:
	$(call require,$(TEST_NEEDS))

build:
	$(call require,$(LAB_NEEDS))
	@$(CARGO) build --locked --quiet -p meshd -p epsilon-cli

release:
	$(call require,cc:gcc)
	$(CARGO) build --locked --release -p meshd -p epsilon-cli

# Copies what `make release` built; DESTDIR is for packagers.
install:
	@test -x target/release/meshd || { echo "run: make release"; exit 1; }
	install -D -s -m 755 target/release/meshd $(DESTDIR)$(PREFIX)/bin/meshd
	install -D -s -m 755 target/release/epsilon $(DESTDIR)$(PREFIX)/bin/epsilon
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/bin/meshd|$(PREFIX)/bin/meshd|' meshd/systemd/meshd.service \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/meshd.service
	@[ -n "$(DESTDIR)" ] || getent group epsilon >/dev/null || groupadd --system epsilon

lab: build
	@$(BIN)/epsilon lab up --nodes 3

lab-down: build
	@$(BIN)/epsilon lab down

# The fleet of a thousand keeps one core busy for ten minutes: beside what is not timed.
test: deps
	@mkdir -p target; \
	setsid $(MAKE) --no-print-directory thousand >target/thousand.log 2>&1 & thousand=$$!; \
	trap 'exit 1' INT TERM; trap 'kill -- -$$thousand 2>/dev/null' EXIT; \
	$(MAKE) --no-print-directory check unit sim e2e || exit; \
	wait $$thousand || { cat target/thousand.log; exit 1; }

check: deps $(DENY)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path $(FUZZING)
	$(CARGO) clippy --locked --workspace --all-targets --quiet -- -D warnings
	$(CARGO) clippy --locked --manifest-path $(FUZZING) --target-dir target --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	$(DENY) --log-level error check bans licenses sources

unit: deps build
	$(CARGO) test --locked --workspace --exclude epsilon-netsim-tests --quiet
	$(CARGO) test --locked -p epsilon-netsim-tests --lib --quiet

sim: deps
	$(CARGO) test --locked -p epsilon-netsim-tests --test sim

thousand: deps
	$(CARGO) test --locked -p epsilon-netsim-tests --test sim -- --ignored

e2e: deps build
	$(CARGO) test --locked -p epsilon-netsim-tests --test e2e

# The better part of half an hour; BENCH_PAIRS, BENCH_SECONDS and BENCH_RIVALS
# make it shorter.
bench:
	$(call require,$(BENCH_NEEDS))
	CARGO="$(CARGO)" netsim-tests/benches/rivals $(TOOLS)/rivals
	$(CARGO) build --locked --release --quiet -p meshd -p epsilon-cli
	$(CARGO) bench --locked --quiet -p epsilon-netsim-tests --bench fleet
	BENCH_TOOLS="$(CURDIR)/$(TOOLS)/rivals" \
		$(CARGO) bench --locked --quiet -p epsilon-netsim-tests --bench dataplane

# An hour and a half on two cores; `netsim-tests/soak sim` runs a part.
soak: deps build $(FUZZ)
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" CARGO="$(CARGO)" netsim-tests/soak

openapi:
	mkdir -p target
	$(CARGO) run --locked --quiet -p meshd -- --print-openapi > target/openapi.json
	mv target/openapi.json docs/openapi.json

$(DENY):
	$(CARGO) install --quiet --locked --root $(TOOLS) cargo-deny --version $(DENY_VERSION)

$(FUZZ):
	$(CARGO) install --quiet --locked --root $(TOOLS) cargo-fuzz --version $(FUZZ_VERSION)

clean:
	$(CARGO) clean
