# shellcheck shell=bash
# Sourced by scripts/test, after setup.sh: boot images on USB sticks. What is
# written to a stick (a loop device stands for one), what is refused, what the
# screen of a machine without a serial port shows, and a stick edited on a PC.

images=${target:?setup.sh comes first}/images

# stick FIRMWARE: prints the name of a new file, a stick with the image on it and
# room behind, as a real one has.
stick() {
    local stick=$stick_dir/stick-$1.img
    cp "$images/quarry-$1.img" "$stick"
    truncate -s 64M "$stick"
    printf '%s\n' "$stick"
}

# Makes a directory for such files, and has all given back at the end.
stick_begin() {
    stick_dir=$(mktemp -d "$target/stick.XXXXXX")
    trap stick_end EXIT
}

stick_end() {
    local loop
    cd "$root"
    if mountpoint -q "$stick_dir/mnt"; then umount "$stick_dir/mnt"; fi
    for loop in $(losetup -l -n -O NAME,BACK-FILE | awk -v dir="$stick_dir/" 'index($2, dir) == 1 { print $1 }'); do
        swapoff "$loop" 2>/dev/null || true
        losetup -d "$loop"
    done
    rm -rf "$stick_dir"
}

# screen FIRMWARE MACHINE MEMORY: boots the image as a USB stick on a machine
# with nothing but a screen, and reads the result from that.
screen() {
    stick_begin
    scripts/run --firmware "$1" --machine "$2" --memory "$3" --image "$(stick "$1")" --disk usb \
        --no-serial --timeout 240 | tee "$stick_dir/said"
    # It tells which build this is, or a photograph would be worth little.
    grep -Eq '^build [0-9.]+ \(([0-9a-f]{7,}|sources-).*\)$' "$stick_dir/said"
    grep -q "^${1^^} (BOCHS BXPC), 1 x QEMU" "$stick_dir/said"
}

# A failed test is named on the screen, a crash reported, and both fail the run.
screen_failed() {
    local status=0 said
    said=$(scripts/run --no-serial --timeout 240 --append "kunit.filter_glob=nothing.*") || status=$?
    printf '%s\n' "$said"
    [ "$status" = 1 ]
    grep -q '^Quarry: FAILED$' <<<"$said"
    grep -q '^not ok: kunit.filter_glob$' <<<"$said"

    status=0
    said=$(scripts/run --no-serial --timeout 240 --append "crash=panic") || status=$?
    printf '%s\n' "$said"
    [ "$status" = 1 ]
    grep -q '^CRASH: panic: on purpose' <<<"$said"
    grep -q '^end of crash report$' <<<"$said"
}

# edit_uefi WORDS: puts words on the command line of a stick as a person does with
# Windows' Notepad: copies the file `ramdisk`, gets a byte order mark and CR LF for
# line ends, copies it back. `stick` is the stick's name.
edit_uefi() {
    local start
    stick=$(stick uefi)
    start=$(partx -g -o START -n 1 "$stick")
    export MTOOLS_SKIP_CHECK=1
    mcopy -n -i "$stick@@$((start * 512))" ::ramdisk "$stick_dir/old"
    {
        printf '\xef\xbb\xbf'
        sed -e "1a $1" -e 's/$/\r/' "$stick_dir/old"
    } >"$stick_dir/new"
    mcopy -o -i "$stick@@$((start * 512))" "$stick_dir/new" ::ramdisk
}

# edit_bios WORDS: the same where the file lies, for the boot loader for BIOS does
# not find a file that has been made anew in capitals, as mtools makes it.
edit_bios() {
    local header='=== cmdline' at
    stick=$(stick bios)
    at=$(grep -abo "$header\$" "$stick" | cut -d : -f 1)
    # Over the remarks that the section begins with.
    printf '%s\n%s\n#' "$header" "$1" | dd of="$stick" bs=1 seek="$at" conv=notrunc status=none
}

# has LOG LINE: there is one that begins so.
has() {
    grep -aq "^$2" "$1" || {
        echo "no line begins with: $2"
        return 1
    }
}

# A machine does what the edited file says.
check_edited() {
    local log=$logs/serial-edited-bios.log stick status=0
    stick_begin
    edit_bios 'kunit.filter_glob=zones.* exit'
    scripts/run --disk usb --image "$stick" --timeout 240 --log "$log"
    has "$log" '\[.*\] Command line: kunit\.filter_glob=zones\.\* exit'

    # The names of functions come from the same file.
    log=$logs/serial-edited-uefi.log
    edit_uefi 'crash=panic'
    scripts/run --firmware uefi --disk usb --image "$stick" --timeout 240 --log "$log" || status=$?
    [ "$status" = 1 ]
    has "$log" '\[.*\] Command line: crash=panic'
    has "$log" 'CRASH: panic: on purpose'
    has "$log" '  0x[0-9a-f]* kernel::selftests::run'
}

