//! The blocks of a group one by one: getting, giving back, looking at them.
//! May call `mm`.

use super::promise::hopeless;
use crate::errno::{Errno, Error};
use crate::groups::{GONE, Group, Kind, Source};
use crate::lab::{Lab, Subject};
use crate::ledger::{Cursor, Ledger, List};
use crate::script::Random;
use crate::world::World;
use core::fmt;
use core::ptr::NonNull;
use mm::AllocError;
use mm::arena::Handle;
use mm::fault::FaultPlan;
use mm::gfp::{Gfp, Page, Request};
use mm::platform::Platform;
use mm::types::{CpuId, MigrateType, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, ZoneKind};

/// What is to be allocated, a block at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// Its order is that of the pages which it may come to.
    pub(crate) request: Request,
}

/// Why there are fewer blocks than were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Short {
    /// Nothing was left that the request may have.
    Empty(Error),
    /// Something else.
    Stopped(Error),
}

impl From<Short> for Error {
    fn from(short: Short) -> Self {
        match short {
            Short::Empty(error) | Short::Stopped(error) => error,
        }
    }
}

/// What a group's blocks have in common.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Seen {
    /// The first block's first frame.
    pub(crate) pfn: Option<Pfn>,
    /// The first block's node.
    pub(crate) node: Option<NodeId>,
    zone: Same<ZoneKind>,
    ty: Same<MigrateType>,
    pub(crate) pfmemalloc: bool,
}

/// A property of several: of none so far, of all, or not of all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Same<T> {
    #[default]
    None,
    All(T),
    Mixed,
}

impl<T: PartialEq + Copy> Same<T> {
    fn add(&mut self, value: T) {
        *self = match *self {
            Self::None => Self::All(value),
            Self::All(same) if same == value => *self,
            _ => Self::Mixed,
        };
    }

    fn name(self, name: impl Fn(T) -> &'static str) -> &'static str {
        match self {
            Self::None => "none",
            Self::All(value) => name(value),
            Self::Mixed => "mixed",
        }
    }
}

impl Seen {
    /// The zone that all blocks are in, or `mixed`.
    pub(crate) fn zone(&self) -> &'static str {
        self.zone.name(ZoneKind::name)
    }

    /// The type of the pageblocks that all blocks are in, or `mixed`.
    pub(crate) fn ty(&self) -> &'static str {
        self.ty.name(MigrateType::name)
    }
}

/// One block's words about itself.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pfn) = self.pfn {
            write!(f, ", pfn {pfn} zone {} type {}", self.zone(), self.ty())?;
        }
        f.write_str(if self.pfmemalloc { " pfmemalloc" } else { "" })
    }
}

impl<W: World> Subject<W> {
    /// Allocates one block; the word by which the group knows it.
    pub(crate) fn obtain(self, wanted: &Wanted) -> Result<u64, AllocError> {
        let (mm, Request { gfp, node, .. }) = (self.mm, wanted.request);
        let object = match wanted.kind {
            Kind::Movable(_) => {
                return Ok(self.arena.alloc_block(mm, wanted.request)?.to_bits());
            }
            Kind::Objects(Source::Cache(id)) => match node {
                Some(node) => mm.cache_alloc_node(id, gfp, node),
                None => mm.cache_alloc(id, gfp),
            },
            Kind::Objects(Source::General(size)) => match node {
                Some(node) => mm.kmalloc_node(size, gfp, node),
                None => mm.kmalloc(size, gfp),
            },
            _ => return Ok(mm.alloc_pages(wanted.request)?.pfn.0),
        }?;
        let at = object.as_ptr();
        let pfn = mm.platform().pfn_of(at).ok_or(AllocError::Invalid("not in RAM"))?;
        Ok(pfn.addr() + (at.addr() % PAGE_SIZE) as u64)
    }

    /// Bytes that the user of an object may write to.
    pub(crate) fn object_size(self, source: Source) -> usize {
        match source {
            Source::Cache(id) => self.mm.cache_info(id).map_or(0, |info| info.object_size as usize),
            Source::General(size) => size,
        }
    }

