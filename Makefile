# Two commands matter: `make demo` and `make test`. Both set up what they need.

PROCESSORS := hello-world generic-image echo
GUESTS     := $(PROCESSORS) misbehaving
WASM       := target/wasm32-wasip2/plugin
CARGO      := cargo

.PHONY: demo test test-cluster run lint fmt bench bench-cluster plugins release toolchain clean

demo: target/debug/plugins.stamp  ## build, start a server, drop a processor in, run it, show everything
	$(CARGO) build --bin vespiary
	sh tests/demo.sh target/debug/vespiary target/debug/plugins/hello-world.wasm

test: lint target/debug/plugins.stamp  ## everything that must hold, without network and without root
	$(CARGO) build --workspace --all-targets --features vespiary/failpoints
	$(CARGO) test --workspace --no-fail-fast --features vespiary/failpoints

# The variables that it reads are told in CONTRIBUTING.md; with VESPIARY_TEST_ALL=1 one that is missing is a failure.
test-cluster: target/debug/plugins.stamp  ## contract suites and end-to-end tests on Kubernetes, PostgreSQL and S3
	$(CARGO) build --workspace --all-targets --features vespiary/failpoints
	$(CARGO) test --workspace --no-fail-fast --features vespiary/failpoints --lib -- store:: archive:: runner:: jobs::inspect::
	VESPIARY_E2E=cluster $(CARGO) test --workspace --no-fail-fast --features vespiary/failpoints --test '*' -- --test-threads 4

run: release  ## a server on 127.0.0.1:8080 with its data in ./vespiary-data
	target/release/vespiary serve

lint: toolchain  ## format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features vespiary/failpoints -- -D warnings

fmt: toolchain
	$(CARGO) fmt --all

bench: release  ## ratios against bare loops in the same run; BENCH="--quick list" for less of it
	$(CARGO) build --release --bin bench
	target/release/bench $(BENCH)

bench-cluster: release  ## the same with a cluster, PostgreSQL and S3, from KUBECONFIG and TEST_…; BENCH="--quick reads" for less of it
	$(CARGO) build --release --bin bench
	target/release/bench cluster $(BENCH)

release: target/release/plugins.stamp
	$(CARGO) build --release --bin vespiary

plugins: target/debug/plugins.stamp

# Cargo decides whether anything is to be built; the copies are what the program finds beside itself.
target/%/plugins.stamp: toolchain
	$(CARGO) build --target wasm32-wasip2 --profile plugin $(addprefix -p ,$(GUESTS))
	mkdir -p target/$*/plugins
	for name in $(PROCESSORS); do \
	    built=$(WASM)/$$(echo $$name | tr - _).wasm; shipped=target/$*/plugins/$$name.wasm; \
	    cmp -s $$built $$shipped || cp $$built $$shipped || exit 1; \
	done

toolchain:
	@rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install
	@rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2
	@rustup component list --installed | grep -q '^clippy' || rustup component add clippy rustfmt

clean:
	$(CARGO) clean
