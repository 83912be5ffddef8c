//! The page cache of a disk: what is read is what was written, whatever becomes of
//! the pages and of the disk.
#![cfg(feature = "host")]

use mm::block::{BlockDevice, IoFailed, PageBytes};
use mm::cache::{CacheError, CacheFile, PageCache};
use mm::fault::FaultPlan;
use mm::host::disk::RamDisk;
use mm::host::swap::FailPlan;
use mm::host::{Machine, pc};
use mm::lru::LruList;
use mm::platform::Worker;
use mm::types::{NodeId, PAGE_SIZE};
use mm::{Config, Mm};
use std::num::NonZeroU64;
use std::sync::Mutex;

const PAGE: u64 = PAGE_SIZE as u64;
const MIB: u64 = if cfg!(miri) { 4 } else { 32 };
const BLOCKS: u64 = 4 * MIB * 256;

struct Tried {
    mm: Mm<Machine>,
    disk: &'static RamDisk,
    cache: &'static PageCache,
    file: CacheFile,
}

impl Tried {
    fn new() -> Self {
        Self::over(RamDisk::new("/dev/test", BLOCKS))
    }

    fn over(disk: RamDisk) -> Self {
        let mm = pc(MIB, 2, &Config::default()).expect("a machine");
        let disk: &'static RamDisk = Box::leak(Box::new(disk));
        let cache: &'static PageCache = Box::leak(Box::new(PageCache::new(disk)));
        cache.register(&mm).expect("room for a cache");
        Self { mm, disk, cache, file: CacheFile::default() }
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, CacheError> {
        let mut buf = vec![0xee; len];
        self.cache.read(&self.mm, &mut self.file, offset, &mut buf).map(|()| buf)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), CacheError> {
        self.cache.write(&self.mm, &mut self.file, offset, bytes)
    }

    fn stat(&self, key: &str) -> u64 {
        self.mm.vmstat_value(key).unwrap_or_else(|| panic!("no {key}"))
    }

    fn knob(&self, name: &str, value: &str) {
        self.mm.proc_write(&format!("/proc/sys/vm/{name}"), value).expect("a knob");
    }

    fn audit(&self) {
        self.mm.audit().expect("whole");
    }
}

#[test]
fn bytes_are_read_back_from_memory_and_from_the_disk() {
    let mut t = Tried::new();
    let bytes: Vec<u8> = (0..3 * PAGE_SIZE + 100).map(|i| (i % 251) as u8).collect();
    let offset = 5 * PAGE - 50;
    t.write(offset, &bytes).expect("room");
    assert_eq!(t.read(offset, bytes.len()).expect("cached"), bytes);
    // What lies beside it was read first: of the blocks only partly written.
    assert_eq!(t.disk.reads(), 2);
    assert_eq!((t.disk.writes(), t.cache.dirty_pages()), (0, 5));
    t.audit();
    assert_eq!(t.cache.sync(&t.mm), Ok(()));
    assert_eq!((t.disk.writes(), t.disk.flushes(), t.cache.dirty_pages()), (5, 1, 0));
    t.disk.cut_power();
    assert_eq!(t.cache.invalidate(&t.mm, 0..BLOCKS), 5);
    assert_eq!((t.cache.pages(), t.mm.audit().expect("whole").lru), (0, 0));
    assert_eq!(t.read(offset, bytes.len()).expect("the disk has it"), bytes);
    assert_eq!(t.read(0, 10).expect("never written"), [0; 10]);
    t.audit();
}

#[test]
fn what_cannot_be_is_refused() {
    let mut t = Tried::new();
    assert_eq!(t.write(BLOCKS * PAGE - 1, &[1, 2]), Err(CacheError::OutOfRange));
    assert_eq!(t.read(BLOCKS * PAGE, 1), Err(CacheError::OutOfRange));
    assert_eq!(t.read(u64::MAX, 1), Err(CacheError::OutOfRange));
    assert_eq!(t.write(BLOCKS * PAGE - 1, &[1]), Ok(()));
    let mut rom = Tried::over(RamDisk::new("/dev/rom", 8).read_only());
    assert_eq!(rom.write(0, &[1]), Err(CacheError::ReadOnly));
    assert_eq!(rom.read(0, 1).expect("readable"), [0]);
    let nobody: &'static PageCache = Box::leak(Box::new(PageCache::new(t.disk)));
    let unknown = nobody.read(&t.mm, &mut CacheFile::default(), 0, &mut [0]);
    assert_eq!(unknown, Err(CacheError::NotRegistered));
    t.audit();
}

#[test]
fn who_reads_on_finds_it_there() {
    let mut t = Tried::new();
    for block in 0..200 {
        t.read(block * PAGE, 1).expect("room");
    }
    // A few waits for the disk, though each was asked for alone.
    assert!(t.disk.reads() >= 200 && t.disk.reads() <= 200 + 64, "{}", t.disk.reads());
    assert_eq!(t.stat("pgpgin"), 4 * t.disk.reads());
    let before = t.disk.reads();
    // Here and there nothing is read that nobody asked for.
    for i in 1..20 {
        t.read((1000 + 37 * i % 400) * PAGE, 1).expect("room");
    }
    assert_eq!(t.disk.reads(), before + 19);
    // Nor beyond the end.
    for block in BLOCKS - 6..BLOCKS {
        t.read(block * PAGE, PAGE_SIZE).expect("room");
    }
    t.audit();
}

#[test]
fn a_block_that_cannot_be_read_is_tried_again() {
    let mut t = Tried::new();
    t.write(7 * PAGE, &[7; PAGE_SIZE]).expect("room");
    t.cache.sync(&t.mm).expect("a sound disk");
    t.cache.invalidate(&t.mm, 0..BLOCKS);
    t.disk.fail_reads(FailPlan::Always);
    assert_eq!(t.read(7 * PAGE, 1), Err(CacheError::Io));
    assert_eq!(t.write(7 * PAGE + 1, &[8]), Err(CacheError::Io), "the rest is not known");
    assert_eq!(t.write(8 * PAGE, &[8; PAGE_SIZE]), Ok(()), "here it does not matter");
    t.audit();
    // Of no use to anybody, and clean.
    assert!(t.mm.drop_page_cache() >= 1);
    t.disk.fail_reads(FailPlan::Nth(1));
    // Its neighbours were read for nothing, and are found good.
    assert_eq!(t.read(7 * PAGE, 1).expect("at the second try"), [7]);
    t.disk.fail_reads(FailPlan::Never);
    assert_eq!(t.read(7 * PAGE, 2).expect("sound again"), [7, 7]);
    assert_eq!(t.read(8 * PAGE, 1).expect("never failed"), [8]);
    t.audit();
}

#[test]
fn what_cannot_be_written_is_told_once_and_kept() {
    let mut t = Tried::new();
    for block in 0..100 {
        t.write(block * PAGE, &[block as u8; 10]).expect("room");
    }
    t.disk.fail_writes(FailPlan::Every(3));
    assert_eq!(t.cache.sync(&t.mm), Err(CacheError::Io));
    assert_eq!((t.cache.dirty_pages(), t.cache.failing_pages()), (33, 33));
    t.audit();
    // Nobody drops them, nor asks for them to be written again.
    let writes = t.disk.writes();
    t.mm.drop_page_cache();
    assert_eq!((t.cache.dirty_pages(), t.disk.writes()), (33, writes));
    for block in 0..100 {
        assert_eq!(t.read(block * PAGE, 1).expect("kept, or written"), [block as u8]);
    }
    t.disk.fail_writes(FailPlan::Never);
    assert_eq!(t.cache.sync(&t.mm), Ok(()));
    assert_eq!((t.cache.dirty_pages(), t.cache.failing_pages()), (0, 0));
    assert_eq!(t.cache.sync(&t.mm), Ok(()));
    // One that somebody else has found out is told the next who asks.
    t.write(0, &[1]).expect("cached");
    t.disk.fail_writes(FailPlan::Nth(1));
    t.knob("dirty_expire_centisecs", "0");
    t.mm.work(Worker::Flusher);
    assert_eq!(t.cache.failing_pages(), 1);
    assert_eq!(t.mm.sync_all(), Err(CacheError::Io), "though it is written by now");
    assert_eq!((t.cache.dirty_pages(), t.mm.sync_all()), (0, Ok(())));
    t.disk.fail_flushes(FailPlan::Nth(1));
    assert_eq!(t.cache.sync(&t.mm), Err(CacheError::Io));
    t.audit();
}

type Other = Mutex<Option<Box<dyn FnOnce() + Send>>>;

/// A disk that fails all writes, and on whose writes and flush somebody else does
/// something.
struct Between {
    disk: RamDisk,
    at_write: Other,
    at_flush: Other,
}

impl Between {
    fn new() -> &'static Self {
        let disk = RamDisk::new("/dev/test", BLOCKS);
        Box::leak(Box::new(Self { disk, at_write: Other::default(), at_flush: Other::default() }))
    }
}

