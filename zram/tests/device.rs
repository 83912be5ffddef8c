//! The device from outside: what is written is read, whatever becomes of its
//! pages; what is refused, forgotten, or fails.

mod common;

use common::corpus::{Corpus, KINDS};
use common::{
    Device, Guest, MIB, audit, device, frames, free_pages, isolate, machine, migrate, read,
};
use lz4_flex::block::CompressTable;
use mm::fault::FaultPlan;
use mm::proc::FileError;
use mm::types::PAGE_SIZE;
use std::num::NonZeroU64;
use zram::{
    FILES, IoStat, PageBytes, ReadError, SIZE_OF_OUTPUT, SetUpError, WriteError, Zram, ZramSwap,
    compress,
};

/// Pages of a test.
const PAGES: u32 = if cfg!(miri) { 12 } else { 600 };

fn write_all(mm: &Guest, zram: Device, corpus: &mut Corpus) -> Vec<PageBytes> {
    let pages: Vec<PageBytes> = (0..PAGES).map(|_| corpus.mixed()).collect();
    for (slot, page) in pages.iter().enumerate() {
        zram.write(mm, slot as u32, page).expect("room");
    }
    pages
}

fn all_there(mm: &Guest, zram: Device, pages: &[PageBytes]) {
    for (slot, page) in pages.iter().enumerate() {
        assert!(read(mm, zram, slot as u32) == *page, "slot {slot}");
    }
}

#[test]
fn what_is_written_is_read_and_leaves_nothing() {
    let mm = machine(MIB, 1);
    let before = free_pages(mm);
    let zram = device(mm, PAGES + 10);
    assert_eq!(read(mm, zram, 3), [0; PAGE_SIZE], "never written");
    let mut corpus = Corpus::new(1);
    let pages = write_all(mm, zram, &mut corpus);
    audit(mm, zram);
    all_there(mm, zram, &pages);
    // Again, with others, and with pages of one word.
    let mut pages: Vec<PageBytes> = pages.into_iter().rev().collect();
    pages[1] = [0; PAGE_SIZE];
    pages[2] = [0x41; PAGE_SIZE];
    for (slot, page) in pages.iter().enumerate() {
        zram.write(mm, slot as u32, page).expect("room");
    }
    audit(mm, zram);
    all_there(mm, zram, &pages);
    let stat = zram.mm_stat(mm);
    assert_eq!(stat.orig_data_size, u64::from(PAGES) * 4096);
    assert_eq!(stat.same_pages, 2);
    zram.discard(mm, 0..1);
    zram.discard(mm, 2..u32::MAX);
    assert_eq!(read(mm, zram, 0), [0; PAGE_SIZE]);
    audit(mm, zram);
    let stat = zram.mm_stat(mm);
    assert_eq!((stat.orig_data_size, stat.compr_data_size, stat.same_pages), (4096, 0, 1));
    assert_eq!(zram.io_stat().notify_free, u64::from(PAGES) - 1);
    zram.reset(mm);
    audit(mm, zram);
    assert_eq!(free_pages(mm), before, "all its memory is back");
    assert_eq!(zram.mm_stat(mm), Default::default());
    let mut page = [0; PAGE_SIZE];
    assert_eq!(zram.read(mm, 1, &mut page), Err(ReadError::NoSlot));
    zram.set_up(mm, 5).expect("once more");
    assert_eq!(read(mm, zram, 1), [0; PAGE_SIZE]);
}

#[test]
fn what_does_not_shrink_is_refused_and_nothing_changes() {
    let mm = machine(MIB, 1);
    let zram = device(mm, 8);
    let mut corpus = Corpus::new(2);
    let (good, bad) = (corpus.code(), corpus.random());
    zram.write(mm, 4, &good).expect("room");
    let before = zram.mm_stat(mm);
    assert_eq!(zram.write(mm, 4, &bad), Err(WriteError::DoesNotShrink));
    assert_eq!(zram.write(mm, 5, &bad), Err(WriteError::DoesNotShrink));
    assert!(read(mm, zram, 4) == good && read(mm, zram, 5) == [0; PAGE_SIZE]);
    let after = zram.mm_stat(mm);
    assert_eq!(after.huge_pages_since, 2);
    assert_eq!(zram::MmStat { huge_pages_since: 0, ..after }, before);
    assert_eq!(zram.io_stat(), IoStat::default(), "to refuse is no failure");
    audit(mm, zram);
}

