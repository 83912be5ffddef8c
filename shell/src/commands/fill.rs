//! `fill` and `punch`. May call `mm`.

use super::blocks::{Short, Wanted, kind_of, order};
use crate::errno::{Errno, Error};
use crate::gfp::gfp;
use crate::groups::{GONE, Kind};
use crate::lab::{Done, Lab};
use crate::ledger::{Cursor, List};
use crate::parse::{Args, count};
use crate::world::World;
use mm::Gfp;
use mm::gfp::{AllocFlags, Request};
use mm::types::Order;
use mm::zone::Mark;

/// Where a `fill` ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    /// After so many blocks.
    Blocks(u64),
    /// When no zone is above that mark.
    Mark(Mark),
    /// When nothing is left that the request may have.
    Empty,
}

impl<W: World> Lab<W> {
    pub(super) fn fill(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "fill NAME GFP [order=O] [pages=N | until=high|low|min|empty]";
        let on = self.subject()?;
        let name = args.need(FORM)?;
        let gfp = gfp(args.need(FORM)?)?;
        let order = args.option("order").map_or(Ok(Order(0)), order)?;
        let pages = args.option("pages").map(count).transpose()?;
        let until = args.option("until");
        let node = self.node(on, &mut args)?;
        let cpu = Self::cpu(on, &mut args)?;
        args.done()?;
        let until = match (pages, until) {
            (Some(pages), None) => Until::Blocks(pages.div_ceil(order.pages())),
            (None, Some("high")) => Until::Mark(Mark::High),
            (None, Some("low")) => Until::Mark(Mark::Low),
            (None, Some("min")) => Until::Mark(Mark::Min),
            (None, None | Some("empty")) => Until::Empty,
            _ => return Err(Error::new(Errno::EINVAL, FORM).into()),
        };
        let name = self.new_group_name(name)?;
        if gfp.contains(Gfp::NOFAIL) {
            let why = "a fill ends by failing, and NOFAIL does not fail";
            return Err(Error::new(Errno::EINVAL, why).into());
        }
        // It is meant to come to its end: no report is wanted of that.
        let request = Request { order, gfp: gfp | Gfp::NOWARN, node };
        let wanted = Wanted { kind: kind_of(order, gfp), request };
        let blocks = match until {
            Until::Blocks(n) => n,
            _ => u64::MAX,
        };
        if blocks != u64::MAX {
            super::pages::sane(on.mm.managed_pages(), blocks, order)?;
        }
        let enough = || match until {
            Until::Mark(mark) => !on.above(&wanted, Order(0), mark, AllocFlags::empty()),
            _ => false,
        };
        let mut list = List::NEW;
        let filled = self.obtain_all(on, &wanted, &mut list, blocks, cpu, &enough);
        match filled {
            Err(Short::Empty(_)) if !matches!(until, Until::Blocks(_)) => {}
            Err(short) => {
                self.give_back_all(on, wanted.kind, &mut list, cpu)?;
                return Err(Error::from(short).into());
            }
            Ok(()) => {}
        }
        self.keep(on, name, wanted.kind, list);
        Ok(())
    }

    pub(super) fn punch(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "punch NAME every=K [cpu=N]";
        let on = self.subject()?;
        let name = args.need(FORM)?;
        let every = args.option("every").ok_or(Error::new(Errno::EINVAL, FORM)).and_then(count)?;
        let cpu = Self::cpu(on, &mut args)?;
        args.done()?;
        let group = *self.groups.find(name)?;
        if matches!(group.kind, Kind::Contig(_) | Kind::Cma(..)) {
            return Err(Error::new(Errno::EINVAL, "a contiguous range is one block").into());
        }
        let (mut number, mut freed, mut result) = (0, 0, Ok(()));
        let mut cursor = Cursor::new(&group.list);
        while let Some((_, words)) = self.ledger.piece(on.mm, &mut cursor) {
            let mut punch = || {
                for word in words.iter_mut().filter(|word| **word != GONE) {
                    number += 1;
                    if number % every != 0 {
                        continue;
                    }
                    match on.give_back(group.kind, *word) {
                        Ok(()) => {
                            *word = GONE;
                            freed += 1;
                        }
                        Err(why) => result = result.and(Err(why)),
                    }
                }
            };
            Self::at_cpu(&mut self.world, cpu, &mut punch)?;
        }
        on.trim(group.kind);
        let group = self.groups.find(name)?;
        group.live -= freed;
        let group = *group;
        result?;
        self.print_group(on, &group);
        Ok(())
    }
}
