//! What compressed memory costs as a place to swap to, for each page: reclaim
//! finds it, unmaps it and writes it; a fault has it read and mapped again. The
//! coder's share is in both. Half of each page is records as programs have them,
//! the rest was never written. Calls `mm`.

use crate::cost::Cost;
use crate::fault::{Guest, PAGE};
use crate::run::{Bench, Samples, Why};
use mm::Mm;
use mm::platform::Platform;
use mm::space::{Access, HugePages};
use mm::stats::Event;
use mm::swap::SwapDevice;

const ROWS: [&str; 2] = ["out", "in"];

/// Pages of a window.
const PAGES: u64 = 1024;
/// Slots of the device: more than are in use at a time.
const SLOTS: u32 = 4 * PAGES as u32;
const WINDOWS: usize = 5;

/// Bytes of a record, and of those that are written at a time.
const RECORD: usize = 32;
const PART: usize = 16 * RECORD;

/// Compressed memory that can be swapped to.
pub trait Compressed<P: Platform>: Sync {
    /// Has it have that many slots; None if somebody uses it, or there is no
    /// memory for it.
    fn set_up(&self, mm: &'static Mm<P>, slots: u32) -> Option<&'static dyn SwapDevice>;

    /// Gives its memory back. Nobody swaps to it any more.
    fn reset(&self, mm: &'static Mm<P>);
}

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    if bench.wants(&ROWS) {
        let costs = there_and_back(bench);
        bench.both(ROWS, costs);
    }
}

fn there_and_back<P: Platform>(bench: &Bench<'_, P>) -> Result<(Cost, Cost), Why> {
    let (mm, compressed) = (bench.on.mm, bench.on.compressed);
    let device = compressed.set_up(mm, SLOTS).ok_or(Why::Lacks("compressed memory"))?;
    let mut costs = Err(Why::Failed("swapon"));
    if mm.swapon(device, None).is_ok() {
        costs = windows(bench);
        mm.swapoff(device.name()).map_err(|_| Why::Failed("swapoff"))?;
    }
    compressed.reset(mm);
    costs
}

fn windows<P: Platform>(bench: &Bench<'_, P>) -> Result<(Cost, Cost), Why> {
    let (mm, meter) = (bench.on.mm, bench.meter);
    let guest = Guest::new(bench, PAGES, HugePages::Never)?;
    let each = |cost: u64, pages: u64| match pages {
        0 => Err(Why::Failed("swapping")),
        pages => Ok(Cost::shared(cost, pages)),
    };
    let count = |event| mm.stats().get(event);
    let (mut outs, mut ins) = (Samples::default(), Samples::default());
    for window in 0..WINDOWS as u64 {
        for page in 0..PAGES {
            fill(mm, &guest, page, window)?;
        }
        mm.lru_drain_all();
        let before = count(Event::PswpOut);
        let cost = meter.window(|| {
            mm.reclaim_proactively(None, PAGES);
            Ok(())
        })?;
        outs.add(each(cost, count(Event::PswpOut) - before)?.0);
        let before = count(Event::PswpIn);
        let cost = meter.window(|| guest.touch(PAGES, Access::Read))?;
        ins.add(each(cost, count(Event::PswpIn) - before)?.0);
    }
    Ok((Cost(outs.median()), Cost(ins.median())))
}

/// Writes the first half of a page: pointers that have much in common, and small
/// numbers, other ones in each window.
fn fill<P: Platform>(
    mm: &'static Mm<P>,
    guest: &Guest<'_, P>,
    page: u64,
    window: u64,
) -> Result<(), Why> {
    for part in 0..PAGE / 2 / PART as u64 {
        let mut bytes = [0; PART];
        let (records, _) = bytes.as_chunks_mut::<RECORD>();
        for (i, record) in (0..).zip(records) {
            let noise = (i + 64 * part + 1024 * page + window).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (words, _) = record.as_chunks_mut::<8>();
            words[0] = (0x7f00_0000_0000 + (noise >> 40 & 0xf_fff0)).to_le_bytes();
            words[1] = (noise >> 54).to_le_bytes();
        }
        let at = guest.va.add(page * PAGE + part * PART as u64);
        mm.write_space(guest.space()?, at, &bytes)?;
    }
    Ok(())
}
