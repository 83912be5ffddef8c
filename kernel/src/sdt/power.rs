//! How a machine is switched off and started anew (ACPI 6.5, 4.8.3, 4.8.4 and
//! 7.4.2): the registers that the FADT names, and what the firmware's byte code
//! says is to be written for the state S5. Of that byte code only the one
//! constant package `_S5_` is looked for, and nothing is run, which is how
//! kernels without an interpreter do it; for one, the crate `aml` wants an
//! allocator, and a handler for all that devices' code may do. Pure.

use super::{Signature, u16_at, u32_at, u64_at};

impl Signature {
    /// The fixed registers.
    pub const FADT: Self = Self(*b"FACP");
    /// The machine's own byte code, to which the FADT points.
    pub const DSDT: Self = Self(*b"DSDT");
    /// More byte code.
    pub const SSDT: Self = Self(*b"SSDT");
}

/// Offsets in the FADT (ACPI 6.5, table 5.9).
mod at {
    pub(super) const DSDT: usize = 40;
    pub(super) const SMI_COMMAND: usize = 48;
    pub(super) const ACPI_ENABLE: usize = 52;
    pub(super) const PM1A_CONTROL: usize = 64;
    pub(super) const PM1B_CONTROL: usize = 68;
    pub(super) const FLAGS: usize = 112;
    pub(super) const RESET_REGISTER: usize = 116;
    pub(super) const RESET_VALUE: usize = 128;
    pub(super) const X_DSDT: usize = 140;
    pub(super) const X_PM1A_CONTROL: usize = 172;
    pub(super) const X_PM1B_CONTROL: usize = 184;
}

/// FADT flag: there is a reset register.
const HAS_RESET: u32 = 1 << 10;
/// FADT flag: there are no fixed registers at all.
const HARDWARE_REDUCED: u32 = 1 << 20;
/// Address space of I/O ports in a generic address.
const IO_PORTS: u8 = 1;

/// In the PM1 control register: ACPI is switched on.
pub const SCI_ENABLED: u16 = 1;
/// In the PM1 control register: go to sleep.
const SLEEP_ENABLE: u16 = 1 << 13;
/// In the PM1 control register: where the sleep type stands, and its bits.
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE: u16 = 7;

/// The DSDT's physical address, that of version 2 first; None where there is
/// none.
pub fn dsdt(fadt: &[u8]) -> Option<u64> {
    let wide = u64_at(fadt, at::X_DSDT).filter(|&addr| addr != 0);
    wide.or_else(|| u32_at(fadt, at::DSDT).map(u64::from).filter(|&addr| addr != 0))
}

/// The port that a generic address at `offset` means (ACPI 6.5, 5.2.3.2).
fn port(fadt: &[u8], offset: usize) -> Option<u16> {
    let space = *fadt.get(offset)?;
    let addr = u64_at(fadt, offset + 4)?;
    u16::try_from(addr).ok().filter(|&port| space == IO_PORTS && port != 0)
}

/// A register's port, by the field of version 2, else by that of version 1.
fn register(fadt: &[u8], wide: usize, narrow: usize) -> Option<u16> {
    let old = || u16::try_from(u32_at(fadt, narrow)?).ok().filter(|&port| port != 0);
    port(fadt, wide).or_else(old)
}

/// What the two PM1 control registers' sleep types are to be for a sleeping
/// state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SleepType {
    /// For the first register.
    pub a: u16,
    /// For the second.
    pub b: u16,
}

/// How S5 is entered: switched off by software.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerOff {
    /// Port of the first PM1 control register.
    pub pm1a: u16,
    /// Port of the second, where there is one.
    pub pm1b: Option<u16>,
    /// Port and byte that switch ACPI on, if that may have to be done.
    pub enable: Option<(u16, u8)>,
    /// What the registers are to hold.
    pub sleep_type: SleepType,
}

impl PowerOff {
    /// From the FADT and the tables that hold byte code. None where the machine
    /// cannot be switched off by ports, or does not say how.
    pub fn find<'t>(fadt: &[u8], code: impl IntoIterator<Item = &'t [u8]>) -> Option<Self> {
        if u32_at(fadt, at::FLAGS)? & HARDWARE_REDUCED != 0 {
            return None;
        }
        let command = u16::try_from(u32_at(fadt, at::SMI_COMMAND)?).ok()?;
        let value = *fadt.get(at::ACPI_ENABLE)?;
        Some(Self {
            pm1a: register(fadt, at::X_PM1A_CONTROL, at::PM1A_CONTROL)?,
            pm1b: register(fadt, at::X_PM1B_CONTROL, at::PM1B_CONTROL),
            enable: (command != 0 && value != 0).then_some((command, value)),
            sleep_type: code.into_iter().find_map(s5)?,
        })
    }

    /// What is to be written to a control register that holds `now`: the sleep
    /// type first, then also the order to sleep.
    pub fn values(now: u16, sleep_type: u16) -> [u16; 2] {
        let others = now & !(SLEEP_TYPE << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
        let chosen = others | (sleep_type & SLEEP_TYPE) << SLEEP_TYPE_SHIFT;
        [chosen, chosen | SLEEP_ENABLE]
    }
}

