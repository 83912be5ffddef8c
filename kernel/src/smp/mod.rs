//! The machine's CPUs: which there are. Calls `acpi`.

use crate::acpi;
use crate::arch::cpu::Features;
use mm::types::CpuId;
use quarry_kernel::sdt::{ApicId, CpuList, Limits, MAX_CPUS, Madt, Signature};
use spin::Once;

static CPUS: Once<CpuList> = Once::new();

/// Finds out which CPUs there are. Once, on the boot CPU, after [`acpi::init`]
/// and before the memory manager starts, which keeps lists for each.
pub(crate) fn discover(features: &Features) {
    let boot = ApicId(features.apic_id);
    let warn = &mut |warning| log::warn!("{warning}");
    let list = match acpi::find(Signature::MADT).map(Madt::parse) {
        Some(Ok(madt)) => {
            CpuList::new(&madt, boot, Limits { x2apic: features.x2apic, cpus: MAX_CPUS }, warn)
        }
        Some(Err(flaw)) => {
            log::warn!("MADT: ignored: {flaw}");
            CpuList::only(boot)
        }
        None => {
            log::info!("smp: no MADT, one CPU");
            CpuList::only(boot)
        }
    };
    log::info!("smpboot: Allowing {} CPUs, {} hotplug CPUs", list.possible(), list.disabled());
    CPUS.call_once(|| list);
}

/// The CPUs that there are or may be one day; None before [`discover`].
pub(crate) fn cpus() -> Option<&'static CpuList> {
    CPUS.get()
}

/// How many CPUs there are or may be, at least 1.
pub(crate) fn possible() -> u16 {
    cpus().map_or(1, CpuList::possible)
}

#[expect(dead_code, reason = "for the tables that say which node a CPU is on")]
/// The number of the CPU whose local APIC is `id`.
pub(crate) fn cpu_of_apic(id: ApicId) -> Option<CpuId> {
    cpus()?.of_apic(id)
}
