//! What the processor can do, from CPUID. Calls nothing.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

/// Features that the kernel's decisions depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// Width of a physical address (bits).
    pub(crate) phys_bits: u8,
    /// Pages can be marked as not executable.
    pub(crate) nx: bool,
    /// Pages of 1 GiB.
    pub(crate) gib_pages: bool,
    /// A local APIC.
    pub(crate) apic: bool,
    /// The local APIC can be switched to model-specific registers.
    pub(crate) x2apic: bool,
    /// The number of this CPU's local APIC.
    pub(crate) apic_id: u32,
}

fn leaf(leaf: u32) -> Option<CpuidResult> {
    let range = leaf & 0x8000_0000;
    (__cpuid(range).eax >= leaf).then(|| __cpuid_count(leaf, 0))
}

/// The APIC's number: with 32 bits where there is a leaf for it, else those 8
/// that leaf 1 has.
fn apic_id(basic: CpuidResult) -> u32 {
    match leaf(0x0b) {
        Some(topology) if topology.ebx != 0 => topology.edx,
        _ => basic.ebx >> 24,
    }
}

/// Asks the processor.
pub(crate) fn features() -> Features {
    let basic = leaf(1).unwrap_or(CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 });
    let extended = leaf(0x8000_0001).map_or(0, |found| found.edx);
    // Without the leaf: what PAE's successor began with.
    let phys_bits = leaf(0x8000_0008).map_or(36, |found| found.eax as u8);
    Features {
        phys_bits: phys_bits.clamp(32, 52),
        nx: extended & (1 << 20) != 0,
        gib_pages: extended & (1 << 26) != 0,
        apic: basic.edx & (1 << 9) != 0,
        x2apic: basic.ecx & (1 << 21) != 0,
        apic_id: apic_id(basic),
    }
}

/// Frequency of the time stamp counter (kHz), where CPUID tells it.
pub(crate) fn tsc_khz() -> Option<u64> {
    let crystal = leaf(0x15).and_then(|found| {
        let (denominator, numerator, hz) = (found.eax, found.ebx, found.ecx);
        (denominator != 0 && numerator != 0 && hz != 0)
            .then(|| u64::from(hz) * u64::from(numerator) / u64::from(denominator) / 1000)
    });
    crystal.or_else(|| {
        let mhz = u64::from(leaf(0x16)?.eax & 0xffff);
        (mhz != 0).then_some(mhz * 1000)
    })
}

/// The processor's name for itself; what is not ASCII is left out.
pub(crate) fn brand() -> Brand {
    let mut text = [0; 48];
    let (words, _) = text.as_chunks_mut::<4>();
    let leaves = (0x8000_0002..=0x8000_0004).map_while(leaf);
    let found = leaves.flat_map(|found| [found.eax, found.ebx, found.ecx, found.edx]);
    for (bytes, word) in words.iter_mut().zip(found) {
        *bytes = word.to_le_bytes();
    }
    Brand(text)
}

/// Text of [`brand`].
pub(crate) struct Brand([u8; 48]);

impl core::fmt::Display for Brand {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let text = core::str::from_utf8(&self.0[..len]).unwrap_or("?").trim();
        f.write_str(if text.is_empty() { "unknown processor" } else { text })
    }
}