/// The port and the byte that start the machine anew, where the FADT has them.
pub fn reset(fadt: &[u8]) -> Option<(u16, u8)> {
    let has = u32_at(fadt, at::FLAGS)? & HAS_RESET != 0;
    let port = port(fadt, at::RESET_REGISTER).filter(|_| has)?;
    Some((port, *fadt.get(at::RESET_VALUE)?))
}

/// Opcodes of the byte code (ACPI 6.5, 20.3).
const NAME: u8 = 0x08;
const PACKAGE: u8 = 0x12;
const ROOT: u8 = b'\\';
const BYTE: u8 = 0x0a;
const WORD: u8 = 0x0b;
const DWORD: u8 = 0x0c;
const QWORD: u8 = 0x0e;
const ONES: u8 = 0xff;

/// The sleep types of S5, from the first package that is defined by the name
/// `_S5_` in a table of byte code. What only looks like one is passed over.
pub fn s5(table: &[u8]) -> Option<SleepType> {
    let mut rest = table;
    loop {
        let found = rest.windows(4).position(|window| window == b"_S5_")?;
        let (before, after) = (&rest[..found], &rest[found + 4..]);
        let before = before.strip_suffix(&[ROOT]).unwrap_or(before);
        let sleep_type = package(after).filter(|_| before.ends_with(&[NAME]));
        if sleep_type.is_some() {
            return sleep_type;
        }
        rest = after;
    }
}

/// The first two numbers of the package that begins `code`.
fn package(code: &[u8]) -> Option<SleepType> {
    let body = code.strip_prefix(&[PACKAGE])?;
    let lead = usize::from(*body.first()?);
    // The two upper bits say how many bytes of length follow.
    let (more, low) = (lead >> 6, if lead < 0x40 { lead & 0x3f } else { lead & 0xf });
    let high = body.get(1..=more)?.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let (count, elements) =
        body.get(..high << (4 * usize::from(more > 0)) | low)?.get(1 + more..)?.split_first()?;
    let (a, elements) = number(elements)?;
    // Some firmware leaves out the second, which is then the first again.
    let b = if *count < 2 { a } else { number(elements)?.0 };
    Some(SleepType { a, b })
}

