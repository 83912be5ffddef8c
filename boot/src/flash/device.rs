//! What Linux tells of a block device: its model and size, and who uses it.
//! Reads `/sys` and `/proc` only.

use anyhow::{Context, Result};
use rustix::fs::{major, minor};
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes of the sectors that `/sys` counts in, whatever the device's own are.
const SECTOR: u64 = 512;
/// Devices on devices on devices are followed this far.
const DEPTH: usize = 16;
/// Where the running system has its files, and what lies below.
const SYSTEM: [&str; 9] =
    ["/boot", "/efi", "/etc", "/home", "/nix", "/opt", "/root", "/usr", "/var"];

/// A device's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Number {
    major: u32,
    minor: u32,
}

impl Number {
    /// A number, as `/sys` writes it: `8:16`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The number of the block device that a file stands for.
    pub(super) fn of(file: &Metadata) -> Option<Self> {
        let rdev = file.rdev();
        let number = Self { major: major(rdev), minor: minor(rdev) };
        file.file_type().is_block_device().then_some(number)
    }
}

/// A part of the device that is in use, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// `part` is mounted at `at`.
    Mounted {
        /// The device itself, a partition of it, or what lies on one.
        part: String,
        /// The mount point.
        at: String,
    },
    /// `part` is swap space.
    Swap {
        /// As for [`Self::Mounted`].
        part: String,
    },
    /// `part` belongs to another block device, such as an LVM volume.
    Held {
        /// As for [`Self::Mounted`].
        part: String,
        /// The other one.
        by: String,
    },
}

impl Use {
    /// Whether the running system lies there.
    pub(super) fn is_system(&self) -> bool {
        let Self::Mounted { at, .. } = self else { return false };
        at == "/" || SYSTEM.iter().any(|place| Path::new(at).starts_with(place))
    }
}

/// A block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Device {
    /// The kernel's name for it, such as `sdb`.
    pub(super) name: String,
    /// Its number.
    pub(super) number: Number,
    /// Maker and model, or what else names it; empty if nothing does.
    pub(super) model: String,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes of its blocks.
    pub(super) block_size: u64,
    /// It can be taken out.
    pub(super) removable: bool,
    /// It cannot be written.
    pub(super) read_only: bool,
    /// It is a partition of this disk.
    pub(super) partition_of: Option<String>,
    /// Its partitions: name and bytes.
    pub(super) partitions: Vec<(String, u64)>,
    /// Who uses it.
    pub(super) uses: Vec<Use>,
}

/// Where Linux tells of devices.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// `/sys`.
    pub(super) sys: PathBuf,
    /// `/proc`.
    pub(super) proc: PathBuf,
    /// What device a path such as `/dev/sdb1` stands for.
    pub(super) number: fn(&Path) -> Option<Number>,
}

impl Default for Places {
    fn default() -> Self {
        let number = |path: &Path| Number::of(&fs::metadata(path).ok()?);
        Self { sys: "/sys".into(), proc: "/proc".into(), number }
    }
}

/// A block device that lies on the one asked about, or is it.
struct Part {
    name: String,
    number: Number,
}

impl Places {
    /// The device with `number`.
    ///
    /// # Errors
    ///
    /// The kernel does not know it, or does not tell what must be known.
    pub(super) fn device(&self, number: Number) -> Result<Device> {
        let link = self.sys.join(format!("dev/block/{}:{}", number.major, number.minor));
        let dir = link.canonicalize().context("Linux does not tell of this device")?;
        let name = file_name(&dir);
        let is_partition = dir.join("partition").exists();
        let disk = if is_partition { dir.parent().unwrap_or(&dir) } else { &dir };
        let mut partitions = Vec::new();
        for part in subdirectories(&dir)? {
            if part.join("partition").exists() {
                partitions.push((file_name(&part), sectors(&part)?));
            }
        }
        partitions.sort();
        let flag = |at: &Path| Ok::<_, anyhow::Error>(read(at)? != "0");
        Ok(Device {
            number,
            model: model(disk),
            size: sectors(&dir)?,
            block_size: read(&disk.join("queue/logical_block_size"))?.parse()?,
            removable: flag(&disk.join("removable"))?,
            read_only: flag(&dir.join("ro"))?,
            partition_of: is_partition.then(|| file_name(disk)),
            partitions,
            uses: self.uses(&dir)?,
            name,
        })
    }