    /// Gives one block back.
    pub(crate) fn give_back(self, kind: Kind, word: u64) -> Result<(), Error> {
        let mm = self.mm;
        match kind {
            Kind::Pages(order) => Ok(mm.free_pages(Page { pfn: Pfn(word), order })?),
            Kind::Movable(_) => self
                .arena
                .free(mm, Handle::from_bits(word))
                .map_err(|_| Error::new(Errno::EIO, "the arena does not know the handle")),
            Kind::Contig(pages) => Ok(mm.free_contig_range(PfnRange::sized(Pfn(word), pages))?),
            Kind::Cma(area, pages) => Ok(mm.cma_release(area, PfnRange::sized(Pfn(word), pages))?),
            Kind::Objects(Source::Cache(id)) => Ok(mm.cache_free(id, self.object(word)?)?),
            Kind::Objects(Source::General(_)) => Ok(mm.kfree(self.object(word)?)?),
        }
    }

    /// Gives back what the arena does not need after blocks of `kind` went.
    pub(crate) fn trim(self, kind: Kind) {
        if matches!(kind, Kind::Movable(_)) {
            self.arena.trim_tables(self.mm);
        }
    }

    /// The frame that a block begins in at the moment.
    pub(crate) fn frame(self, kind: Kind, word: u64) -> Option<Pfn> {
        match kind {
            Kind::Movable(_) => self.arena.frame(self.mm, Handle::from_bits(word)).ok(),
            Kind::Objects(_) => Some(Pfn::containing(word)),
            _ => Some(Pfn(word)),
        }
    }

    /// The object at a physical address.
    pub(crate) fn object(self, addr: u64) -> Result<NonNull<u8>, Error> {
        let frame = self.mm.platform().frame(Pfn::containing(addr));
        let at = frame.wrapping_add((addr % PAGE_SIZE as u64) as usize);
        NonNull::new(at).ok_or(Error::new(Errno::EIO, "not an object"))
    }

    fn look(self, seen: &mut Seen, pfn: Pfn) {
        let Some(block) = self.mm.map().try_block(pfn) else { return };
        seen.pfn.get_or_insert(pfn);
        let zone = self.mm.zones().get(block.zone_index());
        seen.node.get_or_insert(block.node());
        seen.zone.add(zone.map_or(ZoneKind::Dma, |zone| zone.kind));
        seen.ty.add(block.migratetype());
        seen.pfmemalloc |= self.mm.is_pfmemalloc(pfn);
    }

    /// What there is to be seen of one block.
    pub(crate) fn seen_one(self, kind: Kind, word: u64) -> Seen {
        let mut seen = Seen::default();
        if let Some(pfn) = self.frame(kind, word) {
            self.look(&mut seen, pfn);
        }
        seen
    }

    /// What the blocks of a group have in common.
    pub(crate) fn seen(self, ledger: &mut Ledger, group: &Group) -> Seen {
        let mut seen = Seen::default();
        let mut cursor = Cursor::new(&group.list);
        while let Some((_, words)) = ledger.piece(self.mm, &mut cursor) {
            for &word in words.iter().filter(|&&word| word != GONE) {
                if let Some(pfn) = self.frame(group.kind, word) {
                    self.look(&mut seen, pfn);
                }
            }
        }
        seen
    }
}

impl<W: World> Lab<W> {
    /// Runs `work` as a CPU, or as the one that it happens to run on.
    ///
    /// # Errors
    /// EINVAL where there is no such CPU.
    pub(crate) fn at_cpu(
        world: &mut W,
        cpu: Option<CpuId>,
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        match cpu {
            Some(cpu) => world.on_cpu(cpu, work),
            None => {
                work();
                Ok(())
            }
        }
    }

