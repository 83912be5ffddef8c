//! The machine's CPUs: which there are, starting them, running something on
//! them, taking them away and back, and stopping them when the kernel crashes. Calls `acpi`, `arch`, `vm`.

mod call;
mod hotplug;
mod start;
mod trampoline;
mod warp;

pub(crate) use call::{call, notify, on_each, post_to, serve};
pub(crate) use hotplug::{NotChanged, cpu_down, cpu_up, vanish};
pub(crate) use start::bring_up;

use crate::acpi;
use crate::arch::cpu::Features;
use crate::arch::{apic, percpu};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use mm::early::EarlyMem;
use mm::firmware::Map;
use mm::types::CpuId;
use quarry_kernel::cpuset::{AtomicCpuSet, CpuSet};
use quarry_kernel::lapic::{Command, Destination};
use quarry_kernel::options::Options;
use quarry_kernel::sdt::{ApicId, CpuList, Limits, Lint, MAX_CPUS, Madt, Signature};
use spin::Once;

static CPUS: Once<CpuList> = Once::new();

/// The CPUs that run and can be called.
static ONLINE: AtomicCpuSet = AtomicCpuSet::new();

/// CPUs to be started at boot at most, `usize::MAX` if nobody says.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// CPUs that are to seem as if they did not answer.
static DEAF: AtomicCpuSet = AtomicCpuSet::new();

/// Finds out which CPUs there are. Once, on the boot CPU, after [`acpi::init`]
/// and before the memory manager starts, which keeps lists for each.
pub(crate) fn discover(
    features: &Features,
    options: &Options<'_>,
    map: &Map<'_>,
    early: &EarlyMem<'_>,
) {
    let boot = ApicId(features.apic_id);
    if let Some(limit) = options.maxcpus {
        LIMIT.store(limit as usize, Ordering::Relaxed);
    }
    options.deafcpus.iter().for_each(|cpu| DEAF.add(cpu));
    let cpus = match options.maxcpus {
        Some(0) => 1,
        _ if !features.apic => 1,
        _ => MAX_CPUS,
    };
    let limits = Limits { x2apic: features.x2apic && !options.nox2apic, cpus };
    let warn = &mut |warning| log::warn!("{warning}");
    let list = match acpi::find(Signature::MADT).map(Madt::parse) {
        Some(Ok(madt)) => CpuList::new(&madt, boot, limits, warn),
        Some(Err(flaw)) => {
            log::warn!("MADT: ignored: {flaw}");
            CpuList::only(boot)
        }
        None => {
            log::info!("smp: no MADT, one CPU");
            CpuList::only(boot)
        }
    };
    if cpus == 1 {
        log::info!("smpboot: SMP disabled");
    }
    log::info!("smpboot: Allowing {} CPUs, {} hotplug CPUs", list.possible(), list.disabled());
    if list.possible() > 1 {
        trampoline::choose_place(map, early);
    }
    CPUS.call_once(|| list);
    ONLINE.add(percpu::cpu_id());
}

/// The CPUs that there are or may be one day; None before [`discover`].
pub(crate) fn cpus() -> Option<&'static CpuList> {
    CPUS.get()
}

/// How many CPUs there are or may be, at least 1.
pub(crate) fn possible() -> u16 {
    cpus().map_or(1, CpuList::possible)
}

/// How many CPUs the command line lets be started, if it says so.
pub(crate) fn limit() -> Option<usize> {
    Some(LIMIT.load(Ordering::Relaxed)).filter(|&limit| limit != usize::MAX)
}

/// Whether `cpu` is to seem as if it did not answer.
pub(crate) fn is_deaf(cpu: CpuId) -> bool {
    DEAF.contains(cpu)
}

/// The CPUs that run and can be called, at this moment.
pub(crate) fn online() -> CpuSet {
    ONLINE.get()
}

/// Where `cpu` gets NMIs from the chipset, if at any pin.
pub(crate) fn nmi_pin(cpu: CpuId) -> Option<Lint> {
    cpus()?.get(cpu)?.nmi
}

/// The number of the CPU whose local APIC is `id`.
#[allow(dead_code, reason = "for the tables that say which node a CPU is on")]
pub(crate) fn cpu_of_apic(id: ApicId) -> Option<CpuId> {
    cpus()?.of_apic(id)
}

/// The CPU that stops the others.
static STOPPER: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = u32::MAX;
/// CPUs that have stopped because of that.
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Looks at those that do not stop, before they are left alone; each takes at
/// least some nanoseconds.
const STOP_PATIENCE: u32 = 50_000_000;

/// Stops all other CPUs, whatever they do, by an NMI. From any context, on one
/// CPU only, which never unmasks interrupts again. Returns how many did not
/// stop.
pub(crate) fn stop_others() -> usize {
    let me = percpu::cpu_id();
    STOPPER.store(me.0.into(), Ordering::Relaxed);
    let others = ONLINE.get().without(me).len();
    if others == 0 || apic::send(Command::Nmi, Destination::Others).is_err() {
        return others;
    }
    let stopped = || STOPPED.load(Ordering::Relaxed) as usize;
    for _ in 0..STOP_PATIENCE {
        if stopped() >= others {
            break;
        }
        spin_loop();
    }
    others.saturating_sub(stopped())
}

/// Whether another CPU stops all others, this one among them.
pub(crate) fn must_stop() -> bool {
    let stopper = STOPPER.load(Ordering::Relaxed);
    stopper != NOBODY && stopper != u32::from(percpu::cpu_id().0)
}

/// Stops this CPU for good, for [`stop_others`].
pub(crate) fn stop_here() -> ! {
    STOPPED.fetch_add(1, Ordering::Relaxed);
    start::stop()
}
