//! What is said when an allocation fails: who asked for what, and what each
//! zone had, in the manner of Linux's failure report (mm/show_mem.c). May call:
//! everything `mm` holds.

use crate::buddy::Buddy;
use crate::mm::Mm;
use crate::platform::{LogLevel, Platform};
use crate::pressure::Attempt;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{KIB_PER_PAGE, MAX_ORDER, MigrateType, NR_ORDERS, Order};
use crate::zone::{Mark, Zone};
use core::fmt;

/// Milliseconds between two reports (Linux `warn_alloc`).
const INTERVAL_MS: u64 = 10_000;

/// Keeps reports of failures from filling the log.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// When the next may be made, in milliseconds.
    due: AtomicU64,
    /// How many have not been made since the last one.
    silent: AtomicU64,
}

impl Reports {
    /// Whether a report may be made at `now`; then, how many were not since the
    /// last one.
    fn may_report(&self, now: u64) -> Option<u64> {
        let due = self.due.load(Relaxed);
        let next = now.saturating_add(INTERVAL_MS);
        // Of several at once, one reports.
        if now < due || self.due.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            self.silent.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.silent.swap(0, Relaxed))
    }
}

/// Pages, printed in kB as Linux does.
struct Kb(u64);

impl fmt::Display for Kb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}kB", self.0 * KIB_PER_PAGE)
    }
}

/// A zone's free blocks: `12*4kB (UM) 3*8kB (E) ... = 100kB`.
struct Blocks([[u32; 6]; NR_ORDERS]);

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = 0;
        for (order, types) in self.0.iter().enumerate() {
            let count: u64 = types.iter().map(|&n| u64::from(n)).sum();
            let kb = KIB_PER_PAGE << order;
            total += count * kb;
            write!(f, "{count}*{kb}kB")?;
            if count > 0 {
                f.write_str(" (")?;
                for (n, letter) in types.iter().zip(['U', 'M', 'E', 'H', 'C', 'I']) {
                    if *n > 0 {
                        write!(f, "{letter}")?;
                    }
                }
                f.write_str(")")?;
            }
            f.write_str(" ")?;
        }
        write!(f, "= {total}kB")
    }
}

impl<P: Platform> Mm<P> {
    /// Reports a request that failed and the state of the zones it could use,
    /// unless another has been reported just now.
    #[cold]
    pub(crate) fn dump_failure(&self, attempt: &Attempt) {
        let Some(silent) = self.reports.may_report(self.platform.now_ms()) else { return };
        if silent > 0 {
            self.platform.log(
                LogLevel::Warn,
                format_args!("page allocation failure: {silent} reports suppressed"),
            );
        }
        let request = attempt.request;
        self.platform.log(
            LogLevel::Warn,
            format_args!(
                "page allocation failure: order:{}, mode:{:#x}({:?}), class {}, type {}",
                request.order,
                request.gfp.bits(),
                request.gfp.iter_names().map(|(name, _)| name).fold(Names::default(), Names::add),
                attempt.class.name(),
                attempt.migratetype.name(),
            ),
        );
        for zone in self.zones.iter().filter(|z| z.managed() > 0) {
            self.dump_zone(zone);
        }
    }

    /// Logs the state of one zone. Takes its lock for a moment.
    pub fn dump_zone(&self, zone: &Zone) {
        let log = |line: fmt::Arguments<'_>| self.platform.log(LogLevel::Info, line);
        let (node, name) = (zone.node.0, zone.kind.name());
        log(format_args!(
            "Node {node} {name} free:{} boost:{} min:{} low:{} high:{} reserved_highatomic:{} present:{} managed:{} free_cma:{}",
            Kb(zone.free_pages()),
            Kb(zone.boost()),
            Kb(zone.mark(Mark::Min)),
            Kb(zone.mark(Mark::Low)),
            Kb(zone.mark(Mark::High)),
            Kb(zone.reserved_highatomic()),
            Kb(zone.present()),
            Kb(zone.managed()),
            Kb(zone.free_cma_pages()),
        ));
        let reserve = crate::types::ZoneKind::ALL.map(|class| zone.lowmem_reserve(class));
        log(format_args!(
            "lowmem_reserve[]: {} {} {} {}",
            reserve[0], reserve[1], reserve[2], reserve[3]
        ));
        log(format_args!("Node {node} {name}: {}", Blocks(self.free_blocks(zone))));
    }

    /// Free blocks of a zone by order and migratetype, deferred ones included.
    /// Takes its lock.
    pub fn free_blocks(&self, zone: &Zone) -> [[u32; 6]; NR_ORDERS] {
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        let mut blocks = core::array::from_fn(|order| {
            MigrateType::ALL.map(|ty| buddy.list(Order(order as u8), ty).len())
        });
        // Frame numbers have 32 bits, and so have numbers of blocks.
        blocks[MAX_ORDER.index()][MigrateType::Movable.index()] += zone.deferred_blocks() as u32;
        blocks
    }
}

/// Names of flags, joined as Linux prints them.
#[derive(Default)]
struct Names([Option<&'static str>; 24]);

impl Names {
    fn add(mut self, name: &'static str) -> Self {
        if let Some(slot) = self.0.iter_mut().find(|s| s.is_none()) {
            *slot = Some(name);
        }
        self
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().flatten().enumerate() {
            write!(f, "{}{name}", if i > 0 { "|" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_in_ten_seconds() {
        let reports = Reports::default();
        assert_eq!(reports.may_report(5), Some(0));
        assert_eq!(reports.may_report(5), None);
        assert_eq!(reports.may_report(10_004), None);
        assert_eq!(reports.may_report(10_005), Some(2));
        assert_eq!(reports.may_report(10_005), None);
        assert_eq!(reports.may_report(u64::MAX), Some(1));
    }
}
