//! One pass over all zones and lists. May call: `batch`, `free`.

use super::batch::{Batch, Course, Filled};
use super::policy::gate;
use super::{NoPass, ReportDevice, ReportFailed, stats};
use crate::gfp::AllocFlags;
use crate::mm::Mm;
use crate::platform::{LogLevel, Platform, Worker};
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, MigrateType, Order, ZoneKind};
use crate::zone::{Mark, Zone};
use core::mem::ManuallyDrop;

/// A pass that is on its way: there is one at most, and until this value goes
/// nobody takes leave of its device.
pub(super) struct Pass<'a, P: Platform> {
    mm: &'a Mm<P>,
    device: &'static dyn ReportDevice,
    order: Order,
}

/// Why a pass ends before its time.
enum Ended {
    /// The device said so.
    Failed(ReportFailed),
    /// Nobody wants it any more.
    Unwanted,
}

impl<P: Platform> Mm<P> {
    /// Begins a pass.
    pub(super) fn begin_pass(&self) -> Result<Pass<'_, P>, NoPass> {
        self.report_slot(|slot| {
            if slot.busy {
                return Err(NoPass::Busy);
            }
            let Some(device) = slot.device.filter(|_| !slot.off) else {
                // Under the slot's lock: who registers or switches on after this
                // asks anew.
                self.report.state.reset();
                return Err(if slot.device.is_some() { NoPass::Off } else { NoPass::NoDevice });
            };
            slot.busy = true;
            Ok(Pass { mm: self, device, order: self.report_order(slot) })
        })
    }
}

impl<P: Platform> Pass<'_, P> {
    /// Makes the pass. True if another has been asked for meanwhile.
    pub(super) fn run(self) -> bool {
        let Self { mm, .. } = self;
        let counters = &mm.report.counters;
        stats::add(&counters.passes, 1);
        // What lies on per-CPU lists may be what keeps blocks apart. While a
        // pass is only requested, what comes back asks for no other.
        mm.drain_all(None);
        mm.report.state.begin();
        let ended = mm.zones.iter().find_map(|zone| self.report_zone(zone).err());
        match ended {
            Some(Ended::Failed(why)) => {
                stats::add(&counters.failures, 1);
                // Once, however often it is tried again.
                if !mm.report.failing.swap(true, Relaxed) {
                    let line = format_args!("free page reporting: {why}");
                    mm.platform.log(LogLevel::Warn, line);
                }
                if why != ReportFailed::Refused && mm.forget_report_device() {
                    let line = format_args!("free page reporting disabled");
                    mm.platform.log(LogLevel::Info, line);
                }
            }
            Some(Ended::Unwanted) | None => {}
        }
        ManuallyDrop::new(self).close()
    }

    /// What ends a pass, whichever way. True if another has been asked for
    /// meanwhile. Under one hold of the slot's lock: whoever asks once the state
    /// is idle again finds nobody busy.
    fn close(&mut self) -> bool {
        let mm = self.mm;
        let now_ms = mm.platform.now_ms();
        mm.report_slot(|slot| {
            slot.busy = false;
            let asked = mm.report.state.end(now_ms);
            if !slot.is_wanted() {
                mm.report.state.reset();
            }
            asked && slot.is_wanted()
        })
    }

    fn report_zone(&self, zone: &Zone) -> Result<(), Ended> {
        if zone.managed() == 0 {
            return Ok(());
        }
        let counters = &self.mm.report.counters;
        let level = gate(zone.mark(Mark::Low), self.order);
        if !zone.watermark_ok(Order(0), level, ZoneKind::Dma, AllocFlags::CMA) {
            stats::add(&counters.skipped_zones, 1);
            return Ok(());
        }
        let mut batch = Batch::new(self.mm, zone);
        for order in (self.order.0..=MAX_ORDER.0).map(Order) {
            for ty in MigrateType::ALL {
                // What is isolated is about to be somebody's.
                if ty != MigrateType::Isolate {
                    self.report_list(&mut batch, Course::new(order, ty))?;
                }
            }
        }
        if batch.blocks().is_empty() { Ok(()) } else { self.send(&mut batch) }
    }

    /// Goes through one list. What is left in `batch` at the end waits for more
    /// from the lists that follow.
    fn report_list(&self, batch: &mut Batch<'_, P>, mut course: Course) -> Result<(), Ended> {
        let counters = &self.mm.report.counters;
        loop {
            match batch.fill(&mut course) {
                Filled::Done => return Ok(()),
                Filled::Full => {
                    self.send(batch)?;
                    course.count_sent();
                }
                Filled::Paused => {}
                Filled::Short => {
                    stats::add(&counters.short_lists, 1);
                    return Ok(());
                }
                Filled::Spent => {
                    stats::add(&counters.spent_budgets, 1);
                    self.mm.request_report();
                    return Ok(());
                }
            }
        }
    }

    /// Tells the device of what `batch` has and puts it back. No lock held.
    fn send(&self, batch: &mut Batch<'_, P>) -> Result<(), Ended> {
        let wanted = self.mm.report_slot(|slot| slot.is_wanted());
        if !wanted {
            // The batch goes back with whoever drops it.
            return Err(Ended::Unwanted);
        }
        let (blocks, pages) = (batch.blocks().len() as u64, batch.pages());
        if let Err(why) = self.device.report(batch.blocks()) {
            if why == ReportFailed::Lost {
                batch.lose();
            }
            return Err(Ended::Failed(why));
        }
        batch.put_back(true);
        self.mm.report.failing.store(false, Relaxed);
        let counters = &self.mm.report.counters;
        stats::add(&counters.batches, 1);
        stats::add(&counters.blocks, blocks);
        stats::add(&counters.pages, pages);
        Ok(())
    }
}

impl<P: Platform> Drop for Pass<'_, P> {
    fn drop(&mut self) {
        if self.close() {
            self.mm.platform.wake(Worker::Reporting);
        }
    }
}
