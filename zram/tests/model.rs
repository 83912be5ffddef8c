//! Random operations against a plain list of pages, while the device's memory is
//! moved, made dense, and refused; from one thread, from several, and with what
//! is stored damaged. Each failure says its seed.

mod common;

use common::corpus::{Corpus, Rng};
use common::{
    Device, Guest, MIB, audit, damage, device, frames, free_pages, isolate, machine, migrate, read,
};
use mm::Gfp;
use mm::fault::FaultPlan;
use mm::list::PageList;
use mm::types::{CpuId, Order, PAGE_SIZE, Pfn};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use zram::{PageBytes, ReadError, WriteError};

const SEEDS: u64 = if cfg!(miri) { 1 } else { 6 };
const STEPS: usize = if cfg!(miri) { 60 } else { 4000 };
const SLOTS: u32 = if cfg!(miri) { 8 } else { 400 };

/// What a slot is to hold.
fn content(corpus: &mut Corpus) -> PageBytes {
    match corpus.rng.below(12) {
        0 => [0; PAGE_SIZE],
        1 => [corpus.rng.below(256) as u8; PAGE_SIZE],
        2 => corpus.random(),
        _ => corpus.mixed(),
    }
}

struct Model {
    mm: &'static Guest,
    zram: Device,
    corpus: Corpus,
    pages: Vec<PageBytes>,
    isolated: PageList,
    faulty: bool,
}

impl Model {
    fn below(&mut self, bound: usize) -> usize {
        self.corpus.rng.below(bound)
    }

    fn step(&mut self) {
        let slot = self.below(SLOTS as usize);
        match self.below(100) {
            0..=44 => {
                let page = content(&mut self.corpus);
                match self.zram.write(self.mm, slot as u32, &page) {
                    Ok(()) => self.pages[slot] = page,
                    Err(WriteError::DoesNotShrink) => {}
                    Err(e) => assert!(self.faulty && e == WriteError::NoMemory, "{e}"),
                }
            }
            45..=69 => assert!(read(self.mm, self.zram, slot as u32) == self.pages[slot]),
            70..=84 => {
                let end = (slot + 1 + self.below(8)).min(SLOTS as usize);
                self.zram.discard(self.mm, slot as u32..end as u32);
                self.pages[slot..end].fill([0; PAGE_SIZE]);
            }
            85..=89 => {
                let some: Vec<_> =
                    frames(self.mm).into_iter().filter(|_| self.corpus.rng.below(4) == 0).collect();
                let mut more = isolate(self.mm, &some);
                while let Some(pfn) = more.pop_front(self.mm.map()) {
                    self.isolated.push_back(self.mm.map(), pfn);
                }
            }
            90..=93 => {
                migrate(self.mm, &mut self.isolated);
            }
            94..=95 => self.mm.putback_list(&mut self.isolated),
            96 => {
                self.zram.compact(self.mm);
            }
            97 => {
                self.mm.compact_memory(None);
            }
            _ => {
                self.faulty = !self.faulty;
                let plan = FaultPlan::Every(NonZeroU64::new(2).expect("not 0"));
                self.mm.set_faults(if self.faulty { plan } else { FaultPlan::Off });
            }
        }
    }
}

#[test]
fn whatever_happens_to_its_pages_the_device_holds_what_was_written() {
    for seed in 1..=SEEDS {
        println!("seed {seed}");
        let mm = machine(MIB, 2);
        let free = free_pages(mm);
        let mut model = Model {
            mm,
            zram: device(mm, SLOTS),
            corpus: Corpus::new(seed),
            pages: vec![[0; PAGE_SIZE]; SLOTS as usize],
            isolated: PageList::new(),
            faulty: false,
        };
        for step in 0..STEPS {
            model.step();
            if step % (STEPS / 20) == 0 {
                model.zram.audit(mm).expect("a whole device");
            }
        }
        mm.set_faults(FaultPlan::Off);
        mm.putback_list(&mut model.isolated);
        audit(mm, model.zram);
        for (slot, page) in model.pages.iter().enumerate() {
            assert!(read(mm, model.zram, slot as u32) == *page, "slot {slot}");
        }
        model.zram.reset(mm);
        assert_eq!(free_pages(mm), free);
    }
}

