//! The store, checked: each object is in one place and says whose it is, each
//! page is on the list for its room, and every figure equals what it counts.
//! Calls `store`.

use crate::device::Zram;
use crate::leaf::{ENTRY, Kind, Shape};
use crate::store::{Figures, NOTHING, Place, Store, ZERO, list_for};
use crate::words;
use mm::Mm;
use mm::audit::AuditError;
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{PAGE_SIZE, Pfn};

/// What an audit that found nothing wrong looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Audit {
    /// Slots that hold something.
    pub slots: u64,
    /// Pages of the store.
    pub pages: u64,
    /// Pieces of objects in them.
    pub pieces: u64,
    /// Bytes in them that are neither data nor directory.
    pub free: u64,
    /// Pages that are about to be moved.
    pub isolated: u64,
}

fn equal(
    what: &'static str,
    pfn: Option<Pfn>,
    expected: u64,
    found: u64,
) -> Result<(), AuditError> {
    if expected == found { Ok(()) } else { Err(AuditError { what, pfn, expected, found }) }
}

fn holds(what: &'static str, pfn: Pfn, truth: bool) -> Result<(), AuditError> {
    equal(what, Some(pfn), 1, u64::from(truth))
}

impl<P: Platform> Zram<P> {
    /// Checks everything, with the store locked meanwhile. Others may use the
    /// device, except for pages that are just being added to it, which count as
    /// nobody's. Interrupts on, no lock held.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn audit(&self, mm: &Mm<P>) -> Result<Audit, AuditError> {
        let mut store = self.lock(mm);
        let mut audit = Audit::default();
        let mut listed = 0;
        for number in 0..store.numbers {
            let Some(pfn) = store.frame(mm, number) else { continue };
            audit.pages += 1;
            listed += store.audit_page(mm, number, pfn, &mut audit)?;
        }
        let named = store.audit_slots(mm, &mut audit)?;
        equal("pieces that slots name", None, audit.pieces, named)?;
        store.audit_lists(mm, listed)?;
        store.audit_figures(mm, &audit)?;
        Ok(audit)
    }
}

impl Store {
    /// Checks a page and what is in it; 1 if it ought to be on a list.
    fn audit_page<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        number: u32,
        pfn: Pfn,
        audit: &mut Audit,
    ) -> Result<u64, AuditError> {
        let nowhere =
            AuditError { what: "a page of the store", pfn: Some(pfn), expected: 1, found: 0 };
        let desc = mm.map().try_page(pfn).ok_or(nowhere)?;
        holds("type of a page of the store", pfn, desc.head().ty() == PageType::Movable)?;
        equal("number of a page", Some(pfn), number.into(), desc.index().into())?;
        let shape = Shape::unpack(desc.private());
        holds("a page that holds something", pfn, shape.entries > 0)?;
        let (mut used, mut taken) = (0, [0u64; PAGE_SIZE / 64]);
        for index in 0..shape.entries {
            let (_, entry) = self.entry(mm, Place { number, index }).ok_or(nowhere)?;
            holds("kind of a piece", pfn, entry.kind.is_some())?;
            let (at, len) = (usize::from(entry.at), usize::from(entry.len));
            holds("a piece that ends before the room", pfn, at + len <= usize::from(shape.end))?;
            for byte in at..at + len {
                holds("a byte of one piece", pfn, taken[byte / 64] & 1 << (byte % 64) == 0)?;
                taken[byte / 64] |= 1 << (byte % 64);
            }
            used += len + ENTRY;
            audit.pieces += 1;
        }
        let found = used as u64 + u64::from(shape.free);
        equal("bytes used and free of a page", Some(pfn), PAGE_SIZE as u64, found)?;
        let directory = PAGE_SIZE - ENTRY * usize::from(shape.entries);
        holds("data before the directory", pfn, usize::from(shape.end) <= directory)?;
        audit.free += u64::from(shape.free);
        let off = desc.inuse() != 0;
        audit.isolated += u64::from(off);
        Ok(u64::from(!off && list_for(shape).is_some()))
    }

    /// Checks that what slots name is there; how many pieces that are.
    fn audit_slots<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        audit: &mut Audit,
    ) -> Result<u64, AuditError> {
        let (mut named, mut compressed, mut same) = (0, 0, 0);
        let mut slot = self.slots.next_present(mm, 0);
        while slot < words::MOST {
            let name = self.slots.get(mm, slot).unwrap_or(NOTHING);
            let lost = AuditError {
                what: "an object that a slot names",
                pfn: None,
                expected: slot.into(),
                found: name.into(),
            };
            match name {
                NOTHING => {}
                ZERO => same += 1,
                name => {
                    let mut pieces = 0;
                    let (mut kind, mut bytes) = (Kind::Whole, 0);
                    // Finds all parts, each of which says whose it is.
                    let whole = self.parts(mm, slot, name, |_, of, data| {
                        (kind, bytes, pieces) = (of, bytes + data.len() as u64, pieces + 1);
                        Some(())
                    });
                    whole.map_err(|_| lost)?;
                    match kind {
                        Kind::Fill => {
                            equal("bytes of a word", None, 8, bytes)?;
                            same += 1;
                        }
                        _ => compressed += bytes,
                    }
                    named += pieces;
                }
            }
            audit.slots += u64::from(name != NOTHING);
            slot = self.slots.next_present(mm, slot + 1);
        }
        equal("bytes compressed", None, compressed, self.figures.compressed)?;
        equal("pages of one word", None, same, self.figures.same)?;
        Ok(named)
    }

    fn audit_lists<P: Platform>(&self, mm: &Mm<P>, expected: u64) -> Result<(), AuditError> {
        let (mut pages, mut free) = (0, 0);
        for (i, pfn) in self.listed_pages(mm) {
            let nowhere =
                AuditError { what: "a listed page", pfn: Some(pfn), expected: 1, found: 0 };
            let desc = self.own(mm, pfn).ok_or(nowhere)?;
            let shape = Shape::unpack(desc.private());
            holds("a listed page that is not isolated", pfn, desc.inuse() == 0)?;
            equal("list of a page", Some(pfn), i as u64, list_for(shape).map_or(99, |i| i as u64))?;
            pages += 1;
            free += u64::from(shape.free);
        }
        equal("listed pages", None, expected, pages)?;
        equal("room of listed pages", None, free, self.listed_free)
    }

    fn audit_figures<P: Platform>(&self, mm: &Mm<P>, audit: &Audit) -> Result<(), AuditError> {
        let Figures { stored, pages, tables, most, .. } = self.figures;
        equal("slots in use", None, audit.slots, stored)?;
        equal("pages of the store", None, audit.pages, pages)?;
        let numbers = u64::from(self.numbers - self.free_numbers(mm));
        // Numbers that were taken for pages on their way are neither.
        holds("page numbers in use", Pfn(0), numbers >= pages)?;
        equal("pages of tables", None, self.slots.pages(mm) + self.pages.pages(mm), tables)?;
        holds("the most pages", Pfn(0), most >= pages + tables)
    }
}