#[test]
fn sizes_and_slots_that_cannot_be() {
    let mm = machine(MIB, 1);
    let zram: Device = Box::leak(Box::new(Zram::new("/dev/zram0")));
    assert_eq!(zram.write(mm, 0, &[1; PAGE_SIZE]), Err(WriteError::NoSlot));
    assert_eq!(zram.set_up(mm, 0), Err(SetUpError::Size));
    assert_eq!(zram.set_up(mm, Zram::<mm::host::Machine>::MOST_SLOTS + 1), Err(SetUpError::Size));
    zram.set_up(mm, 7).expect("a size");
    assert_eq!(zram.set_up(mm, 7), Err(SetUpError::Busy));
    assert_eq!(zram.write(mm, 7, &[1; PAGE_SIZE]), Err(WriteError::NoSlot));
    assert_eq!(zram.io_stat().invalid_io, 2);
    audit(mm, zram);
}

#[test]
fn the_limit_holds_and_what_was_there_stays() {
    let mm = machine(MIB, 1);
    let zram = device(mm, PAGES);
    let mut corpus = Corpus::new(3);
    let limit = if cfg!(miri) { 7 } else { 40 };
    zram.set_limit(limit * 4096);
    let mut pages = Vec::new();
    for slot in 0..PAGES {
        let page = corpus.code();
        match zram.write(mm, slot, &page) {
            Ok(()) => pages.push(page),
            Err(e) => {
                assert_eq!(e, WriteError::Limit);
                break;
            }
        }
    }
    assert!(pages.len() < PAGES as usize, "the limit was never reached");
    let stat = zram.mm_stat(mm);
    assert_eq!((stat.mem_used_total, stat.mem_used_max), (limit * 4096, limit * 4096));
    assert_eq!(zram.write(mm, 0, &corpus.half_zero()), Err(WriteError::Limit));
    all_there(mm, zram, &pages);
    // A page of one word needs next to nothing, and what is freed can be used.
    zram.discard(mm, 0..2);
    zram.write(mm, 1, &pages[1]).expect("room that was made");
    all_there(mm, zram, &[&[[0; PAGE_SIZE]], &pages[1..]].concat());
    zram.set_limit(0);
    zram.write(mm, 0, &corpus.half_zero()).expect("no limit any more");
    audit(mm, zram);
}

#[test]
fn pages_move_under_what_is_in_them() {
    let mm = machine(MIB, 1);
    let zram = device(mm, PAGES);
    let mut corpus = Corpus::new(4);
    let mut pages = write_all(mm, zram, &mut corpus);
    let old = frames(mm);
    let mut list = isolate(mm, &old);
    assert_eq!(list.len() as usize, old.len());
    assert!(isolate(mm, &old).is_empty(), "isolated pages are refused");
    audit(mm, zram);
    // While they are isolated they can be read, freed and written elsewhere.
    all_there(mm, zram, &pages);
    zram.discard(mm, 0..PAGES / 2);
    pages[..PAGES as usize / 2].fill([0; PAGE_SIZE]);
    let page = corpus.table();
    zram.write(mm, 0, &page).expect("room");
    pages[0] = page;
    zram.audit(mm).expect("whole, but for pages that went while they were isolated");
    assert_eq!(migrate(mm, &mut list) as usize, old.len());
    all_there(mm, zram, &pages);
    audit(mm, zram);
    // And back where they are.
    let mut list = isolate(mm, &frames(mm));
    mm.putback_list(&mut list);
    all_there(mm, zram, &pages);
    audit(mm, zram);
}

#[test]
fn a_page_that_becomes_empty_while_it_is_isolated_goes() {
    let mm = machine(MIB, 1);
    for put_back in [false, true] {
        let zram = device(mm, PAGES);
        let before = free_pages(mm);
        write_all(mm, zram, &mut Corpus::new(5));
        let mut list = isolate(mm, &frames(mm));
        zram.discard(mm, 0..PAGES);
        assert_eq!(zram.audit(mm).expect("whole").pages, 0);
        if put_back {
            mm.putback_list(&mut list);
        } else {
            migrate(mm, &mut list);
        }
        assert_eq!(frames(mm), []);
        let tables = zram.mm_stat(mm).mem_used_total / 4096;
        assert_eq!(free_pages(mm), before - tables);
        audit(mm, zram);
        zram.reset(mm);
    }
}