fn set(other: &Other, what: impl FnOnce() + Send + 'static) {
    *other.lock().expect("nobody panics") = Some(Box::new(what));
}

fn is_set(other: &Other) -> bool {
    other.lock().expect("nobody panics").is_some()
}

fn act(other: &Other) {
    let other = other.lock().expect("nobody panics").take();
    other.into_iter().for_each(|other| other());
}

impl BlockDevice for Between {
    fn name(&self) -> &str {
        BlockDevice::name(&self.disk)
    }

    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed> {
        BlockDevice::read(&self.disk, block, page)
    }

    fn write(&self, _: u64, _: &PageBytes) -> Result<(), IoFailed> {
        act(&self.at_write);
        Err(IoFailed)
    }

    fn flush(&self) -> Result<(), IoFailed> {
        act(&self.at_flush);
        self.disk.flush()
    }
}

/// Each of two is told that what he wanted written is not, whichever was told first.
#[test]
fn two_who_sync_at_a_time_are_both_told() {
    let mm: &'static Mm<Machine> =
        Box::leak(Box::new(pc(MIB, 2, &Config::default()).expect("a machine")));
    let disk = Between::new();
    let cache: &'static PageCache = Box::leak(Box::new(PageCache::new(disk)));
    cache.register(mm).expect("room for a cache");
    cache.write(mm, &mut CacheFile::default(), 0, &[1; PAGE_SIZE]).expect("room");
    set(&disk.at_flush, move || assert_eq!(cache.sync(mm), Err(CacheError::Io)));
    assert_eq!(cache.sync(mm), Err(CacheError::Io));
    assert!(!is_set(&disk.at_flush), "the other was there");
    mm.audit().expect("whole");
}

