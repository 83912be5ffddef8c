//! The slow path: what an allocation does when the lists above the low mark
//! have nothing for it, in Linux's order (mm/page_alloc.c,
//! `__alloc_pages_slowpath`). Room is made through the `Pressure` hook only.
//! May call: `alloc`, `pressure`.

use crate::alloc::Reserves;
use crate::buddy::Buddy;
use crate::gfp::{AllocError, AllocFlags, Gfp, Request};
use crate::mm::Mm;
use crate::platform::{Context, LogLevel, Platform};
use crate::pressure::{Attempt, CompactPriority, CompactResult, Pressure, Relief};
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{COSTLY_ORDER, MigrateType, Order, Pfn, ZoneKind};
use crate::zone::{Mark, Zone};

/// Rounds of reclaim or compaction without result before giving up.
const MAX_RETRIES: u32 = 16;

/// What the slow path remembers from round to round.
struct Effort {
    idle_reclaims: u32,
    /// Rounds that freed something though the lists of what could be reclaimed
    /// promised too little: shrinkers gave it.
    lucky_reclaims: u32,
    compactions: u32,
    priority: CompactPriority,
    /// Rounds in which only others could have freed something.
    hopes: u32,
}

impl<P: Platform> Mm<P> {
    /// Rights of the slow path: what the caller may claim at the min mark.
    pub(crate) fn slow_flags(&self, attempt: &Attempt, context: Context) -> AllocFlags {
        let gfp = attempt.request.gfp;
        let mut flags = attempt.flags & (AllocFlags::CMA | AllocFlags::KSWAPD);
        flags |= attempt.flags & AllocFlags::NOFRAGMENT;
        if gfp.contains(Gfp::HIGH) {
            flags |= AllocFlags::MIN_RESERVE;
        }
        if gfp.can_block() {
            if context.rt && !context.in_irq {
                flags |= AllocFlags::MIN_RESERVE;
            }
        } else if !gfp.contains(Gfp::NOMEMALLOC) {
            flags |= AllocFlags::NON_BLOCK;
            if attempt.request.order.0 > 0 && flags.contains(AllocFlags::MIN_RESERVE) {
                flags |= AllocFlags::HIGHATOMIC;
            }
        }
        flags
    }

    /// How deep this caller may dig when its ordinary rights are not enough.
    pub(crate) fn reserves(gfp: Gfp, context: Context) -> Reserves {
        if gfp.contains(Gfp::NOMEMALLOC) {
            Reserves::No
        } else if gfp.contains(Gfp::MEMALLOC) || context.memalloc && !context.in_irq {
            Reserves::All
        } else if context.oom_victim && !context.in_irq {
            Reserves::Oom
        } else {
            Reserves::No
        }
    }

