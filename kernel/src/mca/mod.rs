//! What the registers of the machine check architecture say (Intel SDM volume 3,
//! chapter "Machine-check architecture"; severities as in Linux
//! arch/x86/kernel/cpu/mce/severity.c). Pure.

use core::fmt;
use mm::types::{PAGE_SIZE, Pfn};

/// `IA32_MCG_CAP`: what the processor can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Banks of registers that can be reached: those of a 33rd would be where
    /// other things are.
    pub const fn banks(self) -> u32 {
        let banks = (self.0 & 0xff) as u32;
        if banks < 32 { banks } else { 32 }
    }

    /// Whether there is an `IA32_MCG_CTL`.
    pub const fn has_control(self) -> bool {
        self.0 >> 8 & 1 != 0
    }

    /// Whether errors that software can recover from are told as such.
    pub const fn recovers(self) -> bool {
        self.0 >> 24 & 1 != 0
    }
}

/// `IA32_MCG_STATUS`: what became of the program that was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GlobalStatus(pub u64);

impl GlobalStatus {
    /// The program can go on where it was interrupted.
    pub const fn can_resume(self) -> bool {
        self.0 & 1 != 0
    }

    /// The error has to do with the instruction that was interrupted.
    pub const fn is_here(self) -> bool {
        self.0 >> 1 & 1 != 0
    }
}

/// What an error calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Nothing: the hardware has put it right.
    Corrected,
    /// Not enabled to interrupt: somebody else's.
    Unrelated,
    /// Uncorrected, and nobody has used the data.
    NoAction,
    /// Uncorrected; nobody has to act at once, but the data are lost.
    ActionOptional,
    /// Uncorrected; whoever wanted the data cannot go on.
    ActionRequired,
    /// The state of the processor is lost, or it is not known what is.
    Fatal,
}

impl Severity {
    /// All of them, the worst last.
    pub const ALL: [Self; 6] = [
        Self::Corrected,
        Self::Unrelated,
        Self::NoAction,
        Self::ActionOptional,
        Self::ActionRequired,
        Self::Fatal,
    ];

    /// Its name in the file of counters.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Corrected => "corrected",
            Self::Unrelated => "not_enabled",
            Self::NoAction => "no_action",
            Self::ActionOptional => "action_optional",
            Self::ActionRequired => "action_required",
            Self::Fatal => "fatal",
        }
    }

    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corrected => "corrected",
            Self::Unrelated => "not enabled",
            Self::NoAction => "uncorrected, no action required",
            Self::ActionOptional => "uncorrected, action optional",
            Self::ActionRequired => "uncorrected, action required",
            Self::Fatal => "fatal",
        }
    }
}

/// The first register of bank 0, `IA32_MC0_CTL`; each bank has four: control,
/// status, address, miscellaneous.
pub const FIRST_BANK: u32 = 0x400;

/// What a bank says of an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bank {
    /// `IA32_MCi_STATUS`.
    pub status: u64,
    /// `IA32_MCi_ADDR`, if the status says that it means something.
    pub addr: u64,
    /// `IA32_MCi_MISC`, likewise.
    pub misc: u64,
}

impl Bank {
    /// What bank `n` says, if there is an error in it; then it is forgotten there,
    /// so that nobody takes it twice. `read` and `write` are for registers, of
    /// which only those are read that mean something.
    pub fn take(n: u32, read: impl Fn(u32) -> u64, write: impl FnOnce(u32, u64)) -> Option<Self> {
        let base = FIRST_BANK + 4 * n;
        let mut bank = Self { status: read(base + 1), addr: 0, misc: 0 };
        if !bank.is_valid() {
            return None;
        }
        if bank.has_addr() {
            bank.addr = read(base + 2);
        }
        if bank.has_misc() {
            bank.misc = read(base + 3);
        }
        write(base + 1, 0);
        Some(bank)
    }

    const fn bit(self, bit: u32) -> bool {
        self.status >> bit & 1 != 0
    }

    /// There is an error.
    pub const fn is_valid(self) -> bool {
        self.bit(63)
    }

    /// An earlier one was lost.
    pub const fn overflowed(self) -> bool {
        self.bit(62)
    }

    /// The hardware has not put it right.
    pub const fn is_uncorrected(self) -> bool {
        self.bit(61)
    }