    /// Who uses the device of `dir`, or anything on it.
    fn uses(&self, dir: &Path) -> Result<Vec<Use>> {
        let (mut parts, mut uses) = (Vec::new(), Vec::new());
        self.collect(dir, DEPTH, &mut parts, &mut uses)?;
        let part_of = |number: Option<Number>| {
            let part = parts.iter().find(|part| Some(part.number) == number)?;
            Some(part.name.clone())
        };
        let mounts = read(&self.proc.join("self/mountinfo"))?;
        for mount in mounts.lines().filter_map(Mount::parse) {
            // Some file systems have a number of their own: see what they name.
            let by_name = || part_of((self.number)(Path::new(&mount.source)));
            if let Some(part) = part_of(mount.number).or_else(by_name) {
                uses.push(Use::Mounted { part, at: mount.at });
            }
        }
        // Without swap in the kernel there is no such file.
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let path = unescape(line.split_whitespace().next().unwrap_or_default());
            if let Some(part) = part_of((self.number)(Path::new(&path))) {
                uses.push(Use::Swap { part });
            }
        }
        Ok(uses)
    }

    /// The device of `dir`, its partitions, and what is made of them.
    fn collect(
        &self,
        dir: &Path,
        depth: usize,
        parts: &mut Vec<Part>,
        uses: &mut Vec<Use>,
    ) -> Result<()> {
        let name = file_name(dir);
        let number = Number::parse(&read(&dir.join("dev"))?).context("no device number")?;
        for held_by in subdirectories(&dir.join("holders"))? {
            let by = file_name(&held_by);
            uses.push(Use::Held { part: name.clone(), by: by.clone() });
            if depth > 0 {
                let dir = self.sys.join("class/block").join(by).canonicalize()?;
                self.collect(&dir, depth - 1, parts, uses)?;
            }
        }
        for part in subdirectories(dir)? {
            if part.join("partition").exists() {
                self.collect(&part, depth, parts, uses)?;
            }
        }
        parts.push(Part { name, number });
        Ok(())
    }
}

/// A line of `mountinfo`.
struct Mount {
    number: Option<Number>,
    at: String,
    source: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(2);
        let number = Number::parse(place.next()?);
        let at = unescape(place.nth(1)?);
        Some(Self { number, at, source: unescape(kind.split(' ').nth(1)?) })
    }
}

/// A path as the kernel writes it into its lists: blanks and backslashes as
/// three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(char::from(byte));
                path.push_str(&part[3..]);
            }
            None => {
                path.push('\\');
                path.push_str(part);
            }
        }
    }
    path
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path);
    Ok(text.with_context(|| format!("cannot read {}", path.display()))?.trim().to_owned())
}

fn sectors(dir: &Path) -> Result<u64> {
    let sectors: u64 = read(&dir.join("size"))?.parse()?;
    Ok(sectors.saturating_mul(SECTOR))
}

