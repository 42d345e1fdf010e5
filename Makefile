# `make run` and `make test` do everything on a fresh Debian machine.
SHELL := /bin/bash
.DELETE_ON_ERROR:

# Debian's interpreter starts in half the time of a pyenv build, and a container engine is started often.
# The shell looks for it, not make: make would before the package is installed.
PYTHON ?= $$(for p in /usr/bin/python3 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
IMAGE ?= busybox
CMD ?= sh -c 'echo "hello from $$(hostname), pid $$$$, on $$(uname -sr)"; ps'

# What the engine needs from the system, and what its tests compare it with.
APT_RUN := python3-venv gcc libc6-dev busybox-static mmdebstrap tini gpgv ca-certificates qemu-system-x86 qemu-system-common qemu-utils erofs-utils e2fsprogs ovmf
APT_TEST := gpg git openssl openssh-client openssh-server runc docker.io docker-registry docker-compose curl podman skopeo umoci libseccomp2 xorriso grub-pc-bin grub-efi-amd64-bin mtools swtpm cpio iproute2 iperf3 nftables iptables kmod attr libcap2-bin redis-tools postgresql-client zsh fish

.PHONY: setup setup-dev clients run test check bench docs clean

setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev

define need_apt
	@missing=$$(for p in $(1); do dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing: "$$missing; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "these system packages are missing; install them as root: apt-get install "$$missing >&2; exit 1; fi; fi
endef

$(VENV)/bin/python:
	$(call need_apt,$(APT_RUN))
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml contrib/launcher.in contrib/install_launchers.py src/skerry/cli/start.c | $(VENV)/bin/python
	$(call need_apt,$(APT_RUN))
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/python contrib/install_launchers.py
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(call need_apt,$(APT_TEST))
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

# Foreign clients out of npm, for the tests that drive them.
clients: tests/compat/npm/node_modules/.package-lock.json
tests/compat/npm/node_modules/.package-lock.json: tests/compat/npm/package-lock.json
	$(if $(shell command -v npm),,$(call need_apt,nodejs npm))
	cd tests/compat/npm && npm ci --silent --no-audit --no-fund --ignore-scripts

run: setup
	@$(BIN)/skerry image exists $(IMAGE) 2>/dev/null || $(BIN)/skerry bootstrap $(IMAGE)
	@$(BIN)/skerry run --rm $(IMAGE) $(CMD)

# Whole files go to whichever of the workers is free: a file's tests share its engine.
test: setup-dev clients
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

check: setup-dev
	$(BIN)/ruff check src tests bench contrib
	$(BIN)/ruff format --check src tests bench contrib
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup-dev
	$(BIN)/python -m bench

docs: setup-dev
	$(BIN)/python -m skerry.build.language.lint.manual > docs/build-lint.md
	$(BIN)/python -m skerry.cli.reference > docs/cli.md
	for shell in bash zsh fish; do $(BIN)/skerry completion $$shell > contrib/completion/skerry.$$shell; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