#[test]
fn the_store_is_made_dense() {
    let mm = machine(MIB, 1);
    let zram = device(mm, PAGES);
    let mut pages = write_all(mm, zram, &mut Corpus::new(6));
    for slot in (0..PAGES).filter(|slot| slot % 4 != 3) {
        zram.discard(mm, slot..slot + 1);
        pages[slot as usize] = [0; PAGE_SIZE];
    }
    let sparse = zram.mm_stat(mm);
    let might = zram.compactable(mm);
    let freed = zram.compact(mm);
    audit(mm, zram);
    all_there(mm, zram, &pages);
    let dense = zram.mm_stat(mm);
    assert_eq!(dense.pages_compacted, freed);
    assert_eq!(dense.mem_used_total, sparse.mem_used_total - freed * 4096);
    assert_eq!(
        (dense.orig_data_size, dense.compr_data_size),
        (sparse.orig_data_size, sparse.compr_data_size)
    );
    if !cfg!(miri) {
        assert!(freed * 100 >= might * 95, "{freed} pages of {might}");
    }
    assert_eq!(zram.compact(mm), 0, "there is no more to be had");
}

#[test]
fn no_failed_allocation_loses_anything() {
    let mm = machine(MIB, 1);
    let free = free_pages(mm);
    for n in 1..if cfg!(miri) { 3 } else { 6 } {
        let zram = device(mm, PAGES);
        let mut corpus = Corpus::new(n);
        let mut pages = vec![[0; PAGE_SIZE]; PAGES as usize];
        let mut failed = 0;
        mm.set_faults(FaultPlan::Every(NonZeroU64::new(n).expect("not 0")));
        for round in 0..2 * PAGES {
            let (slot, page) = (round % PAGES, corpus.mixed());
            match zram.write(mm, slot, &page) {
                Ok(()) => pages[slot as usize] = page,
                Err(e) => {
                    assert_eq!(e, WriteError::NoMemory);
                    failed += 1;
                }
            }
        }
        mm.set_faults(FaultPlan::Off);
        assert!(failed > 0 && zram.io_stat().failed_writes == failed);
        assert!(n == 1 || failed < u64::from(PAGES), "none went well");
        all_there(mm, zram, &pages);
        audit(mm, zram);
        zram.reset(mm);
        assert_eq!(free_pages(mm), free);
    }
}

#[test]
fn a_device_without_memory_to_work_in_is_none() {
    let mm = machine(MIB, 2);
    let free = free_pages(mm);
    for nth in 1..=2 {
        let zram: Device = Box::leak(Box::new(Zram::new("/dev/zram0")));
        mm.set_faults(FaultPlan::Nth(NonZeroU64::new(nth).expect("not 0")));
        assert!(matches!(zram.set_up(mm, 9), Err(SetUpError::NoMemory(_))), "{nth}");
        mm.set_faults(FaultPlan::Off);
        assert_eq!((free_pages(mm), zram.slots(mm)), (free, 0));
        zram.set_up(mm, 9).expect("memory by now");
        zram.reset(mm);
    }
    assert_eq!(free_pages(mm), free);
}

#[test]
#[cfg(not(miri))]
fn memory_is_what_the_coder_makes_of_it_within_three_percent() {
    const MANY: u32 = 3000;
    let mm = machine(64, 1);
    let zram = device(mm, MANY);
    let mut corpus = Corpus::new(7);
    let (mut out, mut table) = ([0; SIZE_OF_OUTPUT], CompressTable::small());
    for (name, make) in KINDS {
        zram.discard(mm, 0..MANY);
        let (mut coder, mut stored) = (0, 0);
        for slot in 0..MANY {
            let page = make(&mut corpus);
            match zram.write(mm, slot, &page) {
                Ok(()) => {
                    coder += compress(&page, &mut out, &mut table).expect("room") as u64;
                    stored += 1;
                }
                Err(e) => assert_eq!(e, WriteError::DoesNotShrink),
            }
        }
        let stat = zram.mm_stat(mm);
        assert_eq!((stat.orig_data_size, stat.compr_data_size), (stored * 4096, coder));
        let over = (stat.mem_used_total * 10_000 / coder).saturating_sub(10_000);
        println!(
            "{name}: {stored} pages, coder {coder}, memory {} (+{}.{:02} %)",
            stat.mem_used_total,
            over / 100,
            over % 100
        );
        assert!(over <= 300, "{name}: {over} hundredths of a percent");
        audit(mm, zram);
    }
}

