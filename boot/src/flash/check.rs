//! What may be overwritten. Pure.

use super::device::{Device, Use};
use std::fmt;

/// Bytes of the blocks that the images' partition tables count in.
const BLOCK: u64 = 512;

/// Why a device is not written to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// A partition of this disk, not a disk.
    Partition(String),
    /// In use.
    Used(Use),
    /// It cannot be written.
    ReadOnly,
    /// There is no medium in it.
    Empty,
    /// It has this many bytes, the image has more.
    Small(u64),
    /// It cannot be taken out.
    Fixed,
    /// Its blocks have this many bytes: firmware would not find the partitions.
    Blocks(u64),
}

impl Refusal {
    /// Whether a person who insists may do it all the same. Never what destroys
    /// data in use, or cannot work.
    pub(super) const fn can_be_forced(&self) -> bool {
        matches!(self, Self::Fixed | Self::Blocks(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(disk) => {
                write!(f, "it is a partition; an image is for a whole disk, such as {disk}")
            }
            Self::Used(used @ Use::Mounted { part, at }) if used.is_system() => {
                write!(f, "this system is on it: {part} is mounted at {at}")
            }
            Self::Used(Use::Mounted { part, at }) => {
                write!(f, "{part} is mounted at {at}; unmount it first")
            }
            Self::Used(Use::Swap { part }) => write!(f, "{part} is swap space in use"),
            Self::Used(Use::Held { part, by }) => {
                write!(f, "{part} is in use by {by} (LVM, RAID, encryption or the like)")
            }
            Self::ReadOnly => write!(f, "it is write-protected"),
            Self::Empty => write!(f, "there is no medium in it"),
            Self::Small(size) => write!(f, "it has {size} bytes only, too few for the image"),
            Self::Fixed => write!(f, "it is not removable (--force if it is the right one)"),
            Self::Blocks(size) => {
                write!(f, "its blocks have {size} bytes, where firmware wants {BLOCK} (--force)")
            }
        }
    }
}

/// What speaks against writing `len` bytes to `device`; nothing if it is fine.
pub(super) fn refusals(device: &Device, len: u64, force: bool) -> Vec<Refusal> {
    let mut found = Vec::new();
    found.extend(device.partition_of.clone().map(Refusal::Partition));
    found.extend(device.uses.iter().cloned().map(Refusal::Used));
    match device.size {
        0 => found.push(Refusal::Empty),
        size if size < len => found.push(Refusal::Small(size)),
        _ => {}
    }
    if device.read_only {
        found.push(Refusal::ReadOnly);
    }
    if !device.removable {
        found.push(Refusal::Fixed);
    }
    if device.block_size != BLOCK {
        found.push(Refusal::Blocks(device.block_size));
    }
    found.retain(|refusal| !(force && refusal.can_be_forced()));
    found
}

#[cfg(test)]
mod tests {
    use super::super::device::tests::Fake;
    use super::*;

    const LEN: u64 = 3 << 20;

    fn refused(fake: &Fake, number: &str, force: bool) -> Vec<Refusal> {
        refusals(&fake.get(number).unwrap(), LEN, force)
    }

    #[test]
    fn a_stick_is_taken() {
        assert_eq!(refused(&Fake::new(), "8:16", false), []);
        let exact = refusals(&Fake::new().get("8:16").unwrap(), 4 << 20, false);
        assert_eq!(exact, []);
    }

    #[test]
    fn force_is_for_what_cannot_be_taken_out() {
        let fake = Fake::new();
        fake.file("sys/devices/sdb/removable", "0\n");
        fake.file("sys/devices/sdb/queue/logical_block_size", "4096\n");
        assert_eq!(refused(&fake, "8:16", false), [Refusal::Fixed, Refusal::Blocks(4096)]);
        assert_eq!(refused(&fake, "8:16", true), []);
    }

    #[test]
    fn force_does_not_help_what_is_in_use() {
        let fake = Fake::new();
        fake.disk("dm-0", "253:0", 64);
        fake.holds("sdb/sdb1", "dm-0");
        fake.file("proc/self/mountinfo", "28 1 8:18 / /boot rw - ext4 /dev/sdb2 rw\n");
        fake.file("proc/swaps", "Filename\n/dev/sdb2 partition\n");
        let found = refused(&fake, "8:16", true);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "sdb1 is in use by dm-0 (LVM, RAID, encryption or the like)",
                "this system is on it: sdb2 is mounted at /boot",
                "sdb2 is swap space in use",
            ]
        );
    }

    #[test]
    fn force_does_not_help_what_cannot_work() {
        let fake = Fake::new();
        assert_eq!(
            refused(&fake, "8:18", true),
            [Refusal::Partition("sdb".into()), Refusal::Small(2 << 20)]
        );
        fake.file("sys/devices/sdb/size", "0\n");
        fake.file("sys/devices/sdb/ro", "1\n");
        assert_eq!(refused(&fake, "8:16", true), [Refusal::Empty, Refusal::ReadOnly]);
    }
}