/// The flusher looks while what is dirty is on its way, and it does not arrive: nobody
/// wakes it then, so it looks again by itself.
#[test]
fn the_flusher_does_not_rest_before_all_has_arrived() {
    let mm: &'static Mm<Machine> =
        Box::leak(Box::new(pc(MIB, 2, &Config::default()).expect("a machine")));
    let disk = Between::new();
    let cache: &'static PageCache = Box::leak(Box::new(PageCache::new(disk)));
    cache.register(mm).expect("room for a cache");
    cache.write(mm, &mut CacheFile::default(), 0, &[1; PAGE_SIZE]).expect("room");
    mm.platform().take_woken();
    set(&disk.at_write, move || assert_eq!(mm.work(Worker::Flusher), Some(5000)));
    assert_eq!(cache.sync(mm), Err(CacheError::Io));
    assert!(!is_set(&disk.at_write), "it has looked");
    assert_eq!(mm.work(Worker::Flusher), Some(5000));
    // Nor does it go round without a pause, however soon all is to be written.
    mm.proc_write("/proc/sys/vm/dirty_expire_centisecs", "0").expect("a knob");
    mm.platform().take_woken();
    assert_eq!(mm.work(Worker::Flusher), Some(5000));
    assert_eq!(mm.platform().take_woken(), []);
    mm.audit().expect("whole");
}

