# shellcheck shell=bash
# Sourced by scripts/test, after setup.sh: judges the serial log of a boot with
# the programs that others read such reports with, Linux's kunit.py and prove.
# kunit.py is GPL, so it is fetched from a kernel source package when needed and
# kept under the target directory, never in this repository.

kunit_dir=${target:?setup.sh comes first}/kunit

# Prints kunit.py's path, if it has been fetched.
kunit_tool() {
    local tool
    tool=$(find "$kunit_dir" -path '*/tools/testing/kunit/kunit.py' -print -quit 2>/dev/null)
    [ -n "$tool" ] && printf '%s\n' "$tool"
}

# Fetches it, if that has not been done.
kunit_fetch() {
    local package archive scratch
    kunit_tool >/dev/null && return 0
    package=$(kunit_package)
    [ -n "$package" ] || return 1
    mkdir -p "$kunit_dir"
    scratch=$(mktemp -d "$kunit_dir/fetch.XXXXXX")
    echo "fetching kunit.py from $package"
    (cd "$scratch" && apt-get download -q "$package" && dpkg-deb -x "$package"_*.deb .) || return 1
    archive=$(find "$scratch/usr/src" -name 'linux-source-*.tar.*' -print -quit)
    tar -C "$kunit_dir" -xf "$archive" --wildcards '*/tools/testing/kunit/*' || return 1
    rm -rf "$scratch"
    kunit_tool >/dev/null
}

# The kernel source package to take it from: 6.1 if there is one, else the latest.
kunit_package() {
    local packages
    packages=$(apt-cache pkgnames linux-source- | grep -E '^linux-source-[0-9.]+$' | sort -V)
    grep -x 'linux-source-6.1' <<<"$packages" || tail -n 1 <<<"$packages"
}

# end_count LOG KEY: the number after KEY= on the log's last QUARRY-END line.
end_count() {
    sed -n "s/^.*QUARRY-END .*$2=\([0-9]*\).*/\1/p" "$1" | tail -n 1
}

# kunit_count SUMMARY KEY: the number after `KEY:` in kunit.py's last line, or 0.
kunit_count() {
    local number
    number=$(sed -n "s/.*$2: \([0-9]*\).*/\1/p" <<<"$1")
    printf '%s\n' "${number:-0}"
}

# kunit_agrees TOOL LOG: kunit.py finds no fault, and counts what the kernel did.
# Its exit status is 0 for some errors, so its words are read too.
kunit_agrees() {
    local output status=0 summary key
    output=$(python3 "$1" parse "$(realpath "$2")" 2>&1) || status=$?
    summary=$(grep 'Testing complete' <<<"$output" | tail -n 1)
    echo "kunit.py: status $status, $summary"
    if [ "$status" != 0 ] || [ -z "$summary" ] || grep -qi 'error' <<<"$output"; then
        printf '%s\n' "$output"
        return 1
    fi
    for key in pass fail skip; do
        local theirs ours
        ours=$(end_count "$2" "$key")
        case $key in pass) theirs=passed ;; fail) theirs=failed ;; *) theirs=skipped ;; esac
        theirs=$(kunit_count "$summary" "$theirs")
        if [ "$ours" != "$theirs" ]; then
            echo "the kernel reports $key=$ours, kunit.py counts $theirs"
            return 1
        fi
    done
}

# prove_agrees LOG: the top level's plan and results are right by TAP's rules.
prove_agrees() {
    prove -e cat "$1"
}
