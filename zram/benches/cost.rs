//! What a page costs beyond the coder itself, in instructions. Each loop is a
//! function of its own, for callgrind to count:
//!
//! ```text
//! cargo bench -p zram --bench cost --no-run
//! for what in write code read decode fill; do
//!   valgrind --tool=callgrind --callgrind-out-file=/dev/null \
//!     --toggle-collect="*cost::measured_$what*" target/release/deps/cost-* $what
//! done
//! ```
//!
//! Divide what is counted by the pages that are printed. Without an argument it
//! says how much memory pages of each kind take.

#[path = "../tests/common/corpus.rs"]
mod corpus;

use corpus::Corpus;
use lz4_flex::block::{CompressTable, compress_into_with_table};
use mm::host::{Machine, pc};
use mm::{Config, Mm};
use std::hint::black_box;
use zram::{PageBytes, SIZE_OF_OUTPUT, Zram, expand};

const PAGES: u32 = 4000;

type Device = &'static Zram<Machine>;

#[inline(never)]
fn measured_write(mm: &Mm<Machine>, zram: Device, pages: &[PageBytes]) {
    for (slot, page) in pages.iter().enumerate() {
        zram.write(mm, slot as u32, page).expect("room");
    }
}

#[inline(never)]
fn measured_fill(mm: &Mm<Machine>, zram: Device, pages: &[PageBytes]) {
    measured_write(mm, zram, pages);
}

#[inline(never)]
fn measured_code(pages: &[PageBytes], out: &mut [u8], table: &mut CompressTable) -> usize {
    pages.iter().map(|page| compress_into_with_table(page, out, table).expect("room")).sum()
}

#[inline(never)]
fn measured_read(mm: &Mm<Machine>, zram: Device, page: &mut PageBytes) {
    for slot in 0..PAGES {
        zram.read(mm, slot, page).expect("what was written");
    }
}

#[inline(never)]
fn measured_decode(coded: &[Vec<u8>], page: &mut PageBytes) {
    for coded in coded {
        expand(coded, page).expect("what was coded");
    }
}

fn coded(pages: &[PageBytes], table: &mut CompressTable) -> Vec<Vec<u8>> {
    let mut out = [0; SIZE_OF_OUTPUT];
    let code = |page: &PageBytes| {
        let len = compress_into_with_table(page, &mut out, table).expect("room");
        out[..len].to_vec()
    };
    pages.iter().map(code).collect()
}

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let mm = pc(128, 1, &Config::default()).expect("a machine");
    let zram: Device = Box::leak(Box::new(Zram::new("/dev/zram0")));
    zram.set_up(&mm, PAGES * 5).expect("memory");
    let mut corpus = Corpus::new(1);
    let pages: Vec<PageBytes> = (0..PAGES).map(|_| corpus.code()).collect();
    let (mut out, mut table) = (vec![0; SIZE_OF_OUTPUT], CompressTable::small());
    let mut page = [0; 4096];
    match what.as_str() {
        "write" => measured_write(&mm, zram, &pages),
        "code" => drop(black_box(measured_code(&pages, &mut out, &mut table))),
        "read" => {
            measured_write(&mm, zram, &pages);
            measured_read(&mm, zram, &mut page);
        }
        "decode" => measured_decode(&coded(&pages, &mut table), &mut page),
        "fill" => measured_fill(&mm, zram, &vec![[7; 4096]; PAGES as usize]),
        _ => {
            for (name, make) in corpus::KINDS {
                zram.discard(&mm, 0..PAGES * 5);
                let pages: Vec<PageBytes> = (0..PAGES).map(|_| make(&mut corpus)).collect();
                let coder: usize = measured_code(&pages, &mut out, &mut table);
                measured_write(&mm, zram, &pages);
                let stat = zram.mm_stat(&mm);
                let more = stat.mem_used_total as f64 / coder as f64 * 100.0 - 100.0;
                println!(
                    "{name:12} coder {coder:9} memory {:9} ({more:+.2} %)",
                    stat.mem_used_total
                );
            }
        }
    }
    println!("{PAGES} pages");
}