#[test]
fn the_flusher_writes_what_is_old_or_too_much() {
    let mut t = Tried::new();
    t.mm.platform().take_woken();
    t.write(0, &[1]).expect("room");
    assert_eq!(t.mm.platform().take_woken(), [Worker::Flusher]);
    assert_eq!(t.mm.work(Worker::Flusher), Some(5000));
    t.mm.platform().advance_ms(29_000);
    t.write(PAGE, &[1]).expect("room");
    assert_eq!((t.mm.work(Worker::Flusher), t.disk.writes()), (Some(5000), 0));
    t.mm.platform().advance_ms(1000);
    // All that is dirty goes with the oldest.
    assert_eq!((t.mm.work(Worker::Flusher), t.disk.writes()), (None, 2));
    t.write(0, &[1]).expect("room");
    t.knob("dirty_writeback_centisecs", "0");
    assert_eq!(t.mm.work(Worker::Flusher), None, "not by itself");
    t.knob("dirty_writeback_centisecs", "100");
    assert_eq!(t.mm.work(Worker::Flusher), Some(1000));
    // Too much, however young.
    t.knob("dirty_background_bytes", "65536");
    assert_eq!(t.stat("nr_dirty_background_threshold"), 16);
    for block in 0..40 {
        t.write(block * PAGE, &[2]).expect("room");
    }
    assert!(t.mm.platform().take_woken().contains(&Worker::Flusher));
    t.mm.work(Worker::Flusher);
    assert!(t.cache.dirty_pages() <= 16);
    assert_eq!(t.stat("nr_written"), t.disk.writes());
    assert_eq!(t.stat("pgpgout"), 4 * t.disk.writes());
    t.audit();
}

#[test]
fn who_makes_too_much_dirty_writes_it_himself() {
    let mut t = Tried::new();
    t.knob("dirty_bytes", "409600");
    let mut most = 0;
    for block in 0..1000 {
        t.write(block * PAGE, &[block as u8; PAGE_SIZE]).expect("room");
        most = most.max(t.stat("nr_dirty"));
    }
    // Looked at every few pages.
    assert!((90..=108).contains(&most), "{most}");
    assert!(t.disk.writes() > 850);
    // A device that takes nothing: what is there is kept, no more comes.
    t.disk.fail_writes(FailPlan::Always);
    let refused = (1000..2000).find(|block| t.write(block * PAGE, &[1; PAGE_SIZE]).is_err());
    assert!(refused.is_some_and(|block| block < 1300), "{refused:?}");
    assert_eq!(t.write(0, &[1]).err().or(t.write(PAGE, &[1]).err()), None, "rarely looked at");
    t.audit();
    t.disk.fail_writes(FailPlan::Never);
    assert_eq!(t.cache.sync(&t.mm), Err(CacheError::Io), "that was one");
    assert_eq!(t.cache.sync(&t.mm), Ok(()));
    for block in 1000..refused.expect("some") {
        assert_eq!(t.disk.peek(block)[0], 1, "{block}");
    }
}

#[test]
fn what_comes_back_soon_is_in_use() {
    let mut t = Tried::new();
    let managed = t.mm.managed_pages();
    // A set in use that fills half of memory, and is known to be.
    let set = managed / 2;
    for _ in 0..2 {
        for block in 0..set {
            t.read(block * PAGE, 1).expect("room");
        }
    }
    t.mm.lru_drain_all();
    assert!(t.mm.node_lru_pages(NodeId(0), LruList::ActiveFile) > set * 9 / 10);
    // Another set as large takes its place: those pages are met again before as
    // many others have gone.
    for _ in 0..6 {
        for block in set..2 * set {
            t.read(block * PAGE, 1).expect("room");
        }
    }
    assert!(t.stat("workingset_refault_file") > 0);
    assert!(t.stat("workingset_activate_file") > 0);
    t.audit();
    // Memories are given up when nobody has room for them.
    t.cache.invalidate(&t.mm, 0..BLOCKS);
    assert_eq!(t.cache.pages(), 0);
    t.mm.drop_slab();
    assert_eq!(t.mm.audit().expect("whole").allocated, t.mm.audit().expect("whole").lru);
}

