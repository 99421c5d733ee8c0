# lunboot: build, try, test and install.
#
#   make            the three programs, static, in $(BUILD)
#   make demo       boot a real Debian from a LUN in a virtual machine, and log in
#                   (DEMO=check does it without a person and exits 0 if all went well)
#   make test       every test there is, with a line of counts at the end
#   make soak       the seeded simulation of both sides with new seeds until it is stopped: a line a
#                   minute; a failure ends it with its seed and the command that repeats it
#   make soak-reboots
#                   a Debian 13 in a virtual machine that is restarted 50 times while it writes
#   make bench      the measurements
#   make fuzz       every fuzzer for FUZZ_SECONDS (1800) each; wants a nightly toolchain and a C++ compiler
#   make install    programs, boot hooks, udev rule, man pages (DESTDIR=, PREFIX=)
#   make check      format and lints, as the tests want them
#
# What is missing on the machine is installed through apt when this runs as root, and named
# when it does not. Settings: TRIPLE=, CARGO=, CARGO_TARGET_DIR=.

SHELL = /bin/sh

CARGO ?= cargo
TRIPLE ?= $(shell uname -m)-unknown-linux-musl
CARGO_TARGET_DIR ?= target
BUILD = $(CARGO_TARGET_DIR)/$(TRIPLE)/release

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
# initramfs-tools does not look below /usr/local: what an administrator adds goes to /etc, what a
# package brings (PREFIX=/usr) goes to /usr.
ifeq ($(PREFIX),/usr)
INITRAMFS_TOOLS_DIR ?= /usr/share/initramfs-tools
else
INITRAMFS_TOOLS_DIR ?= /etc/initramfs-tools
endif
UDEV_RULES_DIR = $(PREFIX)/lib/udev/rules.d

PROGRAMS = lunboot lunboot-target lunboot-mkinitramfs

export CARGO TRIPLE CARGO_TARGET_DIR

.PHONY: all
all: tools
	$(CARGO) build --release --locked --target $(TRIPLE) --bins
	@ls -l $(addprefix $(BUILD)/,$(PROGRAMS))

# The compiler's musl target and the C compiler that the builder's zstd needs.
.PHONY: tools
tools:
	@tests/setup/build-tools

.PHONY: demo
demo: all
	tests/vm/demo $(DEMO)

.PHONY: test
test: all
	tests/run

.PHONY: soak
soak:
	SIM_SOAK=1 $(CARGO) test --locked --profile soak --test sim -- --nocapture

.PHONY: soak-reboots
soak-reboots: all
	LUNBOOT_REBOOTS=50 $(CARGO) test --locked --test vm -- --ignored --nocapture after_reboots

.PHONY: bench
bench: all
	tests/bench/run

FUZZ_SECONDS ?= 1800

.PHONY: fuzz
fuzz:
	fuzz/run $(FUZZ_SECONDS)

.PHONY: check
check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings

# Does not build: `make && sudo make install` leaves no files of root's in the build directory.
.PHONY: install
install:
	@for program in $(PROGRAMS); do test -x "$(BUILD)/$$program" || \
	    { echo "make install: $(BUILD)/$$program is not there: run make first" >&2; exit 1; }; done
	install -d "$(DESTDIR)$(BINDIR)"
	install -m 755 $(addprefix $(BUILD)/,$(PROGRAMS)) "$(DESTDIR)$(BINDIR)"
	install -D -m 755 initramfs-hooks/initramfs-tools/hooks/lunboot \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/hooks/lunboot"
	install -D -m 644 initramfs-hooks/initramfs-tools/conf.d/lunboot \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/conf.d/lunboot"
	install -D -m 755 initramfs-hooks/initramfs-tools/scripts/local-top/lunboot \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/scripts/local-top/lunboot"
	install -D -m 755 initramfs-hooks/initramfs-tools/scripts/init-bottom/lunboot \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/scripts/init-bottom/lunboot"
	install -D -m 644 initramfs-hooks/udev/60-lunboot.rules \
	    "$(DESTDIR)$(UDEV_RULES_DIR)/60-lunboot.rules"
	@for page in docs/man/*.[1-8]; do \
	    test -e "$$page" || continue; \
	    install -D -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}"; \
	done

.PHONY: uninstall
uninstall:
	rm -f $(addprefix "$(DESTDIR)$(BINDIR)"/,$(PROGRAMS)) \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/hooks/lunboot" \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/conf.d/lunboot" \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/scripts/local-top/lunboot" \
	    "$(DESTDIR)$(INITRAMFS_TOOLS_DIR)/scripts/init-bottom/lunboot" \
	    "$(DESTDIR)$(UDEV_RULES_DIR)/60-lunboot.rules"
	@for page in docs/man/*.[1-8]; do \
	    rm -f "$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}"; \
	done

.PHONY: clean
clean:
	$(CARGO) clean
