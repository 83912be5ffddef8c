//! Contiguous ranges of any length. May call `mm`.

use crate::errno::{Errno, Error};
use crate::gfp::gfp;
use crate::groups::Kind;
use crate::lab::{Done, Lab, Subject};
use crate::ledger::List;
use crate::parse::{Args, count, number, small};
use crate::world::World;
use mm::Gfp;
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::types::{Order, Pfn, PfnRange};

impl<W: World> Lab<W> {
    pub(super) fn contig(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "contig NAME PAGES [GFP] [align=PAGES] [node=N]";
        let on = self.subject()?;
        let name = args.need(FORM)?;
        let pages = count(args.need(FORM)?)?;
        let gfp = args.next().map_or(Ok(Gfp::KERNEL), gfp)?;
        let align = args.option("align").map_or(Ok(1), count)?;
        let node = self.node(on, &mut args)?;
        args.done()?;
        let name = self.new_group_name(name)?;
        if !align.is_power_of_two() {
            return Err(Error::new(Errno::EINVAL, "the alignment is no power of two").into());
        }
        super::pages::sane(on.mm.managed_pages(), pages, Order(0))?;
        let align = Order::for_pages(align);
        let gfp = gfp - Gfp::NOFAIL;
        let mut list = List::NEW;
        self.take(on, &mut list, || on.mm.alloc_contig_pages(pages, align, node, Pfn(0), gfp))?;
        self.keep(on, name, Kind::Contig(pages), list);
        Ok(())
    }

    pub(super) fn cma(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "cma NAME PAGES [area=AREA] [align=ORDER]";
        let on = self.subject()?;
        let name = args.need(FORM)?;
        let pages = count(args.need(FORM)?)?;
        let area = args.option("area").unwrap_or("default");
        let align = Order(args.option("align").map_or(Ok(0), small)?);
        args.done()?;
        let name = self.new_group_name(name)?;
        let area = area_named(on, area)?;
        super::pages::sane(on.mm.managed_pages(), pages, Order(0))?;
        let mut list = List::NEW;
        self.take(on, &mut list, || on.mm.cma_alloc(area, pages, align, Gfp::KERNEL))?;
        self.keep(on, name, Kind::Cma(area, pages), list);
        Ok(())
    }

    /// Notes down the one range that `alloc` gives.
    fn take(
        &mut self,
        on: Subject<W>,
        list: &mut List,
        alloc: impl FnOnce() -> Result<PfnRange, ContigError>,
    ) -> Result<(), Error> {
        self.ledger.reserve(on.mm, list)?;
        match alloc() {
            Ok(range) => {
                let noted = self.ledger.push(on.mm, list, range.start.0);
                debug_assert!(noted, "a place was reserved");
                Ok(())
            }
            Err(why) => {
                self.ledger.clear(on.mm, list);
                Err(why.into())
            }
        }
    }
}

/// A contiguous area by its number, or `default`.
///
/// # Errors
/// ENOENT; EINVAL for what is no number.
fn area_named<W: World>(on: Subject<W>, word: &str) -> Result<CmaId, Error> {
    let missing = Error::new(Errno::ENOENT, "no such contiguous area").about(word);
    let index = if word == "default" { 0 } else { number(word)? };
    let index = usize::try_from(index).map_err(|_| missing)?;
    on.mm.cma_areas().nth(index).map(|(id, _)| id).ok_or(missing)
}
