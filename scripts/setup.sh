# shellcheck shell=bash
# Sourced by the other scripts: where things are, and how a fresh Debian or
# Ubuntu machine gets what Quarry needs. Installs only what is missing, and says
# what. All messages go to standard error.

# shellcheck disable=SC2034 # for those who source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export CARGO_TARGET_DIR=$target

# A toolchain that rustup's installer put there is found without a new login.
case :$PATH: in
    *:"${CARGO_HOME:-$HOME/.cargo}/bin":*) ;;
    *) PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH ;;
esac

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@" >&2
    elif have sudo; then
        sudo "$@" >&2
    else
        die "this needs root or sudo: $*"
    fi
}

# The package lists are fetched once, and only if something is to be installed.
apt_updated=
apt_update() {
    [ -z "$apt_updated" ] || return 0
    say "updating the package lists"
    as_root apt-get update -q || die "apt-get update failed"
    apt_updated=1
}

# apt_install PACKAGE...
apt_install() {
    have apt-get || die "missing, and there is no apt-get to install it with: $*"
    apt_update
    say "installing packages: $*"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@" || die "could not install $*"
}

links() { printf 'int main(void) { return 0; }\n' | cc -x c - -o /dev/null 2>/dev/null; }

has_ovmf() {
    local file
    for file in /usr/share/OVMF/OVMF_CODE{_4M,}.fd /usr/share/edk2/{x64,ovmf}/OVMF_CODE*.fd; do
        [ -f "$file" ] && return 0
    done
    return 1
}

# What a build needs besides Rust.
setup_build() {
    local missing=()
    links || missing+=(gcc libc6-dev)
    have git || missing+=(git)
    have curl || have rustup || missing+=(curl)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    setup_rust
}

# What a boot needs besides a build.
setup_qemu() {
    local missing=()
    have qemu-system-x86_64 || missing+=(qemu-system-x86)
    has_ovmf || missing+=(ovmf)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# What checking a boot's report needs.
setup_checkers() {
    local missing=()
    have prove || missing+=(perl)
    have python3 || missing+=(python3)
    have xz || missing+=(xz-utils)
    have mcopy || missing+=(mtools)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# What reads Linux's report files: tools of procps, and jc, in an environment of
# its own. `reader` is the Python that has it.
reader=$target/readers/bin/python
setup_readers() {
    local missing=() jc=jc==1.26.1
    have slabtop || missing+=(procps)
    have unshare || missing+=(util-linux)
    have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    "$reader" -c 'import jc' 2>/dev/null && return 0
    say "installing $jc in $target/readers"
    python3 -m venv "$target/readers" || die "could not make $target/readers"
    "$reader" -m pip install -q --disable-pip-version-check "$jc" >&2 || die "could not install $jc"
}

# The words of list KEY in rust-toolchain.toml.
toolchain_list() {
    sed -n "s/^$1 *= *\[\(.*\)\]/\1/p" "$root/rust-toolchain.toml" | tr -d '" ' | tr ',' '\n'
}

# rustup, and by it the pinned toolchain with its components and targets.
setup_rust() {
    have rustup || install_rustup
    local channel component target_name want=()
    channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    for component in $(toolchain_list components); do
        want+=(--component "$component")
    done
    for target_name in $(toolchain_list targets); do
        want+=(--target "$target_name")
    done
    if ! toolchain_complete "$channel"; then
        say "installing Rust $channel: $(toolchain_list components | tr '\n' ' ')$(toolchain_list targets)"
        rustup toolchain install "$channel" --profile minimal --no-self-update "${want[@]}" >&2 ||
            die "could not install Rust $channel"
    fi
}

# toolchain_complete CHANNEL: whether it is installed with all that is wanted.
toolchain_complete() {
    local installed item
    installed=$(rustup component list --toolchain "$1" --installed 2>/dev/null) || return 1
    for item in $(toolchain_list components); do
        # Most are listed with the host's name after them, rust-src without.
        grep -Eq "^$item(-|$)" <<<"$installed" || return 1
    done
    for item in $(toolchain_list targets); do
        grep -qx "rust-std-$item" <<<"$installed" || return 1
    done
}

# Plain stable, for what must build without nightly features.
setup_stable() {
    rustup run stable rustc --version >/dev/null 2>&1 && return 0
    say "installing Rust stable"
    rustup toolchain install stable --profile minimal --no-self-update >&2 ||
        die "could not install Rust stable"
}

# From the distribution where it has one, else by the official installer.
install_rustup() {
    if have apt-get; then
        apt_update
        if apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
            apt_install rustup
            return
        fi
    fi
    say "installing rustup by its official installer"
    have curl || die "curl is missing"
    local installer
    # From the host that the toolchains come from as well.
    installer=$(curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh) ||
        die "could not download rustup's installer"
    # Another Rust, from a distribution's package, may stay where it is.
    RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y -q --no-modify-path \
        --profile minimal --default-toolchain none <<<"$installer" >&2 || die "could not install rustup"
    hash -r
}

# build_program ARGS...: cargo build with the pinned toolchain, from anywhere.
build_program() {
    (cd "$root" && cargo build "$@" >&2) || die "could not build Quarry's own programs"
}