    /// Allocates when the first walk found nothing. Returned with the block:
    /// whether only the reserves made it possible.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(&self, first: &Attempt) -> Result<(Pfn, bool), AllocError> {
        let Request { order, gfp, .. } = first.request;
        let counts = order.0 == 0 && gfp.contains(Gfp::KERNEL);
        let began = if counts { self.platform.now_ms() } else { 0 };
        let result = self.try_slow(first);
        if counts {
            let waited = self.platform.now_ms().saturating_sub(began);
            self.tunables.longest_wait_ms.fetch_max(waited, Relaxed);
        }
        result
    }

    /// The longest that a request for one page with the rights of GFP_KERNEL has
    /// waited since boot, or since [`reset_longest_wait`](Self::reset_longest_wait),
    /// in milliseconds; whether it was served does not matter. Any context.
    pub fn longest_wait_ms(&self) -> u64 {
        self.tunables.longest_wait_ms.load(Relaxed)
    }

    /// Begins anew with [`longest_wait_ms`](Self::longest_wait_ms).
    pub fn reset_longest_wait(&self) {
        self.tunables.longest_wait_ms.store(0, Relaxed);
    }

    fn try_slow(&self, first: &Attempt) -> Result<(Pfn, bool), AllocError> {
        let gfp = first.request.gfp;
        let order = first.request.order;
        // What this CPU has put by is its to give, whoever asks; what others
        // have is called in only when reclaim has been tried.
        let drained = self.zones_for(first).filter(|zone| self.drain_large(zone)).count();
        if drained > 0
            && let Some(found) = self.walk(first, Some(Mark::Low), Reserves::No)
        {
            return Ok(found);
        }
        let context = self.platform.context();
        let can_block = gfp.can_block();
        let costly = order > COSTLY_ORDER;
        let attempt = Attempt { flags: self.slow_flags(first, context), ..*first };
        let reserves = Self::reserves(gfp, context);
        self.wake_kswapds(&attempt);
        if let Some(found) = self.walk(&attempt, Some(Mark::Min), Reserves::No) {
            return Ok(found);
        }

        let mut effort = Effort {
            idle_reclaims: 0,
            lucky_reclaims: 0,
            compactions: 0,
            priority: CompactPriority::SyncLight,
            hopes: 0,
        };
        // Compaction first where contiguity, not memory, is likely to be short.
        let wants_block =
            order > COSTLY_ORDER || order.0 > 0 && attempt.migratetype != MigrateType::Movable;
        if can_block && wants_block && reserves == Reserves::No {
            let (result, found) = self.compact_and_walk(&attempt, CompactPriority::Async);
            if let Some(found) = found {
                return Ok(found);
            }
            if costly && gfp.contains(Gfp::NORETRY) {
                // Reclaiming a whole zone for one large block that may well
                // fail all the same is not worth it.
                let hopeless = matches!(result, CompactResult::Skipped | CompactResult::Deferred);
                if hopeless || gfp.contains(Gfp::THISNODE) {
                    return self.fail(&attempt);
                }
                // Nor is a search that waits.
                effort.priority = CompactPriority::Async;
            }
        }

        loop {
            self.wake_kswapds(&attempt);
            // Somebody may have chosen the caller meanwhile.
            let reserves = Self::reserves(gfp, self.platform.context());
            if let Some(found) = self.walk(&attempt, Some(Mark::Min), reserves) {
                return Ok(found);
            }
            if !can_block {
                return self.nofail_or(&attempt, reserves, false);
            }
            // A task that frees memory must not wait for memory to be freed.
            if context.memalloc {
                return self.nofail_or(&attempt, reserves, true);
            }

            let reclaimed = self.direct_reclaim(&attempt);
            if let Some(found) = self.after_reclaim(&attempt, reserves, reclaimed) {
                return Ok(found);
            }
            let (compacted, found) = self.compact_and_walk(&attempt, effort.priority);
            if let Some(found) = found {
                return Ok(found);
            }

            if gfp.contains(Gfp::NORETRY) {
                return self.fail(&attempt);
            }
            if costly && !gfp.contains(Gfp::RETRY_MAYFAIL) {
                return self.nofail_or(&attempt, reserves, true);
            }
            // Compaction needs free pages to move others to: where nothing can be
            // reclaimed it gets no further by trying harder.
            if self.retry_reclaim(&attempt, &mut effort, reclaimed)
                || reclaimed > 0 && self.retry_compact(&attempt, &mut effort, compacted)
            {
                continue;
            }

            if self.platform.context().oom_victim {
                if let Some(found) = self.walk(&attempt, Some(Mark::High), Reserves::No) {
                    return Ok(found);
                }
                // Who is to die himself has nobody killed: he gets what there is for
                // such, once, and if that is nothing he need not go on.
                if Self::reserves(gfp, self.platform.context()) != reserves {
                    continue;
                }
                return self.nofail_or(&attempt, reserves, true);
            }
            match self.last_resort(&attempt) {
                Ok(found) => return Ok(found),
                Err(Relief::Freed) => effort.idle_reclaims = 0,
                // Not for ever: all of them may be waiting for others.
                Err(Relief::Others) if effort.hopes < MAX_RETRIES => effort.hopes += 1,
                Err(_) => return self.nofail_or(&attempt, reserves, true),
            }
        }
    }

    /// The zones with memory that an attempt may use, best first.
    pub(crate) fn zones_for(&self, attempt: &Attempt) -> impl Iterator<Item = &Zone> {
        let Request { gfp, node, .. } = attempt.request;
        let node = node.unwrap_or_default();
        let elsewhere_too = !gfp.contains(Gfp::THISNODE);
        self.zonelist(node, attempt.class)
            .filter(move |z| z.managed() > 0 && (elsewhere_too || z.node == node))
    }

    fn wake_kswapds(&self, attempt: &Attempt) {
        if !attempt.request.gfp.contains(Gfp::KSWAPD_RECLAIM) {
            return;
        }
        let mut last = None;
        for zone in self.zones_for(attempt) {
            if last != Some(zone.node) {
                last = Some(zone.node);
                let order = attempt.request.order;
                if !self.wake_kswapd(zone.node, order, attempt.class)
                    && !attempt.request.gfp.can_block()
                {
                    // It cannot see to that itself.
                    self.wake_kcompactd(zone.node, order, attempt.class);
                }
            }
        }
    }

    /// Has the caller itself make room: it stalls for as long as that takes.
    fn direct_reclaim(&self, attempt: &Attempt) -> u64 {
        self.stats.count(Event::alloc_stall(attempt.class));
        self.reclaim(attempt)
    }

    /// Has a block of the attempt's order made, and takes it, or what there is above
    /// the min mark by then.
    pub(crate) fn compact_and_walk(
        &self,
        attempt: &Attempt,
        priority: CompactPriority,
    ) -> (CompactResult, Option<(Pfn, bool)>) {
        if attempt.request.order.0 == 0 {
            return (CompactResult::Skipped, None);
        }
        let (result, captured) = self.compact(attempt, priority);
        if result <= CompactResult::Deferred && captured.is_none() {
            return (result, None);
        }
        self.stats.count(Event::CompactStall);
        let found = match captured {
            Some(pfn) => {
                let cpu = self.enter();
                self.count_allocated(self.zone_at(pfn), attempt.request.order.pages(), &cpu);
                Some((pfn, false))
            }
            None => self.walk(attempt, Some(Mark::Min), Reserves::No),
        };
        if let Some((pfn, _)) = found {
            self.zone_at(pfn).compact.succeeded(attempt.request.order, true);
        }
        self.stats.count(if found.is_some() { Event::CompactSuccess } else { Event::CompactFail });
        (result, found)
    }

    /// What to try once reclaim has run: the lists again; and what other CPUs
    /// and the HighAtomic reserve sit on.
    fn after_reclaim(
        &self,
        attempt: &Attempt,
        reserves: Reserves,
        reclaimed: u64,
    ) -> Option<(Pfn, bool)> {
        if reclaimed > 0
            && let Some(found) = self.walk(attempt, Some(Mark::Min), reserves)
        {
            return Some(found);
        }
        // Pages on per-CPU lists are free for their CPU only, and only as they
        // are: here they are worth more in the buddy. Linux calls them in, and
        // gives a HighAtomic block back, only where something was reclaimed; but
        // nobody is to be killed for pages that are free.
        let unreserved = self.unreserve_highatomic(attempt, false);
        if self.drain_all(None) > 0 || unreserved {
            return self.walk(attempt, Some(Mark::Min), reserves);
        }
        None
    }

    /// Gives one HighAtomic block of the zones the attempt may use back.
    fn unreserve_highatomic(&self, attempt: &Attempt, force: bool) -> bool {
        let cpu = self.enter();
        self.zones_for(attempt).any(|zone| {
            zone.reserved_highatomic() > 0
                && Buddy::lock(&self.map, zone, &cpu)
                    .unreserve_highatomic(attempt.migratetype, force)
        })
    }

    /// The last step: somebody is killed, if the request is worth that, unless what
    /// others have been killed for meanwhile is enough.
    fn last_resort(&self, attempt: &Attempt) -> Result<(Pfn, bool), Relief> {
        let mut found = None;
        let mut eased = || {
            found = self.walk(attempt, Some(Mark::High), Reserves::No);
            found.is_some()
        };
        let relief = if may_kill(attempt) {
            self.out_of_memory(attempt, &mut eased)
        } else {
            eased();
            Relief::None
        };
        found.ok_or(relief)
    }

    /// Whether another round of reclaim makes sense: some zone would pass the
    /// min mark if everything reclaimable were reclaimed, and has a block. To
    /// make one is compaction's business.
    fn retry_reclaim(&self, attempt: &Attempt, effort: &mut Effort, reclaimed: u64) -> bool {
        if reclaimed > 0 && attempt.request.order <= COSTLY_ORDER {
            effort.idle_reclaims = 0;
        } else {
            effort.idle_reclaims += 1;
        }
        let enough = effort.idle_reclaims <= MAX_RETRIES
            && self.zones_for(attempt).any(|zone| {
                let reclaimable = self.reclaimable(zone.index());
                let mut check = zone.check(zone.mark(Mark::Min), attempt.class, attempt.flags);
                check.free += reclaimable as i64;
                let order = attempt.request.order;
                let there = order.0 == 0 || zone.has_block(order, attempt.flags);
                // What passes as it is, and was not had, will not be had by reclaim.
                reclaimable > 0 && there && check.level_ok(order)
            });
        let lucky = reclaimed > 0 && effort.lucky_reclaims < MAX_RETRIES;
        if !enough && lucky {
            effort.lucky_reclaims += 1;
        }
        enough || lucky || self.unreserve_highatomic(attempt, true)
    }

    /// Whether another round of compaction makes sense, perhaps a harder one.
    fn retry_compact(&self, attempt: &Attempt, effort: &mut Effort, result: CompactResult) -> bool {
        let order = attempt.request.order;
        // Who is to die need not have a block.
        if order.0 == 0 || self.platform.context().oom_victim {
            return false;
        }
        let costly = order > COSTLY_ORDER;
        let most = if costly { MAX_RETRIES / 4 } else { MAX_RETRIES };
        match result {
            // Compaction wants more free pages first; reclaim is the one to ask.
            CompactResult::Skipped => return self.may_compact_later(attempt),
            CompactResult::Success => {
                effort.compactions += 1;
                if effort.compactions <= most {
                    return true;
                }
            }
            _ => {}
        }
        let hardest = if costly { CompactPriority::SyncLight } else { CompactPriority::SyncFull };
        if effort.priority < hardest {
            effort.priority = match effort.priority {
                CompactPriority::Async => CompactPriority::SyncLight,
                _ => CompactPriority::SyncFull,
            };
            effort.compactions = 0;
            return true;
        }
        false
    }

    /// Whether some zone would have room for compaction if a good part of what can
    /// be reclaimed were (Linux `compaction_zonelist_suitable`).
    fn may_compact_later(&self, attempt: &Attempt) -> bool {
        let order = attempt.request.order;
        let mark = if order > COSTLY_ORDER { Mark::Low } else { Mark::Min };
        self.zones_for(attempt).any(|zone| {
            let level = zone.mark(mark) + 2 * order.pages();
            let mut check = zone.check(level, attempt.class, AllocFlags::CMA);
            // The larger the block, the less is it worth to be reclaimed for.
            check.free += (self.reclaimable(zone.index()) / u64::from(order.0.max(1))) as i64;
            check.level_ok(Order(0))
        })
    }

    /// The end of a request that cannot be served, unless it may not fail: such
    /// a one digs into the reserves and goes on for ever.
    fn nofail_or(
        &self,
        attempt: &Attempt,
        reserves: Reserves,
        can_wait: bool,
    ) -> Result<(Pfn, bool), AllocError> {
        if !attempt.request.gfp.contains(Gfp::NOFAIL) {
            return self.fail(attempt);
        }
        if !can_wait || !attempt.request.gfp.can_block() {
            self.platform.log(
                LogLevel::Warn,
                format_args!("NOFAIL without the right to wait: order {}", attempt.request.order),
            );
            return self.fail(attempt);
        }
        let hard = Attempt { flags: attempt.flags | AllocFlags::MIN_RESERVE, ..*attempt };
        loop {
            if let Some(found) = self.walk(&hard, Some(Mark::Min), reserves) {
                return Ok(found);
            }
            // A task that frees memory must not do so on behalf of itself, nor wait
            // for whoever frees it: that may be itself.
            if !self.platform.context().memalloc {
                self.direct_reclaim(attempt);
            }
            self.drain_all(None);
            // As hard as can be: nothing else brings a block of a higher order.
            if let (_, Some(found)) = self.compact_and_walk(&hard, CompactPriority::SyncFull) {
                return Ok(found);
            }
            // Whatever that comes to: it may not fail, and what is kept for need
            // is there for this.
            if may_kill(attempt) {
                let found = self.last_resort(&hard).ok();
                if let Some(found) = found.or_else(|| self.walk(&hard, None, Reserves::All)) {
                    return Ok(found);
                }
            }
            self.platform.stall();
        }
    }

    #[cold]
    fn fail(&self, attempt: &Attempt) -> Result<(Pfn, bool), AllocError> {
        self.stats.count(Event::AllocFailed);
        if !attempt.request.gfp.contains(Gfp::NOWARN) {
            self.dump_failure(attempt);
        }
        Err(AllocError::NoMemory)
    }
}

/// Whether killing somebody for this request is in proportion.
fn may_kill(attempt: &Attempt) -> bool {
    let gfp = attempt.request.gfp;
    attempt.request.order <= COSTLY_ORDER
        && !gfp.intersects(Gfp::RETRY_MAYFAIL | Gfp::THISNODE)
        && attempt.class >= ZoneKind::Normal
}
