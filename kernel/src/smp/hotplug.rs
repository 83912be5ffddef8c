//! CPUs that go away and come back while the kernel runs (Linux `kernel/cpu.c`).
//! Threads move elsewhere first, but for those that may run on that CPU only:
//! they stand still until it is back. Calls `start`, `call`, `task`,
//! `drivers`, `mm`.

use crate::arch::{apic, irq, percpu, time};
use crate::drivers::messages;
use crate::platform::Machine;
use crate::smp::start::{self, NotStarted};
use crate::smp::{self, ONLINE, call};
use crate::task;
use crate::vm;
use core::fmt;
use core::sync::atomic::Ordering;
use mm::Mm;
use mm::types::CpuId;
use quarry_kernel::cpuset::CpuSet;

/// One change at a time.
static CHANGING: task::Mutex<()> = task::Mutex::new(());

/// Why a CPU stays as it is.
#[derive(Debug)]
pub(crate) enum NotChanged {
    /// The boot CPU gets what the chipset sends, and stays.
    BootCpu,
    /// It runs, or does not run, already; or there is none.
    NothingToDo,
    /// Threads that may run there only do not let it go.
    Busy,
    /// It does not start.
    NotStarted(NotStarted),
}

impl fmt::Display for NotChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootCpu => f.write_str("the boot CPU stays"),
            Self::NothingToDo => f.write_str("nothing to do"),
            Self::Busy => f.write_str("its threads do not let it go"),
            Self::NotStarted(why) => why.fmt(f),
        }
    }
}

/// Takes `cpu` out of service: its threads go elsewhere, it stops, and what the
/// memory manager keeps for it goes back. Threads that may run there only and do
/// run have `patience` milliseconds to let it go. In a thread, interrupts on, no
/// lock held.
///
/// # Errors
///
/// [`NotChanged`]; it runs on as before then.
pub(crate) fn cpu_down(mm: &Mm<Machine>, cpu: CpuId, patience: u64) -> Result<(), NotChanged> {
    if cpu == CpuId(0) {
        return Err(NotChanged::BootCpu);
    }
    let _one = CHANGING.lock();
    let area = percpu::of(cpu).filter(|_| ONLINE.contains(cpu)).ok_or(NotChanged::NothingToDo)?;
    area.gone.store(false, Ordering::Relaxed);
    let it = CpuSet::one(cpu);
    call(&it, &|_| task::retire());
    let start = time::now_ms();
    while !area.gone.load(Ordering::Acquire) {
        let late = time::now_ms().saturating_sub(start) > patience;
        // If it cannot be called any more, it is going after all.
        if late && call(&it, &|_| task::come_online()) > 0 {
            return Err(NotChanged::Busy);
        }
        task::sleep(1);
    }
    messages::leave(cpu);
    // SAFETY: it is off, and this acts for it.
    let pages = call::in_stead_of(cpu, || unsafe { mm.cpu_gone(cpu) });
    log::info!("smpboot: CPU {} is now offline, {} pages back", cpu.0, pages.unwrap_or(0));
    Ok(())
}

/// Starts `cpu`, whether it has run before or not. In a thread, interrupts on, no
/// lock held.
///
/// # Errors
///
/// [`NotChanged`].
pub(crate) fn cpu_up(mm: &'static Mm<Machine>, cpu: CpuId) -> Result<(), NotChanged> {
    let _one = CHANGING.lock();
    let known = smp::cpus().and_then(|cpus| cpus.get(cpu)).filter(|_| !ONLINE.contains(cpu));
    let apic_id = known.ok_or(NotChanged::NothingToDo)?.apic_id;
    let started = match percpu::of(cpu) {
        Some(area) => start::launch(area, apic_id),
        None => start::start(mm, cpu, apic_id),
    };
    started.map_err(NotChanged::NotStarted)?;
    log::info!("smpboot: CPU {} is back online", cpu.0);
    Ok(())
}

/// The last thing a CPU does that goes away: it has no threads to run, and no
/// interrupt will come. Interrupts off.
pub(crate) fn vanish() -> ! {
    irq::disable();
    vm::roots::let_go();
    apic::stop_timer();
    call::go_offline();
    percpu::this().gone.store(true, Ordering::Release);
    start::stop()
}