#[test]
fn counts_are_in_their_files() {
    let mut t = Tried::new();
    for block in 0..64 {
        t.write(block * PAGE, &[1]).expect("room");
    }
    let read = |path: &str| {
        let mut text = String::new();
        t.mm.proc_read(path, &mut text).expect("a file");
        text
    };
    assert!(read("/proc/meminfo").contains("Buffers:             256 kB\n"));
    assert!(read("/proc/meminfo").contains("Dirty:               256 kB\n"));
    assert!(read("/proc/meminfo").contains("Writeback:             0 kB\n"));
    for line in ["nr_file_pages 64\n", "nr_dirty 64\n", "nr_writeback 0\n", "nr_dirtied 64\n"] {
        assert!(read("/proc/vmstat").contains(line), "{line}");
    }
    assert!(read("/proc/zoneinfo").contains("      nr_dirty     64\n"));
    assert_eq!(read("/proc/sys/vm/dirty_ratio"), "20\n");
    t.knob("dirty_bytes", "8192");
    assert_eq!(read("/proc/sys/vm/dirty_ratio"), "0\n");
    // More than an int holds.
    t.knob("dirty_bytes", "8589934592");
    t.knob("dirty_background_bytes", "4294967296");
    assert_eq!(read("/proc/sys/vm/dirty_bytes"), "8589934592\n");
    assert!(read("/proc/vmstat").contains("nr_dirty_threshold 2097152\n"));
    assert!(read("/proc/vmstat").contains("nr_dirty_background_threshold 1048576\n"));
    t.knob("dirty_ratio", "30");
    assert_eq!(read("/proc/sys/vm/dirty_bytes"), "0\n");
    for (name, bad) in [
        ("dirty_ratio", "101"),
        ("dirty_background_ratio", "-1"),
        ("dirty_bytes", "8191"),
        ("dirty_bytes", "-1"),
        ("dirty_bytes", "18446744073709551616"),
        ("dirty_background_bytes", "0"),
        ("dirty_expire_centisecs", "x"),
    ] {
        let path = format!("/proc/sys/vm/{name}");
        assert!(t.mm.proc_write(&path, bad).is_err(), "{name} = {bad}");
    }
}

/// Every allocation and every access to the disk fails once: nothing is lost, and
/// nothing left over.
#[cfg_attr(miri, ignore = "too long")]
#[test]
fn any_failure_leaves_it_whole() {
    let work = |t: &mut Tried| {
        let mut wrote = [false; 30];
        for (i, wrote) in wrote.iter_mut().enumerate() {
            // Far from each other: nodes are wanted too.
            let offset = (i as u64 * 977 % BLOCKS) * PAGE + 10;
            *wrote = t.write(offset, &[i as u8 + 1; 20]).is_ok();
            let _ = t.read(offset + PAGE, 3 * PAGE_SIZE);
        }
        let synced = t.cache.sync(&t.mm);
        (wrote, synced)
    };
    for nth in 1..200 {
        for what in 0..3 {
            let mut t = Tried::new();
            match what {
                0 => t.mm.set_faults(FaultPlan::Nth(NonZeroU64::new(nth).expect("from 1"))),
                1 => t.disk.fail_reads(FailPlan::Nth(nth)),
                _ => t.disk.fail_writes(FailPlan::Nth(nth)),
            }
            let (wrote, synced) = work(&mut t);
            t.mm.set_faults(FaultPlan::Off);
            t.disk.fail_reads(FailPlan::Never);
            t.audit();
            let failed = t.cache.dirty_pages() > 0;
            assert_eq!(synced.is_err(), failed, "told if and only if");
            assert!(wrote.iter().filter(|wrote| !**wrote).count() <= 1);
            for (i, _) in wrote.iter().enumerate().filter(|(_, wrote)| **wrote) {
                let offset = (i as u64 * 977 % BLOCKS) * PAGE + 10;
                assert_eq!(t.read(offset, 20).expect("sound again"), [i as u8 + 1; 20]);
            }
            t.cache.sync(&t.mm).expect("sound again");
            t.cache.invalidate(&t.mm, 0..BLOCKS);
            assert_eq!(t.mm.audit().expect("whole").allocated, 0);
        }
    }
}
