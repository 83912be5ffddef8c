//! Groups of objects. May call `mm`.

use super::blocks::Wanted;
use crate::errno::{Errno, Error};
use crate::gfp::gfp;
use crate::groups::{Kind, Source};
use crate::lab::{Done, Lab, Subject};
use crate::ledger::List;
use crate::parse::{Args, count, indexed, small};
use crate::world::World;
use mm::Gfp;
use mm::gfp::Request;
use mm::types::{COSTLY_ORDER, MAX_ORDER, Order};

impl<W: World> Lab<W> {
    pub(super) fn kalloc(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "kalloc NAME CACHE [GFP] [count=N] [node=N] [cpu=N]";
        let on = self.subject()?;
        let name = args.need(FORM)?;
        let source = args.need(FORM)?;
        let gfp = args.next().map_or(Ok(Gfp::KERNEL), gfp)?;
        let count = args.option("count").map_or(Ok(1), count)?;
        let node = self.node(on, &mut args)?;
        let cpu = Self::cpu(on, &mut args)?;
        args.done()?;
        let name = self.new_group_name(name)?;
        let source = self.source(on, source)?;
        if gfp.contains(Gfp::MOVABLE) {
            return Err(Error::new(Errno::EINVAL, "objects cannot be moved").into());
        }
        let order = slab_order(on, source);
        // An object has 8 bytes at least.
        super::pages::sane(on.mm.managed_pages().saturating_mul(512), count, Order(0))?;
        let wanted = Wanted { kind: Kind::Objects(source), request: Request { order, gfp, node } };
        let mut list = List::NEW;
        if let Err(why) = self.obtain_all(on, &wanted, &mut list, count, cpu, &|| false) {
            self.give_back_all(on, wanted.kind, &mut list, cpu)?;
            return Err(Error::from(why).into());
        }
        self.keep(on, name, wanted.kind, list);
        Ok(())
    }

    /// Where objects are to come from: a cache of the lab's, a general cache by
    /// its name, or a size.
    fn source(&self, on: Subject<W>, word: &str) -> Result<Source, Error> {
        if let Ok(entry) = self.caches.find(word) {
            return Ok(Source::Cache(entry.id));
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let size = small(word)?;
            if size == 0 {
                return Err(Error::new(Errno::EINVAL, "no bytes at all"));
            }
            return Ok(Source::General(size));
        }
        let general = word
            .strip_prefix("kmalloc-")
            .filter(|size| size.starts_with(|c: char| c.is_ascii_digit()));
        let info = general.and_then(|_| on.mm.caches().find(|info| info.name() == word));
        let info = info.ok_or_else(|| Error::new(Errno::ENOENT, "no such cache").about(word))?;
        Ok(Source::General(info.object_size as usize))
    }

    pub(super) fn kfree(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "kfree NAME | NAME[I] [cpu=N]";
        let on = self.subject()?;
        let (name, index) = indexed(args.need(FORM)?)?;
        let cpu = Self::cpu(on, &mut args)?;
        args.done()?;
        let group = *self.groups.find(name)?;
        if !matches!(group.kind, Kind::Objects(_)) {
            return Err(Error::new(Errno::EINVAL, "pages are given back by free").into());
        }
        Ok(self.drop_from(on, group, index, cpu)?)
    }
}

/// The largest block of pages that an object's allocation may need.
fn slab_order<W: World>(on: Subject<W>, source: Source) -> Order {
    let order = match source {
        Source::Cache(id) => on
            .mm
            .cache_info(id)
            .map_or(MAX_ORDER, |info| Order::for_pages(u64::from(info.pagesperslab))),
        // Slabs of the general caches have 2 pages at most; beyond, it is a
        // block to itself.
        Source::General(size) => Order::for_bytes(size).max(COSTLY_ORDER),
    };
    order.min(MAX_ORDER)
}
