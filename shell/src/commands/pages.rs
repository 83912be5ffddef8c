//! Groups of pages. May call `mm`.

use super::blocks::{Wanted, kind_of, order};
use crate::errno::{Errno, Error};
use crate::gfp::gfp;
use crate::groups::{GONE, Group, Kind};
use crate::lab::{Done, Lab, Subject};
use crate::ledger::List;
use crate::name::Name;
use crate::parse::{Args, count, indexed, small};
use crate::world::World;
use mm::gfp::{Gfp, Request};
use mm::types::{CpuId, NodeId, Order};

impl<W: World> Lab<W> {
    pub(super) fn alloc(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "alloc NAME ORDER [GFP] [count=N] [node=N] [cpu=N]";
        let on = self.subject()?;
        let name = args.need(FORM)?;
        let order = order(args.need(FORM)?)?;
        let gfp = args.next().map_or(Ok(Gfp::KERNEL), gfp)?;
        let count = args.option("count").map_or(Ok(1), count)?;
        let node = self.node(on, &mut args)?;
        let cpu = Self::cpu(on, &mut args)?;
        args.done()?;
        let name = self.new_group_name(name)?;
        let wanted = Wanted { kind: kind_of(order, gfp), request: Request { order, gfp, node } };
        sane(on.mm.managed_pages(), count, order)?;
        let mut list = List::NEW;
        if let Err(why) = self.obtain_all(on, &wanted, &mut list, count, cpu, &|| false) {
            self.give_back_all(on, wanted.kind, &mut list, cpu)?;
            return Err(Error::from(why).into());
        }
        self.keep(on, name, wanted.kind, list);
        Ok(())
    }

    pub(super) fn list(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        let on = self.subject()?;
        for at in 0..crate::groups::GROUPS_MAX {
            if let Some(group) = self.groups.at(at) {
                self.go_on()?;
                self.print_group(on, &group);
            }
        }
        self.list_caches(on);
        self.list_spaces();
        Ok(())
    }

    /// Makes a group of a list of blocks and says so.
    pub(super) fn keep(&mut self, on: Subject<W>, name: Name, kind: Kind, list: List) {
        self.settle(on, Group { name, kind, list, live: list.len(), touched: false });
    }

    pub(super) fn free(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "free NAME | NAME[I] [cpu=N]";
        let on = self.subject()?;
        let (name, index) = indexed(args.need(FORM)?)?;
        let cpu = Self::cpu(on, &mut args)?;
        args.done()?;
        if let (Some(space), None) = (self.spaces.find(name), index) {
            self.forget_space(on, space);
            return Ok(());
        }
        let group = *self.groups.find(name)?;
        if matches!(group.kind, Kind::Objects(_)) {
            return Err(Error::new(Errno::EINVAL, "objects are given back by kfree").into());
        }
        Ok(self.drop_from(on, group, index, cpu)?)
    }

    /// Gives a group back, or one block of it.
    pub(super) fn drop_from(
        &mut self,
        on: Subject<W>,
        group: Group,
        index: Option<u64>,
        cpu: Option<CpuId>,
    ) -> Result<(), Error> {
        let Some(index) = index else {
            let mut list = group.list;
            self.groups.remove(&group.name);
            return self.give_back_all(on, group.kind, &mut list, cpu);
        };
        let word = self.ledger.at(on.mm, &group.list, index).filter(|word| **word != GONE);
        let Some(word) = word else {
            let why = Error::new(Errno::ENOENT, "the group has no such block");
            return Err(why.about(format_args!("{}[{index}]", group.name)));
        };
        let mut freed = Ok(());
        let mut free = || freed = on.give_back(group.kind, *word);
        Self::at_cpu(&mut self.world, cpu, &mut free)?;
        freed?;
        *word = GONE;
        on.trim(group.kind);
        self.groups.find(group.name.as_str())?.live -= 1;
        Ok(())
    }

    /// The option `node=N`.
    ///
    /// # Errors
    /// EINVAL where there is no such node.
    pub(super) fn node(
        &self,
        on: Subject<W>,
        args: &mut Args<'_>,
    ) -> Result<Option<NodeId>, Error> {
        args.option("node").map(|word| on.node(word)).transpose()
    }

    /// The option `cpu=N`.
    ///
    /// # Errors
    /// EINVAL where there is no such CPU.
    pub(super) fn cpu(on: Subject<W>, args: &mut Args<'_>) -> Result<Option<CpuId>, Error> {
        use mm::platform::Platform;
        let Some(word) = args.option("cpu") else { return Ok(None) };
        let cpu: u16 = small(word)?;
        if cpu >= on.mm.platform().cpus() {
            return Err(Error::new(Errno::EINVAL, "no such CPU").about(word));
        }
        Ok(Some(CpuId(cpu)))
    }
}

impl<W: World> Subject<W> {
    /// The node of that number.
    ///
    /// # Errors
    /// EINVAL where there is no such node.
    pub(super) fn node(self, word: &str) -> Result<NodeId, Error> {
        let node: u8 = small(word)?;
        if usize::from(node) >= self.mm.nodes() {
            return Err(Error::new(Errno::EINVAL, "no such node").about(word));
        }
        Ok(NodeId(node))
    }
}

/// # Errors
/// ENOMEM for more blocks than a machine of that many pages can ever have.
pub(super) fn sane(managed: u64, blocks: u64, order: Order) -> Result<(), Error> {
    if blocks.saturating_mul(order.pages()) > managed {
        return Err(Error::new(Errno::ENOMEM, "more than the machine has"));
    }
    Ok(())
}