# refused WORDS DEVICE [OPTION...]: nothing is written to it, whatever is typed,
# and WORDS say why.
refused() {
    local words=$1 device=$2 name status=0 said
    name=$(basename "$(realpath "$device")")
    said=$("$target/debug/quarry" flash --image "$images/quarry-uefi.img" "${@:2}" <<<"$name" 2>&1) ||
        status=$?
    printf '%s\n' "$said"
    if [ "$status" != 1 ] || ! grep -q "$words" <<<"$said"; then
        echo "want status 1 and words like: $words; status is $status"
        return 1
    fi
}

# loop FILE [OPTION...]: prints the loop device that FILE has become.
loop() { losetup --find --show "${@:2}" "$1"; }

check_flash() {
    local image=$images/quarry-uefi.img stick device name disk
    [ "$(id -u)" = 0 ] || {
        echo "skipped: only root has loop devices"
        return 0
    }
    stick_begin
    stick=$stick_dir/blank
    # Not zeroes: what is on it must be seen to stay, and to go.
    head -c 16M /dev/urandom >"$stick"
    cp "$stick" "$stick_dir/before"
    device=$(loop "$stick") || {
        echo "skipped: no loop device can be had here"
        return 0
    }
    name=${device##*/}

    refused "is no disk" "$image"
    refused "is no disk" /dev/null --force
    refused "cannot be looked at" "$stick_dir/nothing"
    refused "$name is not written to: it is not removable" "$device"
    disk=$(findmnt -n -o SOURCE /)
    # Nobody types its name.
    if [ -b "$disk" ]; then
        ! "$target/debug/quarry" flash --image "$image" --force "$disk" </dev/null 2>"$stick_dir/said"
        cat "$stick_dir/said"
        grep -q "this system is on it" "$stick_dir/said"
    fi

    # Another name, or none.
    for word in "" yes "$device" "${name}p1"; do
        if "$target/debug/quarry" flash --image "$image" --force "$device" <<<"$word"; then
            echo "'$word' was taken for $name"
            return 1
        fi
    done
    cmp "$stick" "$stick_dir/before"

    truncate -s 1M "$stick_dir/small"
    refused "too few for the image" "$(loop "$stick_dir/small")" --force
    cp "$stick" "$stick_dir/locked"
    refused "write-protected" "$(loop "$stick_dir/locked" --read-only)" --force

    echo "$name" | scripts/flash --image "$image" --force "$device"
    sync "$device"
    cmp "$image" <(head -c "$(stat -c %s "$image")" "$stick")
    cmp <(tail -c 1M "$stick") <(tail -c 1M "$stick_dir/before")

    check_flash_parts "$device"
    check_flash_used "$device"
}

# check_flash_parts DEVICE: a partition is refused, and a disk with one in use.
check_flash_parts() {
    local device=$1 part=${1}p1
    mkdir -p "$stick_dir/mnt"
    if ! partx -a "$device" || ! [ -b "$part" ]; then
        echo "skipped: partitions of a loop device"
        return 0
    fi
    refused "it is a partition" "$part" --force
    mkfs.ext4 -q -F "$part"
    mount "$part" "$stick_dir/mnt"
    refused "${part##*/} is mounted at $stick_dir/mnt" "$device" --force
    umount "$stick_dir/mnt"
    partx -d "$device"
}

# check_flash_used DEVICE: what is in use is refused, whatever uses it.
check_flash_used() {
    local device=$1 mnt=$stick_dir/mnt
    mkfs.ext4 -q -F "$device"
    mount "$device" "$mnt"
    refused "is mounted at $mnt" "$device" --force
    # Where this process cannot see it, the kernel does.
    export -f refused
    export images target
    # shellcheck disable=SC2016 # for the other shell
    unshare -m bash -c 'umount "$1" && refused "the kernel says that it is in use" "$2" --force' \
        refused "$mnt" "$device"
    umount "$mnt"

    mkswap -q "$device"
    if swapon "$device"; then
        refused "is swap space in use" "$device" --force
        swapoff "$device"
    else
        echo "skipped: swap on a loop device"
    fi

    if dmsetup create quarry-test --table "0 2048 linear $device 0" 2>/dev/null; then
        local status=0
        refused "is in use by dm-" "$device" --force || status=$?
        dmsetup remove quarry-test
        return "$status"
    fi
    echo "skipped: volumes, there is no device mapper"
}
