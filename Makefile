# Build, test and install Cuju; "make help" lists the targets.
# SPDX-License-Identifier: GPL-2.0-or-later

# ninja runs the jobs; what is left here is a sequence.
.NOTPARALLEL:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

-include build/config.mk

TARGET_LIST ?= x86_64-softmmu
PREFIX ?= $(or $(CONFIG_PREFIX),/usr/local)

# The system's programs first: QEMU is built with the system's python3.
BUILD_PATH = PATH=/usr/bin:/bin:/usr/sbin:/sbin
OBJ = build/obj
PYTHON = /usr/bin/python3
PYTEST = $(PYTHON) -m pytest
PYTESTFLAGS ?=

# ninja does not know make's job server: hand it the number of "make -jN", and
# that of the processors where none was given.  (Only within a recipe does
# MAKEFLAGS have the number.)
JOBS = $(or $(patsubst -j%,%,$(firstword $(filter -j%,$(MAKEFLAGS)))),$(shell nproc))
NINJA = $(BUILD_PATH) ninja -C $(OBJ) -j$(JOBS) $(if $(V),-v)
MESON_TEST = $(BUILD_PATH) pyvenv/bin/meson test --print-errorlogs -j$(JOBS)
TIMEOUT_MULTIPLIER ?= 3

BINARIES = $(foreach t,$(filter %-softmmu,$(TARGET_LIST)),qemu-system-$(t:-softmmu=)) \
           qemu-img

# Rules that need the configuration run in a make of their own, which reads
# config.mk after prepare has made it.
AGAIN = +@$(MAKE) --no-print-directory

.PHONY: all
all: prepare
	$(AGAIN) build-qemu

.PHONY: prepare
prepare:
	@scripts/build/prepare

.PHONY: build-qemu
build-qemu:
	@$(NINJA) $(BINARIES)
	@for t in $(filter %-softmmu,$(TARGET_LIST)); do \
	    mkdir -p $$t && \
	    ln -sfn ../$(OBJ)/qemu-system-$${t%-softmmu} \
	            $$t/qemu-system-$${t%-softmmu} || exit 1; \
	done
	@ln -sfn $(OBJ)/qemu-img qemu-img

.PHONY: install
install:
	@if [ -e build/config.mk ] && [ '$(PREFIX)' != '$(CONFIG_PREFIX)' ]; then \
	    echo "make: configuring again for --prefix=$(PREFIX)"; \
	    build/config.status --prefix='$(PREFIX)'; \
	fi
	$(AGAIN) all
	$(AGAIN) install-files

# Build only what gets installed: "ninja install" would build the tests too.
.PHONY: install-files
install-files:
	@$(BUILD_PATH) scripts/build/installed-targets $(OBJ) > build/install.list
	@$(NINJA) $$(cat build/install.list)
	@$(BUILD_PATH) DESTDIR='$(DESTDIR)' $(OBJ)/pyvenv/bin/meson install \
	    -C $(OBJ) --no-rebuild --quiet
	@for s in runvm.sh recv.sh ftmode.sh ft-top; do \
	    [ ! -f scripts/$$s ] || \
	    install -D -m 755 scripts/$$s '$(DESTDIR)$(PREFIX)/share/cuju/'$$s || \
	    exit 1; \
	done
	@echo "installed in $(DESTDIR)$(PREFIX)"

.PHONY: clean
clean:
	rm -rf $(OBJ) build/config.mk build/guest build/style.list \
	       build/install.list build/asan build/fuzz build/chaos build/kvm
	rm -rf $(addsuffix /,$(TARGET_LIST)) qemu-img
	find scripts tests -name __pycache__ -prune -exec rm -rf {} +
	@if [ -f tests/guest/bare/Makefile ]; then \
	    $(MAKE) --no-print-directory -C tests/guest/bare clean; \
	fi

.PHONY: distclean
distclean: clean
	rm -rf build .pytest_cache

.PHONY: patch-stat
patch-stat:
	@scripts/build/patch-stat

.PHONY: guest
guest:
	@if [ -x scripts/guest/build ]; then scripts/guest/build; else \
	    echo "guest: no scripts/guest/build in this tree"; fi
	@if [ -x scripts/guest/disk ]; then scripts/guest/disk; fi
	+@if [ -f tests/guest/bare/Makefile ]; then \
	    $(MAKE) --no-print-directory -C tests/guest/bare; else \
	    echo "guest: no tests/guest/bare in this tree"; fi

.PHONY: deps
deps:
	@missing=$$(scripts/build/check-deps build test) || exit 1; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" -eq 0 ]; then scripts/install-deps; \
	else \
	    scripts/install-deps --dry-run; \
	    echo "make: run scripts/install-deps as root" >&2; exit 1; \
	fi

.PHONY: demo
demo: deps all guest
	@[ -x scripts/demo ] || { echo "demo: no scripts/demo in this tree" >&2; exit 1; }
	@scripts/demo

.PHONY: check
check: deps all guest check-style check-unit check-asan check-fuzz \
       check-functional check-chaos check-kvm check-qemu
	@echo "check: all passed"

.PHONY: check-style
check-style: deps
	@mkdir -p build
	@scripts/build/check-style

.PHONY: check-unit
check-unit: deps prepare
	$(AGAIN) run-unit