#[test]
fn mm_stat_reads_as_in_linux() {
    let stat =
        zram::MmStat { orig_data_size: 1, huge_pages_since: 123_456_789, ..Default::default() };
    let line = stat.to_string();
    assert_eq!(line.split_whitespace().count(), 9);
    assert_eq!(line.split_whitespace().next(), Some("1"));
    assert!(line.ends_with("        0 123456789"), "{line}");
}

fn file(mm: &Guest, zram: Device, name: &str) -> String {
    let mut text = String::new();
    zram.read_file(mm, name, &mut text).expect("a file");
    text
}

#[test]
fn it_is_set_up_and_looked_at_through_its_files() {
    let mm = machine(MIB, 1);
    let free = free_pages(mm);
    let zram: Device = Box::leak(Box::new(Zram::new("/dev/zram0")));
    assert_eq!(
        (file(mm, zram, "initstate"), file(mm, zram, "disksize")),
        ("0\n".into(), "0\n".into())
    );
    for text in ["", "0", "lots", "999T"] {
        assert_eq!(zram.write_file(mm, "disksize", text), Err(FileError::Invalid), "{text}");
    }
    zram.write_file(mm, "disksize", "1M").expect("a size");
    assert_eq!(zram.write_file(mm, "disksize", "1M"), Err(FileError::Busy));
    assert_eq!(file(mm, zram, "disksize"), "1048576\n");
    zram.write_file(mm, "mem_limit", "64K").expect("a limit");
    zram.write(mm, 3, &Corpus::new(8).code()).expect("room");
    let used = zram.mm_stat(mm).mem_used_total;
    zram.discard(mm, 0..9);
    zram.write_file(mm, "mem_used_max", "0").expect("forgotten");
    let stat = file(mm, zram, "mm_stat");
    let figures: Vec<u64> = stat.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    assert_eq!((figures[3], figures[4]), (65536, used - 4096));
    assert_eq!(file(mm, zram, "io_stat").split_whitespace().last(), Some("1"));
    zram.write_file(mm, "compact", "1").expect("nothing to do");
    assert_eq!(zram.write_file(mm, "mm_stat", "1"), Err(FileError::NotPermitted));
    assert_eq!(zram.write_file(mm, "nothing", "1"), Err(FileError::NotFound));
    assert_eq!(zram.write_file(mm, "reset", "0"), Err(FileError::Invalid));
    let swap: &'static ZramSwap<_> = Box::leak(Box::new(ZramSwap::new(mm, zram)));
    mm.swapon(swap, None).expect("a device");
    assert_eq!(zram.write_file(mm, "reset", "1"), Err(FileError::Busy));
    mm.swapoff_with("/dev/zram0", &mut |_| Ok(())).expect("it is empty");
    zram.write_file(mm, "reset", "1").expect("nobody uses it");
    assert_eq!(free_pages(mm), free);
    for name in FILES {
        let mut text = String::new();
        let read = zram.read_file(mm, name, &mut text);
        assert!(read == Ok(()) && text.ends_with('\n') || read == Err(FileError::NotPermitted));
    }
}

#[test]
fn reclaim_makes_the_store_dense() {
    let mm = machine(MIB, 1);
    let zram = device(mm, PAGES);
    write_all(mm, zram, &mut Corpus::new(9));
    (0..PAGES).filter(|slot| slot % 3 > 0).for_each(|slot| zram.discard(mm, slot..slot + 1));
    let before = zram.mm_stat(mm);
    mm.drop_slab();
    assert!(zram.mm_stat(mm).mem_used_total < before.mem_used_total);
    audit(mm, zram);
}

/// However large a limit is typed, it is one, and can be read again.
#[test]
fn the_largest_limit_is_a_limit() {
    let mm = machine(MIB, 1);
    let zram = device(mm, 10);
    zram.set_limit(u64::MAX);
    assert!(zram.mm_stat(mm).mem_limit > u64::MAX - PAGE_SIZE as u64);
    zram.write(mm, 0, &[1; PAGE_SIZE]).expect("room");
    audit(mm, zram);
}
