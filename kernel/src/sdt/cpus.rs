//! The machine's processors, numbered: from the MADT's entries to a list that
//! begins with the boot CPU. Pure.

use super::{Entry, Lint, Madt, Warning};
use core::fmt;
use mm::types::CpuId;

/// CPUs at most.
pub const MAX_CPUS: usize = 256;

/// The number of a local APIC, by which its CPU is addressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ApicId(pub u32);

impl fmt::Display for ApicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl ApicId {
    /// The greatest that an APIC with 8 bits of it can have; the next one
    /// addresses all.
    const MAX_XAPIC: Self = Self(0xfe);
    /// The same with 32 bits.
    const MAX_X2APIC: Self = Self(0xffff_fffe);
}

/// Whether a CPU is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It can be started.
    Enabled,
    /// The firmware has it switched off; it may appear later.
    Disabled,
}

/// A CPU that runs or may run one day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its local APIC.
    pub apic_id: ApicId,
    /// Its number in other tables of the firmware.
    pub uid: u32,
    /// Whether it is there.
    pub presence: Presence,
    /// Where it gets NMIs, if at any pin.
    pub nmi: Option<Lint>,
}

/// What the kernel can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Whether ids above 254 can be addressed.
    pub x2apic: bool,
    /// CPUs to be listed at most; at least one is.
    pub cpus: usize,
}

/// The CPUs by [`CpuId`], the boot CPU first, then those that are enabled, then
/// those that may appear later.
#[derive(Clone, Debug)]
pub struct CpuList {
    cpus: [Cpu; MAX_CPUS],
    len: usize,
    /// Where the firmware says that the local APICs' registers are.
    pub local_apic: Option<u64>,
}

impl CpuList {
    /// The list of a machine with the boot CPU only.
    pub const fn only(boot: ApicId) -> Self {
        let cpu = Cpu { apic_id: boot, uid: 0, presence: Presence::Enabled, nmi: None };
        Self { cpus: [cpu; MAX_CPUS], len: 1, local_apic: None }
    }

    /// The list that `madt` tells, on a machine that was booted by the CPU whose
    /// APIC is `boot`. What makes no sense is left out with a warning.
    pub fn new(
        madt: &Madt<'_>,
        boot: ApicId,
        limits: Limits,
        warn: &mut dyn FnMut(Warning),
    ) -> Self {
        let mut list = Self::only(boot);
        list.local_apic = Some(madt.local_apic.into());
        for entry in madt.entries() {
            match entry {
                Ok(Entry::LocalApic(addr)) => list.local_apic = Some(addr),
                Ok(_) => {}
                Err(warning) => warn(warning),
            }
        }
        let limits = Limits { cpus: limits.cpus.clamp(1, MAX_CPUS), ..limits };
        let mut adding = Adding { list, listed: [[false; 2]; MAX_CPUS], limits, left_out: 0 };
        for presence in [Presence::Enabled, Presence::Disabled] {
            for entry in madt.entries().flatten() {
                adding.add(entry, presence, warn);
            }
        }
        let Adding { mut list, listed, left_out, .. } = adding;
        if listed[0] == [false; 2] {
            warn(Warning::BootCpuMissing(boot));
        }
        if left_out > 0 && limits.cpus == MAX_CPUS {
            warn(Warning::TooManyCpus { left_out });
        }
        list.set_nmis(madt);
        list
    }

    fn set_nmis(&mut self, madt: &Madt<'_>) {
        for entry in madt.entries() {
            let Ok(Entry::Nmi { uid, lint }) = entry else { continue };
            for cpu in &mut self.cpus[..self.len] {
                if uid.is_none_or(|uid| uid == cpu.uid) {
                    cpu.nmi = Some(lint);
                }
            }
        }
    }

    /// The CPUs in the order of their [`CpuId`].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Cpu> {
        self.cpus[..self.len].iter()
    }

    /// How many CPUs there are or may be, at least 1.
    pub fn possible(&self) -> u16 {
        self.len as u16
    }

    /// How many may appear later.
    pub fn disabled(&self) -> usize {
        self.iter().filter(|cpu| cpu.presence == Presence::Disabled).count()
    }

    /// A CPU by its number.
    pub fn get(&self, cpu: CpuId) -> Option<&Cpu> {
        self.cpus[..self.len].get(usize::from(cpu.0))
    }

    /// The number of the CPU whose local APIC is `id`.
    pub fn of_apic(&self, id: ApicId) -> Option<CpuId> {
        let at = self.iter().position(|cpu| cpu.apic_id == id)?;
        Some(CpuId(at as u16))
    }
}

/// A list while it is made.
struct Adding {
    list: CpuList,
    /// For each CPU whether it was listed with 8 and with 32 bits of id: each
    /// may come once, the same CPU in both forms.
    listed: [[bool; 2]; MAX_CPUS],
    limits: Limits,
    left_out: usize,
}

impl Adding {
    /// Adds the CPU that `entry` is about if it is `presence`.
    fn add(&mut self, entry: Entry, presence: Presence, warn: &mut dyn FnMut(Warning)) {
        let Entry::Cpu { uid, id, enabled, online_capable, wide } = entry else { return };
        let found = if enabled { Presence::Enabled } else { Presence::Disabled };
        let max = if wide { ApicId::MAX_X2APIC } else { ApicId::MAX_XAPIC };
        // Unused slots of the firmware's list are disabled, of any id.
        if found != presence || (!enabled && (!online_capable || id > max)) {
            return;
        }
        if id > max {
            warn(Warning::BadId(id));
        } else if id > ApicId::MAX_XAPIC && !self.limits.x2apic {
            warn(Warning::OutOfReach(id));
        } else if let Some(CpuId(cpu)) = self.list.of_apic(id) {
            let cpu = usize::from(cpu);
            if core::mem::replace(&mut self.listed[cpu][usize::from(wide)], true) {
                warn(Warning::Repeated(id));
            } else if cpu == 0 {
                self.list.cpus[0].uid = uid;
            }
        } else if self.list.len == self.limits.cpus {
            self.left_out += 1;
        } else {
            let new = self.list.len;
            self.list.cpus[new] = Cpu { apic_id: id, uid, presence, nmi: None };
            self.listed[new][usize::from(wide)] = true;
            self.list.len += 1;
        }
    }
}