.PHONY: run-unit
run-unit:
	@$(NINJA) $(patsubst %.c,tests/unit/ft/%,$(notdir $(wildcard tests/unit/ft/*.c)))
	@cd $(OBJ) && $(MESON_TEST) --no-rebuild -t $(TIMEOUT_MULTIPLIER) --suite ft

# The same tests and sources with gcc's sanitizers, linked to QEMU's libraries
# as they are.
.PHONY: check-asan
check-asan: deps prepare
	@$(BUILD_PATH) scripts/build/run-asan --jobs $(JOBS) $(OBJ) build/asan

# "make fuzz TARGET=wire FUZZ_SECONDS=3600" goes on where it was left.
FUZZ_SECONDS ?= 20
FUZZ_SEED ?= 1
FUZZ = $(BUILD_PATH) tests/fuzz/run --jobs $(JOBS) --seconds $(FUZZ_SECONDS) \
       --seed $(FUZZ_SEED)

.PHONY: check-fuzz
check-fuzz: deps prepare
	@$(FUZZ)

.PHONY: fuzz
fuzz: deps prepare
	@$(FUZZ) --keep $(TARGET)

.PHONY: check-functional
check-functional: deps all guest
	@$(BUILD_PATH) ninja -C $(OBJ) -j$(JOBS) --quiet \
	    tests/unit/ft/test-ft-arbiter-real
	@if [ -d tests/functional ]; then \
	    $(PYTEST) tests/functional -v --tb=short $(PYTESTFLAGS); \
	else \
	    echo "check-functional: no tests/functional in this tree"; \
	fi

# Faults on a protected guest.  SEED=7 ROUND=B57 plays one again.
CHAOS_JOBS ?= 2
CHAOS = $(PYTHON) tests/chaos/run --jobs $(CHAOS_JOBS) \
        $(if $(TABLE),--table '$(TABLE)') $(CHAOSFLAGS)

build/chaos/relay: tests/chaos/relay.c
	@mkdir -p build/chaos
	@$(CC) -O2 -g -Wall -Wextra -o $@ $<

build/chaos/badio.so: tests/chaos/badio.c
	@mkdir -p build/chaos
	@$(CC) -O2 -g -Wall -Wextra -fPIC -shared -o $@ $< -ldl

.PHONY: chaos-programs
chaos-programs: build/chaos/relay build/chaos/badio.so

.PHONY: chaos
chaos: deps all guest chaos-programs
	@$(CHAOS) $(if $(N),--number $(N)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(ROUND),--round $(ROUND)) $(if $(FROM),--from $(FROM)) \
	    $(if $(FAULT),--fault '$(FAULT)')

.PHONY: check-chaos
check-chaos: deps all guest chaos-programs
	@$(PYTEST) tests/chaos -q --tb=short
	@$(CHAOS) --number $(or $(N),120) --seed $(or $(SEED),1) --seconds 180

# On KVM, in an emulated machine that has one.
.PHONY: check-kvm
check-kvm: deps all guest
	@tests/kvm/image
	@tests/kvm/check $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY))

# QEMU's own migration test; CHECK_QEMU=full runs all of its tests for x86_64.
.PHONY: check-qemu
check-qemu: deps all
	$(AGAIN) run-qemu

.PHONY: run-qemu
run-qemu:
ifeq ($(CHECK_QEMU),full)
	@cd $(OBJ) && ../../scripts/build/without-kvm --unless-usable \
	    env $(MESON_TEST) -t $(TIMEOUT_MULTIPLIER) --suite qtest-x86_64
else
	@$(NINJA) qemu-system-x86_64 qemu-img tests/qtest/migration-test \
	    qemu-io qemu-nbd storage-daemon/qemu-storage-daemon
	@scripts/build/without-kvm --unless-usable \
	    scripts/build/run-migration-test $(OBJ) $(JOBS)
	@scripts/build/without-kvm --unless-usable \
	    scripts/build/run-iotests $(OBJ) $(JOBS)
endif

.PHONY: bench
bench: deps all guest
	@[ -x tests/bench/run ] || { echo "bench: no tests/bench/run in this tree" >&2; exit 1; }
	@tests/bench/run

.PHONY: kvm
kvm:
	@if [ -f kvm/configure ]; then \
	    cd kvm && ./configure && $(MAKE); \
	else \
	    echo "kvm: the patched KVM module comes with a later release;" \
	         "until then Cuju runs on the kernel's own KVM" >&2; \
	    exit 1; \
	fi

.PHONY: help
help:
	@echo 'Build'
	@echo '  all (default)     QEMU with Cuju; configures first where that is not done'
	@echo '  install           install in PREFIX, below DESTDIR'
	@echo '  clean             remove what was built, keep the fetched source'
	@echo '  distclean         remove all of build/'
	@echo '  deps              install missing packages (Debian, as root)'
	@echo '  guest             guest images for the demo and the tests'
	@echo '  kvm               the patched KVM module'
	@echo '  patch-stat        what the patches change in QEMU'"'"'s own files'
	@echo 'Run'
	@echo '  demo              a protected guest, its host killed'
	@echo '  bench             measure protected against unprotected'
	@echo 'Test'
	@echo '  check             all of these, after all the set-up they need:'
	@echo '  check-style       shellcheck'
	@echo '  check-unit        unit tests of the engine'
	@echo '  check-asan        the same with address and undefined sanitizers'
	@echo '  check-fuzz        what comes from a peer, fuzzed; FUZZ_SECONDS=N each'
	@echo '  fuzz              longer: TARGET=NAME FUZZ_SECONDS=3600'
	@echo '  check-functional  whole machines; PYTESTFLAGS="-k NAME" picks some'
	@echo '  check-chaos       a bounded share of chaos, SEED=1'
	@echo '  chaos             faults on a protected guest: N=1000 SEED=7; ROUND=B57 plays'
	@echo '                    one again; FAULT="hang primary", TABLE=FILE, CHAOS_JOBS=2'
	@echo '  check-kvm         on KVM, in an emulated machine that has one; FULL=1: all'
	@echo '  check-qemu        QEMU'"'"'s migration test, some iotests; CHECK_QEMU=full: all x86_64 qtests'
	@echo 'Variables: V=1 shows commands, -jN sets the jobs of ninja'