/// One thread's part of the slots.
fn use_part(mm: &Guest, zram: Device, part: u32, of: u32, steps: usize) {
    mm.platform().run_on(CpuId(part as u16));
    let mut corpus = Corpus::new(u64::from(part) + 100);
    let mine: Vec<u32> = (0..SLOTS).filter(|slot| slot % of == part).collect();
    let mut pages = vec![[0; PAGE_SIZE]; mine.len()];
    for _ in 0..steps {
        let i = corpus.rng.below(mine.len());
        match corpus.rng.below(8) {
            0..=3 => {
                let page = content(&mut corpus);
                match zram.write(mm, mine[i], &page) {
                    Ok(()) => pages[i] = page,
                    Err(e) => assert_eq!(e, WriteError::DoesNotShrink),
                }
            }
            4..=6 => assert!(read(mm, zram, mine[i]) == pages[i]),
            _ => {
                zram.discard(mm, mine[i]..mine[i] + 1);
                pages[i] = [0; PAGE_SIZE];
            }
        }
    }
    for (slot, page) in mine.into_iter().zip(&pages) {
        assert!(read(mm, zram, slot) == *page, "slot {slot}");
    }
}

#[test]
fn several_use_it_while_its_pages_move() {
    const USERS: u32 = 3;
    let mm = machine(MIB, 4);
    let free = free_pages(mm);
    let zram = device(mm, SLOTS);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let users: Vec<_> = (0..USERS)
            .map(|part| threads.spawn(move || use_part(mm, zram, part, USERS, STEPS / 2)))
            .collect();
        let done = &done;
        threads.spawn(move || {
            mm.platform().run_on(CpuId(3));
            let mut rng = Rng(9);
            while !done.load(Relaxed) {
                match rng.below(4) {
                    0 => {
                        zram.compact(mm);
                    }
                    1 => {
                        mm.compact_memory(None);
                    }
                    2 => {
                        // Moves what is in the way, wherever that is.
                        let pages = 64 << rng.below(3);
                        let gfp = Gfp::KERNEL | Gfp::NOWARN;
                        let from = Pfn(rng.below(MIB as usize * 256) as u64);
                        let taken = mm.alloc_contig_pages(pages, Order(0), None, from, gfp);
                        if let Ok(range) = taken {
                            mm.free_contig_range(range).expect("what was taken");
                        }
                    }
                    _ => {
                        let mut list = isolate(mm, &frames(mm));
                        migrate(mm, &mut list);
                    }
                }
            }
        });
        for user in users {
            user.join().expect("a user that found what it wrote");
        }
        done.store(true, Relaxed);
    });
    audit(mm, zram);
    zram.reset(mm);
    assert_eq!(free_pages(mm), free);
    assert_eq!(zram.working_pages(), 0);
}

#[test]
fn damage_is_found_or_harmless_and_never_worse() {
    let mut corrupt = 0;
    for seed in 1..=10 * SEEDS {
        let mm = machine(MIB, 1);
        let zram = device(mm, SLOTS);
        let mut corpus = Corpus::new(seed);
        for slot in 0..SLOTS {
            zram.write(mm, slot, &corpus.mixed()).expect("room");
        }
        let frames = frames(mm);
        for _ in 0..1 + corpus.rng.below(frames.len()) {
            let pfn = frames[corpus.rng.below(frames.len())];
            // Anywhere in the page, or in its directory.
            let at = match corpus.rng.below(3) {
                0 => PAGE_SIZE - 1 - corpus.rng.below(32),
                _ => corpus.rng.below(PAGE_SIZE),
            };
            damage(mm, pfn, at, corpus.rng.next() as u8);
        }
        let mut page = [0; PAGE_SIZE];
        for slot in 0..SLOTS {
            match zram.read(mm, slot, &mut page) {
                Ok(()) => {}
                Err(e) => {
                    assert_eq!(e, ReadError::Corrupt);
                    corrupt += 1;
                }
            }
        }
        // What else is done to such a device may fail, and that is all.
        let _ = zram.audit(mm);
        zram.compact(mm);
        for slot in 0..SLOTS {
            if slot % 2 == 0 {
                let _ = zram.write(mm, slot, &corpus.mixed());
            } else {
                zram.discard(mm, slot..slot + 1);
            }
        }
        let _ = zram.audit(mm);
        assert!(zram.io_stat().failed_reads <= corrupt);
    }
    assert!(corrupt > 0, "no damage was found");
}