/// What names a disk: vendor and model, the name of a memory card, or the file
/// behind a loop device.
fn model(disk: &Path) -> String {
    let files = ["device/vendor", "device/model", "device/name", "loop/backing_file"];
    let words = files.map(|file| read(&disk.join(file)).unwrap_or_default());
    words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The directories, or links to some, in `dir`; none if there is no `dir`.
fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() || path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A `/sys` and a `/proc` made of files.
    pub(in crate::flash) struct Fake(TempDir);

    impl Fake {
        pub(in crate::flash) fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fake.file("proc/self/mountinfo", "");
            fake.file("proc/swaps", "Filename Type Size Used Priority\n");
            // A stick with two partitions.
            fake.disk("sdb", "8:16", 8192);
            fake.file("sys/devices/sdb/removable", "1\n");
            fake.file("sys/devices/sdb/device/vendor", "ACME    \n");
            fake.file("sys/devices/sdb/device/model", "Stick  3.0 \n");
            fake.partition("sdb", "sdb1", "8:17", 2048);
            fake.partition("sdb", "sdb2", "8:18", 4096);
            fake
        }

        pub(in crate::flash) fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn block(&self, dir: &str, number: &str, sectors: u64) {
            self.file(&format!("{dir}/dev"), &format!("{number}\n"));
            self.file(&format!("{dir}/size"), &format!("{sectors}\n"));
            self.file(&format!("{dir}/ro"), "0\n");
            let root = self.0.path();
            for link in [
                format!("sys/dev/block/{number}"),
                format!("sys/class/block/{}", file_name(Path::new(dir))),
            ] {
                let link = root.join(link);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                symlink(root.join(dir), link).unwrap();
            }
        }

        pub(in crate::flash) fn disk(&self, name: &str, number: &str, sectors: u64) {
            let dir = format!("sys/devices/{name}");
            self.block(&dir, number, sectors);
            self.file(&format!("{dir}/removable"), "0\n");
            self.file(&format!("{dir}/queue/logical_block_size"), "512\n");
        }

        fn partition(&self, disk: &str, name: &str, number: &str, sectors: u64) {
            let dir = format!("sys/devices/{disk}/{name}");
            self.block(&dir, number, sectors);
            self.file(&format!("{dir}/partition"), "1\n");
        }

        /// Says that `holder` is made of the device of directory `of`.
        pub(in crate::flash) fn holds(&self, of: &str, holder: &str) {
            let at = self.0.path().join(format!("sys/devices/{of}/holders/{holder}"));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            symlink(self.0.path().join(format!("sys/devices/{holder}")), at).unwrap();
        }

        pub(in crate::flash) fn get(&self, number: &str) -> Result<Device> {
            let places = Places {
                sys: self.0.path().join("sys"),
                proc: self.0.path().join("proc"),
                number: |path| match path.to_str()? {
                    "/dev/sdb2" => Number::parse("8:18"),
                    "/dev/mapper/vg-root" => Number::parse("253:0"),
                    _ => None,
                },
            };
            places.device(Number::parse(number).unwrap())
        }
    }

    #[test]
    fn a_stick_is_described() {
        let stick = Fake::new().get("8:16").unwrap();
        assert_eq!((stick.name.as_str(), stick.model.as_str()), ("sdb", "ACME Stick 3.0"));
        assert_eq!((stick.size, stick.block_size), (4 << 20, 512));
        assert!(stick.removable && !stick.read_only && stick.uses.is_empty());
        let parts = [("sdb1".to_owned(), 1 << 20), ("sdb2".to_owned(), 2 << 20)];
        assert_eq!(stick.partitions, parts);
        assert_eq!(stick.partition_of, None);
    }

    #[test]
    fn a_partition_knows_its_disk() {
        let part = Fake::new().get("8:18").unwrap();
        assert_eq!(part.partition_of.as_deref(), Some("sdb"));
        assert!(part.removable && part.partitions.is_empty());
    }

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let fake = Fake::new();
        fake.file(
            "proc/self/mountinfo",
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
             27 1 8:17 / /media/a\\040b rw shared:1 master:2 - vfat /dev/sdb1 rw\n\
             28 1 0:40 /sub /home rw - btrfs /dev/sdb2 rw\n\
             29 1 8:1 / / rw - ext4 /dev/root rw\nnonsense\n",
        );
        let uses = fake.get("8:16").unwrap().uses;
        let mounted = |part: &str, at: &str| Use::Mounted { part: part.into(), at: at.into() };
        assert_eq!(uses, [mounted("sdb1", "/media/a b"), mounted("sdb2", "/home")]);
        assert_eq!(uses.iter().map(Use::is_system).collect::<Vec<_>>(), [false, true]);
        assert!(mounted("x", "/").is_system() && mounted("x", "/boot/efi").is_system());
        assert!(!mounted("x", "/bootstrap").is_system() && !mounted("x", "/mnt").is_system());
    }

    #[test]
    fn swap_is_a_use() {
        let fake = Fake::new();
        fake.file("proc/swaps", "Filename\tType\n/dev/sdb2 partition 1 0 -2\n/swap file 1 0 -2\n");
        assert_eq!(fake.get("8:16").unwrap().uses, [Use::Swap { part: "sdb2".into() }]);
        assert_eq!(fake.get("8:17").unwrap().uses, []);
    }

    #[test]
    fn what_volumes_are_made_of_is_in_use() {
        let fake = Fake::new();
        fake.disk("dm-0", "253:0", 64);
        fake.disk("dm-1", "253:1", 64);
        fake.holds("sdb/sdb2", "dm-1");
        fake.holds("dm-1", "dm-0");
        let mount = "28 1 0:40 / / rw - btrfs /dev/mapper/vg-root rw\n";
        fake.file("proc/self/mountinfo", mount);
        let held = |part: &str, by: &str| Use::Held { part: part.into(), by: by.into() };
        let root = Use::Mounted { part: "dm-0".into(), at: "/".into() };
        let uses = fake.get("8:16").unwrap().uses;
        assert_eq!(uses, [held("sdb2", "dm-1"), held("dm-1", "dm-0"), root]);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(Fake::new().get("9:9").is_err());
        assert_eq!(Number::parse("8"), None);
        assert_eq!(unescape("a\\040b\\\\134c\\9"), "a b\\\\c\\9");
    }
}