    /// Allocates up to `count` blocks into `list`, until `enough` says so.
    ///
    /// # Errors
    /// What kept it from more; what is in the list by then stays there.
    pub(crate) fn obtain_all(
        &mut self,
        on: Subject<W>,
        wanted: &Wanted,
        list: &mut List,
        count: u64,
        cpu: Option<CpuId>,
        enough: &dyn Fn() -> bool,
    ) -> Result<(), Short> {
        let mut left = count;
        while left > 0 {
            self.go_on().map_err(Short::Stopped)?;
            self.ledger.reserve(on.mm, list).map_err(Short::Empty)?;
            let piece = left.min(Ledger::room(list) as u64);
            let ledger = &mut self.ledger;
            let mut result = Ok(true);
            Self::at_cpu(&mut self.world, cpu, &mut || {
                for _ in 0..piece {
                    if enough() {
                        result = Ok(false);
                        return;
                    }
                    match on.obtain(&on.within_reach(*wanted)) {
                        Ok(word) => {
                            let noted = ledger.push(on.mm, list, word);
                            debug_assert!(noted, "a place was reserved");
                        }
                        Err(why) => {
                            let error = hopeless(wanted.request.gfp, why.into());
                            let empty = why == AllocError::NoMemory;
                            let short = if empty { Short::Empty } else { Short::Stopped };
                            result = Err(short(error));
                            return;
                        }
                    }
                }
            })
            .map_err(Short::Stopped)?;
            if !result? {
                return Ok(());
            }
            left -= piece;
        }
        Ok(())
    }

    /// Gives all blocks of a list back, and the list itself.
    ///
    /// # Errors
    /// The first that the manager refused; all others have been given back.
    pub(crate) fn give_back_all(
        &mut self,
        on: Subject<W>,
        kind: Kind,
        list: &mut List,
        cpu: Option<CpuId>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        let mut cursor = Cursor::new(list);
        while let Some((_, words)) = self.ledger.piece(on.mm, &mut cursor) {
            let mut free = || {
                for word in words.iter_mut().filter(|word| **word != GONE) {
                    let freed = on.give_back(kind, core::mem::replace(word, GONE));
                    result = result.and(freed);
                }
            };
            if Self::at_cpu(&mut self.world, cpu, &mut free).is_err() {
                // Wherever it runs: it has to be done.
                free();
            }
        }
        self.ledger.clear(on.mm, list);
        on.trim(kind);
        result
    }

    /// Gives back all groups and caches and switches everything off, whatever
    /// becomes of it.
    pub(crate) fn release_all(&mut self, on: Subject<W>) {
        on.mm.set_faults(FaultPlan::Off);
        if core::mem::take(&mut self.memalloc) {
            self.world.set_memalloc(false);
        }
        self.notes.clear();
        self.quiet = false;
        self.random = Random::FIRST;
        self.forget_spaces(on);
        self.switch_all_off(on);
        while let Some(mut group) = self.groups.take_any() {
            // What the manager refuses it has logged.
            let _ = self.give_back_all(on, group.kind, &mut group.list, None);
        }
        while let Some(cache) = self.caches.take_any() {
            let _ = on.mm.cache_destroy(cache.id);
        }
    }

    /// Prints what a group is.
    pub(crate) fn print_group(&mut self, on: Subject<W>, group: &Group) {
        let seen = on.seen(&mut self.ledger, group);
        let (name, live) = (group.name, group.live);
        match group.kind {
            Kind::Pages(order) | Kind::Movable(order) => {
                self.print(format_args!("-> {name}: {live} x order {order}{seen}\n"));
            }
            Kind::Contig(pages) | Kind::Cma(_, pages) => {
                self.print(format_args!("-> {name}: {live} x {pages} pages{seen}\n"));
            }
            Kind::Objects(source) => {
                let size = on.object_size(source);
                self.print(format_args!("-> {name}: {live} x {size} bytes{seen}\n"));
            }
        }
    }

    /// Adds a group and says so.
    pub(crate) fn settle(&mut self, on: Subject<W>, group: Group) {
        self.groups.add(group);
        self.print_group(on, &group);
    }
}

/// The order of blocks.
///
/// # Errors
/// EINVAL above 10.
pub(crate) fn order(word: &str) -> Result<Order, Error> {
    let order = Order(crate::parse::small(word)?);
    if order > mm::types::MAX_ORDER {
        return Err(Error::new(Errno::EINVAL, "orders go from 0 to 10").about(word));
    }
    Ok(order)
}

/// The kind of group that blocks of `order` with `gfp` make.
pub(crate) fn kind_of(order: Order, gfp: Gfp) -> Kind {
    if gfp.contains(Gfp::MOVABLE) { Kind::Movable(order) } else { Kind::Pages(order) }
}
