//! `leaks`: who holds more memory than when it was marked. Calls `mm`'s page
//! owners.

use crate::console::{self, input};
use crate::platform::Machine;
use crate::task::Mutex;
use ::shell::{Errno, Error};
use core::panic::Location;
use mm::Mm;
use mm::owner::Holding;

/// Call sites that a mark can hold: as many as are told apart.
const SITES: usize = 512;

/// What each call site held when it was marked.
static MARK: Mutex<[Option<Holding>; SITES]> = Mutex::new([None; SITES]);

/// Whether two holdings are of one site.
fn is_same(a: Option<&Location<'_>>, b: Option<&Location<'_>>) -> bool {
    a.map(core::ptr::from_ref) == b.map(core::ptr::from_ref)
}

fn check(mm: &Mm<Machine>) -> Result<(), Error> {
    if mm.page_owner().is_on() {
        return Ok(());
    }
    Err(Error::new(Errno::EOPNOTSUPP, "owners are not recorded; boot with page_owner=on"))
}

/// Remembers what each call site holds.
pub(super) fn mark(mm: &Mm<Machine>) -> Result<(), Error> {
    check(mm)?;
    let mut mark = MARK.lock();
    mark.fill(None);
    let mut free = mark.iter_mut();
    let mut sites = 0;
    mm.for_each_holding(|holding| {
        if let Some(slot) = free.next() {
            *slot = Some(holding);
            sites += 1;
        }
    });
    console::print(format_args!("leaks: marked, {sites} call sites hold pages\n"));
    Ok(())
}

/// Says who holds more than then; than nothing if there was no mark.
pub(super) fn report(mm: &Mm<Machine>) -> Result<(), Error> {
    check(mm)?;
    let mark = MARK.lock();
    let (mut sites, mut sum) = (0, 0);
    mm.for_each_holding(|holding| {
        let then = mark.iter().flatten().find(|then| is_same(then.at, holding.at));
        let pages = holding.pages.saturating_sub(then.map_or(0, |then| then.pages));
        if pages == 0 || input::interrupted() {
            return;
        }
        let blocks = holding.blocks.saturating_sub(then.map_or(0, |then| then.blocks));
        sites += 1;
        sum += pages;
        match holding.at {
            Some(at) => console::print(format_args!(
                "{pages:>8} pages in {blocks} blocks: {}:{}\n",
                at.file(),
                at.line()
            )),
            None => console::print(format_args!("{pages:>8} pages in {blocks} blocks: others\n")),
        }
    });
    console::print(format_args!("leaks: {sum} pages more, of {sites} call sites\n"));
    Ok(())
}
