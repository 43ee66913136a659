# Cordon. "make demo" shows the main job on this machine, "make test" passes all tests.
export CGO_ENABLED := 0
GO ?= go

.PHONY: build demo test test-machines bypass bench lint deps packages bpf

build: bin/cordon

bin/cordon: FORCE
	$(GO) build -trimpath -ldflags='-s -w' -o $@ ./cmd/cordon
FORCE:

# deb and rpm packages, in OUT. A version that the package managers can order.
VERSION ?= 0.1.0
ARCH ?= $(shell $(GO) env GOARCH)
OUT ?= bin
FORMATS ?= deb rpm
NFPM := $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
packages:
	GOARCH=$(ARCH) $(GO) build -trimpath -ldflags='-s -w -X main.packaged=$(VERSION)' -o bin/package/cordon ./cmd/cordon
	mkdir -p $(OUT)
	for p in $(FORMATS); do ARCH=$(ARCH) VERSION=$(VERSION) $(NFPM) package -f packaging/nfpm.yaml -p $$p -t $(OUT)/ || exit 1; done

demo: build
	$(GO) build -o bin/demo ./test/demo
	bin/demo bin/cordon

# What the tests use besides Go: rpm builds packages and a database to be read, gpg signs, and
# npm runs a login library that programs written for Defender use, gcc builds what
# attacks the enforcers, and dbus-daemon is a desktop's bus. The rest boots kernels: see docs/vm.md.
APT := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
deps:
	@{ command -v rpmbuild && command -v gpg && command -v gpg-agent; } >/dev/null || { apt-get update -qq && $(APT) rpm gpg gpg-agent >/dev/null; }
	@command -v npm >/dev/null || { apt-get update -qq && $(APT) nodejs npm ca-certificates >/dev/null; }
	@command -v dbus-daemon >/dev/null || { apt-get update -qq && $(APT) dbus-daemon >/dev/null; }
	@{ command -v gcc && test -e /usr/include/dlfcn.h; } >/dev/null || { apt-get update -qq && $(APT) gcc libc6-dev >/dev/null; }
	@for p in qemu-system-x86_64 qemu-img busybox debootstrap mke2fs mkfs.xfs mkfs.btrfs mkfs.erofs depmod xz zstd; do PATH="$$PATH:/usr/sbin:/sbin" command -v $$p >/dev/null || missing=1; done; \
		test -z "$$missing" || { apt-get update -qq && $(APT) qemu-system-x86 qemu-utils busybox-static debootstrap e2fsprogs xfsprogs btrfs-progs erofs-utils kmod xz-utils zstd debian-archive-keyring >/dev/null; }

test: deps lint build
	GOARCH=arm64 $(GO) build -o /dev/null ./cmd/cordon
	$(GO) test -timeout 30m -skip '^TestColumns$$' $$($(GO) list ./... | grep -v -e /test/installed -e /test/rpm -e /test/interpreters)

# Many minutes of emulation, so apart from the other tests: the bypass suite on its
# kernels, whole machines with the packages installed, restricted, rebooted and upgraded,
# rpm and dnf on a restricted machine, and interpreters of nine languages.
test-machines: deps build
	$(GO) test -count=1 -timeout 60m -v -run '^TestColumns$$' ./test/bypass
	$(GO) test -count=1 -timeout 60m -v ./test/installed
	$(GO) test -count=1 -timeout 30m -v ./test/rpm
	$(GO) test -count=1 -timeout 60m -v ./test/interpreters

# Every technique that we know to run what is not trusted, on every kernel, and
# what came of it: see docs/limits.md.
bypass: deps
	$(GO) run ./test/bypass

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...

# What Cordon costs on this machine, and in the kernel of a virtual one. Each says how
# long it took: about five minutes, and up to twenty where there is much else to do.
bench: deps build
	$(GO) run ./test/bench bin/cordon
	$(GO) run ./test/bench/kernel

# The programs for the kernel are committed compiled, so that building needs Go
# alone. A test compares them with their source, and where this compiler is, byte by byte.
BPF := internal/enforce/bpflsm
bpf:
	cd $(BPF)/bpf && clang-19 -target bpfel -mcpu=v3 -O2 -g -Wall -Werror -fdebug-compilation-dir=. -c cordon.bpf.c -o ../cordon.bpf.o
	llvm-strip-19 -g $(BPF)/cordon.bpf.o
	cd $(BPF) && sha256sum bpf/*.[ch] cordon.bpf.o > cordon.bpf.sum