/// The number that begins `code`, as far as a sleep type needs it, and what
/// follows.
fn number(code: &[u8]) -> Option<(u16, &[u8])> {
    let (&opcode, rest) = code.split_first()?;
    let (value, bytes) = match opcode {
        0 | 1 => (u16::from(opcode), 0),
        ONES => (u16::MAX, 0),
        BYTE => (u16::from(*rest.first()?), 1),
        WORD => (u16_at(rest, 0)?, 2),
        DWORD => (u16_at(rest, 0)?, 4),
        QWORD => (u16_at(rest, 0)?, 8),
        _ => return None,
    };
    Some((value, rest.get(bytes..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use acpi_tables::Aml;
    use acpi_tables::aml::{Name, Package, PackageBuilder};
    use proptest::prelude::*;

    /// The FADT of QEMU 7.2's machine `pc`: version 1, 116 bytes.
    const PC: [(usize, &[u8]); 5] = [
        (40, &[0x40, 0x00, 0xfe, 0x03]),
        (48, &[0xb2, 0, 0, 0, 0xf1, 0xf0]),
        (56, &[0x00, 0x06, 0, 0]),
        (64, &[0x04, 0x06, 0, 0]),
        (112, &[0xa5, 0x80, 0, 0]),
    ];
    /// That of its machine `q35`: version 3, 244 bytes.
    const Q35: [(usize, &[u8]); 7] = [
        (40, &[0x40, 0x00, 0xfe, 0x03]),
        (48, &[0xb2, 0, 0, 0, 0x02, 0x03]),
        (64, &[0x04, 0x06, 0, 0]),
        (112, &[0xa5, 0x84, 0, 0, 0x01, 0x08, 0, 0, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 0x0f]),
        (140, &[0x40, 0x00, 0xfe, 0x03, 0, 0, 0, 0]),
        (172, &[0x01, 0x10, 0, 0, 0x04, 0x06, 0, 0, 0, 0, 0, 0]),
        (184, &[0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];

    fn fadt(len: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut table = vec![0; len];
        for &(at, bytes) in fields {
            table[at..at + bytes.len()].copy_from_slice(bytes);
        }
        table
    }

    /// Around `_S5_` in the DSDT of both machines.
    const QEMU: &[u8] = b"\x00\x08_S5_\x12\x06\x04\x00\x00\x00\x00\x10;\\";

    #[test]
    fn qemus_machines_say_how_they_are_switched_off() {
        let sleep_type = SleepType { a: 0, b: 0 };
        let mut expected =
            PowerOff { pm1a: 0x604, pm1b: None, enable: Some((0xb2, 0xf1)), sleep_type };
        assert_eq!(PowerOff::find(&fadt(116, &PC), [&b"no"[..], QEMU]), Some(expected));
        expected.enable = Some((0xb2, 0x02));
        assert_eq!(PowerOff::find(&fadt(244, &Q35), [QEMU]), Some(expected));
        assert_eq!(PowerOff::find(&fadt(244, &Q35), [&b""[..]]), None);

        assert_eq!(reset(&fadt(116, &PC)), None);
        assert_eq!(reset(&fadt(244, &Q35)), Some((0xcf9, 0x0f)));
        assert_eq!(dsdt(&fadt(116, &PC)), Some(0x3fe_0040));
        assert_eq!(dsdt(&fadt(244, &Q35)), Some(0x3fe_0040));
    }

    #[test]
    fn a_table_that_is_short_or_has_no_ports_says_nothing() {
        for len in 0..116 {
            assert_eq!(PowerOff::find(&fadt(116, &PC)[..len], [QEMU]), None, "{len} bytes");
            assert_eq!(reset(&fadt(244, &Q35)[..len]), None, "{len} bytes");
        }
        // Registers in memory, or none at all.
        let mut table = fadt(244, &Q35);
        table[172] = 0;
        assert_eq!(PowerOff::find(&table, [QEMU]).map(|off| off.pm1a), Some(0x604));
        table[64..68].fill(0);
        assert_eq!(PowerOff::find(&table, [QEMU]), None);
        table[116] = 0;
        assert_eq!(reset(&table), None);
        let mut reduced = fadt(244, &Q35);
        reduced[114] = 0x10;
        assert_eq!(PowerOff::find(&reduced, [QEMU]), None);
    }

    /// Byte code that defines `name` as the package of `numbers`.
    fn defined(name: &str, numbers: &[&dyn Aml]) -> Vec<u8> {
        let mut bytes = vec![0x5b, 0x80];
        Name::new(name.into(), &Package::new(numbers.to_vec())).to_aml_bytes(&mut bytes);
        bytes
    }

    #[test]
    fn packages_come_in_many_shapes() {
        let both = |a, b| Some(SleepType { a, b });
        assert_eq!(s5(&defined("_S5_", &[&5u8, &7u8])), both(5, 7));
        assert_eq!(s5(&defined("\\_S5_", &[&1u8, &0u8, &0u8, &0u8])), both(1, 0));
        assert_eq!(s5(&defined("_S5_", &[&0x1234u16, &5u32, &9u64])), both(0x1234, 5));
        assert_eq!(s5(&defined("_S5_", &[&6u8])), both(6, 6));
        assert_eq!(s5(&defined("_S4_", &[&6u8, &6u8])), None);
        // One with a length of two bytes.
        let mut long = PackageBuilder::new();
        (0..60u64).for_each(|i| long.add_element(&(0x1_0000_0000 + i)));
        let mut bytes = Vec::new();
        Name::new("_S5_".into(), &long).to_aml_bytes(&mut bytes);
        assert_eq!(s5(&bytes), both(0, 1));
        // A mention before the definition, a method instead of a package.
        let mention = [&b"\x70\x00_S5_\x08_S5_\x0a\x05"[..], &defined("_S5_", &[&3u8, &4u8])];
        assert_eq!(s5(&mention.concat()), both(3, 4));
        assert_eq!(s5(b"\x14\x0b_S5_\x00\xa4\x12\x03\x01\x00"), None);
        // A package that says it is larger than the table, or smaller than itself.
        assert_eq!(s5(b"\x08_S5_\x12\x3f\x04\x00\x00"), None);
        assert_eq!(s5(b"\x08_S5_\x12\x01\x04\x00\x00"), None);
    }

    #[test]
    fn a_register_keeps_what_is_not_about_sleep() {
        assert_eq!(PowerOff::values(0x0001, 5), [0x1401, 0x3401]);
        assert_eq!(PowerOff::values(0xffff, 0), [0xc3ff, 0xe3ff]);
        assert_eq!(PowerOff::values(0, 0xfff8), [0, 0x2000]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_harm(
            table in proptest::collection::vec(any::<u8>(), 0..300),
            code in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let code = [b"\x08_S5_\x12", &code[..]].concat();
            s5(&code);
            PowerOff::find(&table, [&code[..]]);
            reset(&table);
            dsdt(&table);
        }
    }
}