    /// [`misc`](Self::misc) means something.
    pub const fn has_misc(self) -> bool {
        self.bit(59)
    }

    /// [`addr`](Self::addr) means something.
    pub const fn has_addr(self) -> bool {
        self.bit(58)
    }

    /// What an error calls for, on a processor that can do so much and that was
    /// interrupted in this state.
    pub const fn severity(self, caps: Capabilities, global: GlobalStatus) -> Severity {
        if !self.is_uncorrected() {
            return Severity::Corrected;
        }
        let (enabled, corrupt) = (self.bit(60), self.bit(57));
        if corrupt {
            return Severity::Fatal;
        }
        if !enabled {
            return Severity::Unrelated;
        }
        let (signalled, required) = (self.bit(56), self.bit(55));
        match (caps.recovers(), signalled, required) {
            (true, false, false) => Severity::NoAction,
            (true, true, false) if global.can_resume() => Severity::ActionOptional,
            // On CPUs that only hear of it nobody wanted the data.
            (true, true, true) if global.can_resume() && !global.is_here() => {
                Severity::ActionOptional
            }
            (true, true, true) => Severity::ActionRequired,
            _ => Severity::Fatal,
        }
    }

    /// What kind of error it is.
    pub const fn kind(self) -> &'static str {
        // Bit 12 says that corrected ones are filtered.
        let code = self.status as u16 & !(1 << 12);
        match code {
            0x0000 => "no error",
            0x0001 => "unclassified",
            0x0002 => "microcode ROM parity",
            0x0003 => "external error",
            0x0004 => "functional redundancy check",
            0x0005 => "internal parity",
            0x000c..=0x000f => "generic cache hierarchy",
            0x0010..=0x001f => "TLB",
            0x0080..=0x00bf => "memory controller",
            0x00c0..=0x00cf => "memory scrubbing",
            0x0100..=0x01ff => "cache hierarchy",
            0x0400..=0x07ff => "internal",
            0x0800..=0x0fff => "bus or interconnect",
            _ => "unknown",
        }
    }

    /// Whether memory, or a cache of it, has failed (Linux `mce_is_memory_error`).
    const fn is_memory(self) -> bool {
        let code = self.status;
        code & 0xef80 == 1 << 7 || code & 0xef00 == 1 << 8 || code & 0xeffc == 0xc
    }

    /// The frame that is bad, if the error says so: an address that is physical
    /// and exact to a page.
    pub const fn frame(self) -> Option<Pfn> {
        const PHYSICAL: u64 = 2;
        let usable = self.has_addr() && self.has_misc();
        let exact =
            1u64 << (self.misc & 0x3f) <= PAGE_SIZE as u64 && self.misc >> 6 & 7 == PHYSICAL;
        if self.is_valid() && self.is_memory() && usable && exact {
            return Some(Pfn::containing(self.addr));
        }
        None
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.status)?;
        if self.has_addr() {
            write!(f, " ADDR {:x}", self.addr)?;
        }
        if self.has_misc() {
            write!(f, " MISC {:x}", self.misc)?;
        }
        write!(f, ", {}", self.kind())?;
        f.write_str(if self.overflowed() { ", others lost" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SER: Capabilities = Capabilities(1 << 24 | 1 << 8 | 10);
    const RESUME: GlobalStatus = GlobalStatus(0b101);
    const HERE: GlobalStatus = GlobalStatus(0b111);

    fn bank(status: u64) -> Bank {
        Bank { status, addr: 0x1234_5678, misc: 0x8c }
    }

    #[test]
    fn capabilities_are_read() {
        // What QEMU shows, and a processor of 1997.
        let qemu = Capabilities(0x0900_010a);
        assert_eq!((qemu.banks(), qemu.has_control(), qemu.recovers()), (10, true, true));
        let old = Capabilities(0x105);
        assert_eq!((old.banks(), old.has_control(), old.recovers()), (5, true, false));
    }

    #[test]
    fn severities() {
        for (status, caps, global, severity) in [
            (0x9c00_0000_0000_009f, SER, RESUME, Severity::Corrected),
            (0xbd00_0000_0000_00c0, SER, RESUME, Severity::ActionOptional),
            (0xbd00_0000_0000_017a, SER, RESUME, Severity::ActionOptional),
            (0xbd80_0000_0000_0134, SER, HERE, Severity::ActionRequired),
            (0xbd80_0000_0000_0134, SER, RESUME, Severity::ActionOptional),
            (0xbd80_0000_0000_0134, SER, GlobalStatus(0b110), Severity::ActionRequired),
            (0xbc00_0000_0000_009f, SER, RESUME, Severity::NoAction),
            // What QEMU has the other CPUs see.
            (0xa000_0000_0000_0000, SER, RESUME, Severity::Unrelated),
            (0xbf00_0000_0000_00c0, SER, RESUME, Severity::Fatal),
            (0xbd00_0000_0000_00c0, SER, GlobalStatus(0b100), Severity::Fatal),
            (0xbd00_0000_0000_00c0, Capabilities(10), RESUME, Severity::Fatal),
        ] {
            assert_eq!(bank(status).severity(caps, global), severity, "{status:#x}");
        }
    }

    #[test]
    fn a_bank_is_taken_once() {
        use core::cell::RefCell;
        use std::collections::BTreeMap;
        use std::vec::Vec;
        // What QEMU's monitor makes of `mce 0 9 0x9c0000000000009f 0 0x12345000 0x8c`.
        for (status, addr, misc, looks) in [
            (0x9c00_0000_0000_009f_u64, 0x1234_5000, 0x8c, 3),
            (0x9400_0000_0000_009f, 0x1234_5000, 0, 2),
            (0x8800_0000_0000_009f, 0, 0x8c, 2),
            (0x8000_0000_0000_0001, 0, 0, 1),
        ] {
            let place = [(0x425, status), (0x426, 0x1234_5000), (0x427, 0x8c)];
            let registers = RefCell::new(BTreeMap::from(place));
            let seen = RefCell::new(Vec::new());
            let read = |msr| {
                seen.borrow_mut().push(msr);
                registers.borrow()[&msr]
            };
            let write = |msr, value| {
                registers.borrow_mut().insert(msr, value);
            };
            let bank = Bank::take(9, read, write).expect("an error");
            assert_eq!(bank, Bank { status, addr, misc });
            assert_eq!(seen.take().len(), looks, "what means nothing is not read");
            assert_eq!(bank.severity(SER, GlobalStatus(1)), Severity::Corrected);
            assert_eq!(bank.severity(Capabilities(5), GlobalStatus(0)), Severity::Corrected);
            assert_eq!(Bank::take(9, read, write), None, "it is forgotten there");
        }
    }

    #[test]
    fn severities_by_number() {
        for (number, severity) in Severity::ALL.into_iter().enumerate() {
            assert_eq!(severity as usize, number);
        }
    }

    #[test]
    fn frames_of_memory_errors_only() {
        let frame = Some(Pfn(0x12345));
        for (status, misc, expected) in [
            (0xbd00_0000_0000_00c0, 0x8c, frame),
            (0xbd00_0000_0000_009f, 0x86, frame),
            (0xbd00_0000_0000_017a, 0x86, frame),
            (0xbd00_0000_0000_000c, 0x86, frame),
            // A bus error, one of a TLB, and none at all.
            (0xbd00_0000_0000_0e0b, 0x8c, None),
            (0xbd00_0000_0000_0010, 0x8c, None),
            (0x3d00_0000_0000_00c0, 0x8c, None),
            // No address; nothing that tells what the address means.
            (0xb900_0000_0000_00c0, 0x8c, None),
            (0xb500_0000_0000_00c0, 0x8c, None),
            // A linear address; one that is exact to 8 KiB.
            (0xbd00_0000_0000_00c0, 0x4c, None),
            (0xbd00_0000_0000_00c0, 0x8d, None),
        ] {
            let bank = Bank { misc, ..bank(status) };
            assert_eq!(bank.frame(), expected, "{status:#x} {misc:#x}");
        }
    }

    #[test]
    fn an_error_in_words() {
        let said = bank(0xfd00_0000_0000_00c0).to_string();
        assert_eq!(said, "fd000000000000c0 ADDR 12345678 MISC 8c, memory scrubbing, others lost");
        assert_eq!(bank(0xa000_0000_0000_0001).to_string(), "a000000000000001, unclassified");
    }
}
