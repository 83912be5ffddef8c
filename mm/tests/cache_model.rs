//! Several CPUs read and write a disk through its cache, while memory is short,
//! pages are moved, dropped and taken away under them, and the disk fails now and
//! then: each finds what it wrote last.
#![cfg(all(feature = "host", not(miri)))]

use mm::cache::{CacheError, CacheFile, PageCache};
use mm::host::disk::RamDisk;
use mm::host::swap::FailPlan;
use mm::host::{Machine, pc};
use mm::platform::Worker;
use mm::types::{CpuId, NodeId, Order, PAGE_SIZE, Pfn};
use mm::{Config, Gfp, Mm, Request};
use std::collections::BTreeMap;

const PAGE: u64 = PAGE_SIZE as u64;
const MIB: u64 = 16;
/// Twice as much as there is memory.
const BLOCKS: u64 = 2 * MIB * 256;
const CPUS: u16 = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One of those who use the disk: every third block is its own.
struct User<'a> {
    mm: &'a Mm<Machine>,
    cache: &'static PageCache,
    disk: &'static RamDisk,
    cpu: u16,
    file: CacheFile,
    random: Random,
    /// What it has written: by block, each byte.
    wrote: BTreeMap<u64, Vec<u8>>,
}

impl User<'_> {
    fn block(&mut self) -> u64 {
        let near = self.random.below(2) == 0;
        let blocks = if near { 300 } else { BLOCKS / u64::from(CPUS) };
        self.random.below(blocks) * u64::from(CPUS) + u64::from(self.cpu)
    }

    fn write(&mut self) {
        let block = self.block();
        let whole = self.random.below(3) == 0;
        let from = if whole { 0 } else { self.random.below(PAGE) as usize };
        let len =
            if whole { PAGE_SIZE } else { 1 + self.random.below(PAGE - from as u64) as usize };
        let bytes: Vec<u8> = (0..len).map(|_| self.random.below(256) as u8).collect();
        match self.cache.write(self.mm, &mut self.file, block * PAGE + from as u64, &bytes) {
            Ok(()) => {
                let known = self.wrote.entry(block).or_insert_with(|| vec![0; PAGE_SIZE]);
                known[from..from + len].copy_from_slice(&bytes);
            }
            // One block: nothing of it has been written then.
            Err(why) => assert!(matches!(why, CacheError::Io | CacheError::NoMemory), "{why}"),
        }
    }

    fn read(&mut self) {
        let block = match self.random.below(3) {
            0 => self.block(),
            _ => {
                let from = self.block();
                let Some((&block, _)) = self.wrote.range(from..).next() else { return };
                block
            }
        };
        let mut page = vec![0xee; PAGE_SIZE];
        match self.cache.read(self.mm, &mut self.file, block * PAGE, &mut page) {
            Ok(()) => self.check(block, &page),
            Err(why) => assert!(matches!(why, CacheError::Io | CacheError::NoMemory), "{why}"),
        }
    }

    fn check(&self, block: u64, page: &[u8]) {
        let zeros = vec![0; PAGE_SIZE];
        let known = self.wrote.get(&block).unwrap_or(&zeros);
        assert!(page == known, "block {block} of CPU {}", self.cpu);
    }

    /// What others do with the memory meanwhile.
    fn disturb(&mut self) {
        let mm = self.mm;
        match self.random.below(12) {
            0 => {
                let _ = self.cache.sync(mm);
            }
            1 => {
                let from = self.random.below(BLOCKS);
                self.cache.invalidate(mm, from..from + 500);
            }
            2 => {
                mm.kswapd_round(NodeId(0));
            }
            3 => {
                mm.drop_page_cache();
            }
            4 => {
                mm.compact_memory(None);
            }
            5 => {
                mm.work(Worker::Flusher);
                mm.platform().advance_ms(self.random.below(20_000));
            }
            6 | 7 => {
                let pages = 1 + self.random.below(1500);
                let gfp = Gfp::KERNEL | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
                if let Ok(range) = mm.alloc_contig_pages(pages, Order(0), None, Pfn(0), gfp) {
                    mm.free_contig_range(range).expect("its own");
                }
            }
            8 => self.disk.fail_reads(self.some_failures()),
            9 => self.disk.fail_writes(self.some_failures()),
            _ => {
                let request = Request::new(Order(0), Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN);
                let n = self.random.below(2000);
                let held: Vec<_> = (0..n).map_while(|_| mm.alloc_pages(request).ok()).collect();
                held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
            }
        }
    }

    fn some_failures(&mut self) -> FailPlan {
        match self.random.below(3) {
            0 => FailPlan::Every(2 + self.random.below(20)),
            _ => FailPlan::Never,
        }
    }

    fn run(&mut self, steps: u32) {
        self.mm.platform().run_on(CpuId(self.cpu));
        for _ in 0..steps {
            match self.random.below(40) {
                0 => self.disturb(),
                1..=20 => self.write(),
                _ => self.read(),
            }
        }
    }
}

fn play(seed: u64, steps: u32) -> Mm<Machine> {
    eprintln!("seed {seed}");
    let mm = pc(MIB, CPUS, &Config::default()).expect("a machine");
    let disk: &'static RamDisk = Box::leak(Box::new(RamDisk::new("/dev/test", BLOCKS)));
    let cache: &'static PageCache = Box::leak(Box::new(PageCache::new(disk)));
    cache.register(&mm).expect("room for a cache");
    let mut users: Vec<_> = (0..CPUS)
        .map(|cpu| User {
            mm: &mm,
            cache,
            disk,
            cpu,
            file: CacheFile::default(),
            random: Random(seed * 31 + u64::from(cpu)),
            wrote: BTreeMap::new(),
        })
        .collect();
    for _ in 0..4 {
        std::thread::scope(|scope| {
            for user in &mut users {
                scope.spawn(move || user.run(steps));
            }
        });
        mm.audit().expect("whole");
    }
    disk.fail_reads(FailPlan::Never);
    disk.fail_writes(FailPlan::Never);
    // The first may tell of what has failed before.
    let _ = cache.sync(&mm);
    assert_eq!(cache.sync(&mm), Ok(()));
    assert_eq!(cache.dirty_pages(), 0);
    for user in &users {
        for &block in user.wrote.keys() {
            user.check(block, &disk.peek(block)[..]);
        }
    }
    cache.invalidate(&mm, 0..BLOCKS);
    assert_eq!(cache.pages(), 0);
    assert_eq!(mm.audit().expect("whole").lru, 0);
    drop(users);
    mm
}

#[test]
fn everybody_finds_what_he_wrote() {
    const SEEN: [&str; 6] = [
        "nr_written",
        "nr_vmscan_write",
        "pgsteal_file",
        "pgmigrate_success",
        "workingset_refault_file",
        "drop_pagecache",
    ];
    let mut seen = [0; SEEN.len()];
    for seed in 1..=6 {
        let mm = play(seed, 1500);
        for (key, seen) in SEEN.into_iter().zip(&mut seen) {
            *seen += mm.vmstat_value(key).expect("a counter");
        }
    }
    // All of it has happened.
    assert!(seen.iter().all(|&n| n > 0), "{SEEN:?}: {seen:?}");
}
