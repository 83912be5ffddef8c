//! Tables built by a crate that virtual machine monitors use, whole and broken.

use super::*;
use acpi_tables::Aml;
use acpi_tables::fadt::FADTBuilder;
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use mm::types::CpuId;
use proptest::prelude::*;

const OEM: [u8; 6] = *b"QUARRY";
const TABLE: [u8; 8] = *b"TEST    ";

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A MADT of version `revision` with `entries` as they are.
fn madt(revision: u8, entries: &[&[u8]]) -> Vec<u8> {
    let mut sdt = Sdt::new(*b"APIC", 44, revision, OEM, TABLE, 1);
    sdt.write_u32(36, 0xfee0_0000);
    for entry in entries {
        sdt.append_slice(entry);
    }
    sdt.as_slice().to_vec()
}

fn narrow(uid: u8, id: u8, flags: u8) -> [u8; 8] {
    [0, 8, uid, id, flags, 0, 0, 0]
}

fn wide(uid: u32, id: u32, flags: u8) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[..2].copy_from_slice(&[9, 16]);
    entry[4..8].copy_from_slice(&id.to_le_bytes());
    entry[8] = flags;
    entry[12..].copy_from_slice(&uid.to_le_bytes());
    entry
}

const ALL: Limits = Limits { x2apic: true, cpus: MAX_CPUS };

fn list(table: &[u8], boot: u32, limits: Limits) -> (CpuList, Vec<Warning>) {
    let mut warnings = Vec::new();
    let madt = Madt::parse(table).unwrap();
    let list = CpuList::new(&madt, ApicId(boot), limits, &mut |warning| warnings.push(warning));
    (list, warnings)
}

fn ids(list: &CpuList) -> Vec<u32> {
    list.iter().map(|cpu| cpu.apic_id.0).collect()
}

#[test]
fn a_usual_machine() {
    let mut table = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(0xfee0_0000));
    for cpu in 0..4 {
        table.add_structure(ProcessorLocalApic::new(cpu + 10, cpu, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, 0xfec0_0000, 0));
    let (list, warnings) = list(&bytes(&table), 0, ALL);
    assert_eq!(warnings, []);
    assert_eq!(ids(&list), [0, 1, 2, 3]);
    assert_eq!((list.possible(), list.disabled()), (4, 0));
    assert_eq!(list.local_apic, Some(0xfee0_0000));
    assert_eq!(list.get(CpuId(2)).unwrap().uid, 12);
    assert!(list.get(CpuId(4)).is_none());
    assert_eq!(list.of_apic(ApicId(3)), Some(CpuId(3)));
    assert!(list.of_apic(ApicId(4)).is_none());
}

#[test]
fn interrupts_arrive_where_the_table_says() {
    let io_apic = |addr: u32, base: u32| {
        let mut entry = [0; 12];
        entry[..2].copy_from_slice(&[1, 12]);
        entry[4..8].copy_from_slice(&addr.to_le_bytes());
        entry[8..].copy_from_slice(&base.to_le_bytes());
        entry
    };
    let moved = |irq: u8, to: u32, flags: u8| {
        let mut entry = [2, 10, 0, irq, 0, 0, 0, 0, flags, 0];
        entry[4..8].copy_from_slice(&to.to_le_bytes());
        entry
    };
    let irqs = |entries: &[&[u8]]| Irqs::new(&Madt::parse(&madt(4, entries)).unwrap());
    let edge = Signal { active_low: false, level: false };
    let to = |io_apic, pin, signal| Some(Route { io_apic, pin, signal });

    let two = irqs(&[
        &io_apic(0xfec0_0000, 0),
        &io_apic(0xfec0_1000, 24),
        &moved(0, 2, 0),
        &moved(9, 9, 0xf),
        &moved(5, 30, 0xd),
        // No such bus interrupt, and one that is cut off.
        &moved(200, 1, 0),
        &[2, 5, 0, 3, 7],
    ]);
    let addrs: Vec<u32> = two.io_apics().iter().map(|it| it.addr).collect();
    assert_eq!(addrs, [0xfec0_0000, 0xfec0_1000]);
    assert_eq!(two.route(4), to(0, 4, edge));
    assert_eq!(two.route(3), to(0, 3, edge));
    assert_eq!(two.route(0), to(0, 2, edge));
    assert_eq!(two.route(9), to(0, 9, Signal { active_low: true, level: true }));
    assert_eq!(two.route(5), to(1, 6, Signal { active_low: false, level: true }));
    assert_eq!(two.route(16), None);

    // The only one begins above, or there is none at all.
    assert_eq!(irqs(&[&io_apic(0xfec0_0000, 24)]).route(4), None);
    assert_eq!(irqs(&[]).route(4), None);
    assert_eq!(Irqs::NONE.route(4), None);
    let many: Vec<[u8; 12]> = (1..20).map(|at| io_apic(at << 12, at)).collect();
    let many: Vec<&[u8]> = many.iter().map(|entry| &entry[..]).collect();
    assert_eq!(irqs(&many).io_apics().len(), MAX_IO_APICS);
}

#[test]
fn the_boot_cpu_is_first_wherever_it_is_listed() {
    let table = madt(4, &[&narrow(0, 6, 1), &narrow(1, 4, 1), &narrow(2, 2, 1)]);
    let (found, warnings) = list(&table, 4, ALL);
    assert_eq!((ids(&found), warnings), (vec![4, 6, 2], vec![]));
    assert_eq!(found.get(CpuId(0)).unwrap().uid, 1);
    let (found, warnings) = list(&table, 7, ALL);
    assert_eq!(ids(&found), [7, 6, 4, 2]);
    assert_eq!(warnings, [Warning::BootCpuMissing(ApicId(7))]);
}

/// Version 5 of the table says which disabled CPUs may appear; before, all.
#[test]
fn disabled_cpus_come_last_if_at_all() {
    let entries: [&[u8]; 4] =
        [&narrow(0, 0, 1), &narrow(1, 1, 0), &narrow(2, 2, 2), &narrow(3, 3, 1)];
    let (old, warnings) = list(&madt(4, &entries), 0, ALL);
    assert_eq!((ids(&old), warnings), (vec![0, 3, 1, 2], vec![]));
    assert_eq!((old.possible(), old.disabled()), (4, 2));
    assert_eq!(old.get(CpuId(2)).unwrap().presence, Presence::Disabled);
    let (new, warnings) = list(&madt(5, &entries), 0, ALL);
    assert_eq!((ids(&new), warnings), (vec![0, 3, 2], vec![]));
    assert_eq!((new.possible(), new.disabled()), (3, 1));
}

#[test]
fn ids_that_cannot_be() {
    let entries: [&[u8]; 6] = [
        &narrow(0, 0, 1),
        &narrow(1, 0xff, 0),
        &narrow(2, 0xff, 1),
        &wide(3, u32::MAX, 1),
        &wide(4, 0x100, 1),
        &wide(5, 0xff, 1),
    ];
    let (found, warnings) = list(&madt(4, &entries), 0, ALL);
    assert_eq!(ids(&found), [0, 0x100, 0xff]);
    assert_eq!(warnings, [0xff, u32::MAX].map(|id| Warning::BadId(ApicId(id))));
    let (found, warnings) = list(&madt(4, &entries), 0, Limits { x2apic: false, ..ALL });
    assert_eq!(ids(&found), [0]);
    assert!(warnings.contains(&Warning::OutOfReach(ApicId(0x100))), "{warnings:?}");
    assert!(warnings.contains(&Warning::OutOfReach(ApicId(0xff))), "{warnings:?}");
}

/// A CPU may be listed in both forms, but in neither twice.
#[test]
fn repeated_cpus() {
    let both: [&[u8]; 4] = [&narrow(0, 0, 1), &narrow(1, 1, 1), &wide(0, 0, 1), &wide(1, 1, 1)];
    let (found, warnings) = list(&madt(4, &both), 0, ALL);
    assert_eq!((ids(&found), warnings), (vec![0, 1], vec![]));
    let twice: [&[u8]; 5] =
        [&narrow(0, 0, 1), &narrow(1, 1, 1), &narrow(2, 1, 1), &wide(0, 0, 1), &narrow(7, 0, 1)];
    let (found, warnings) = list(&madt(4, &twice), 0, ALL);
    assert_eq!(ids(&found), [0, 1]);
    assert_eq!(warnings, [1, 0].map(|id| Warning::Repeated(ApicId(id))));
    assert_eq!((found.get(CpuId(0)).unwrap().uid, found.get(CpuId(1)).unwrap().uid), (0, 1));
}

#[test]
fn more_cpus_than_anybody_has() {
    let entries: Vec<_> = (0..300).map(|cpu| wide(cpu, cpu, 1)).collect();
    let entries: Vec<&[u8]> = entries.iter().map(|entry| &entry[..]).collect();
    let (found, warnings) = list(&madt(4, &entries), 299, ALL);
    assert_eq!(usize::from(found.possible()), MAX_CPUS);
    assert_eq!(warnings, [Warning::TooManyCpus { left_out: 300 - MAX_CPUS }]);
    // Who asks for few gets few, and no warning.
    let (found, warnings) = list(&madt(4, &entries), 299, Limits { cpus: 0, ..ALL });
    assert_eq!((ids(&found), warnings), (vec![299], vec![]));
}

#[test]
fn nmis_and_the_address() {
    let entries: [&[u8]; 7] = [
        &narrow(3, 0, 1),
        &narrow(4, 1, 1),
        &narrow(5, 2, 1),
        // All CPUs at LINT1, as on every PC; CPU 4 at LINT0, level, low.
        &[4, 6, 0xff, 0, 0, 1],
        &[4, 6, 4, 0b1111, 0, 0],
        &[10, 12, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0],
        &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0],
    ];
    let (found, warnings) = list(&madt(3, &entries), 0, ALL);
    assert_eq!(warnings, []);
    assert_eq!(found.local_apic, Some(0x1_fee0_0000));
    let usual = Lint { pin: LintPin::Lint1, active_low: false, level: false };
    let other = Lint { pin: LintPin::Lint0, active_low: true, level: true };
    let nmis: Vec<_> = found.iter().map(|cpu| cpu.nmi.unwrap()).collect();
    assert_eq!(nmis, [usual, other, usual]);
}

#[test]
fn broken_entries() {
    // Too short for its type; of length 1; running off the table's end.
    let (found, warnings) = list(&madt(3, &[&[0, 3, 0], &narrow(0, 0, 1)]), 0, ALL);
    assert_eq!((ids(&found), warnings), (vec![0], vec![Warning::EntryShort { at: 44, kind: 0 }]));
    for broken in [&[7, 1][..], &[7, 0], &[7], &[0, 9, 1, 1, 1, 0, 0, 0]] {
        let (found, warnings) = list(&madt(3, &[&narrow(0, 0, 1), broken]), 0, ALL);
        assert_eq!((ids(&found), warnings), (vec![0], vec![Warning::EntryLength { at: 52 }]));
    }
}

#[test]
fn other_tables_are_no_madt() {
    let whole = madt(3, &[&narrow(0, 0, 1)]);
    for end in 0..whole.len() {
        assert_eq!(Madt::parse(&whole[..end]).unwrap_err(), Flaw::Truncated, "{end}");
    }
    let mut wrong = whole.clone();
    wrong[50] ^= 1;
    assert_eq!(Madt::parse(&wrong).unwrap_err(), Flaw::Checksum);
    let other = Sdt::new(*b"FACP", 44, 1, OEM, TABLE, 1);
    let flaw = Flaw::Signature(Signature(*b"FACP"));
    assert_eq!(Madt::parse(other.as_slice()).unwrap_err(), flaw);
    let short = Sdt::new(*b"APIC", 43, 1, OEM, TABLE, 1);
    assert_eq!(Madt::parse(short.as_slice()).unwrap_err(), Flaw::Truncated);
}

/// Memory with tables in it, and nothing between.
#[derive(Default)]
struct Ram(Vec<(u64, Vec<u8>)>);

impl<'m> Memory<'m> for &'m Ram {
    fn bytes(&mut self, addr: u64, len: usize) -> Option<&'m [u8]> {
        self.0.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(addr.checked_sub(*start)?).ok()?;
            bytes.get(offset..)?.get(..len)
        })
    }
}

fn found(ram: &Ram, root: u64) -> (Vec<(String, u64)>, Vec<Warning>) {
    let mut warnings = Vec::new();
    let mut memory = ram;
    let tables = walk(&mut memory, root, &mut |warning| warnings.push(warning));
    let names = tables.iter().map(|found| (found.header.signature.to_string(), found.addr));
    (names.collect(), warnings)
}

/// Root pointer at 0x1000, table of tables at 0x2000, with `entries`.
fn rooted(entries: &[u64]) -> Ram {
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    entries.iter().for_each(|&entry| xsdt.add_entry(entry));
    Ram(vec![(0x1000, bytes(&Rsdp::new(OEM, 0x2000))), (0x2000, bytes(&xsdt))])
}

#[test]
fn all_tables_are_found() {
    let mut ram = rooted(&[0x3000, 0, 0x4000]);
    ram.0.push((0x3000, Sdt::new(*b"FACP", 276, 1, OEM, TABLE, 1).as_slice().to_vec()));
    ram.0.push((0x4000, madt(3, &[&narrow(0, 0, 1)])));
    let (tables, warnings) = found(&ram, 0x1000);
    let want = [("XSDT", 0x2000), ("FACP", 0x3000), ("APIC", 0x4000)];
    assert_eq!(tables, want.map(|(name, addr)| (name.to_owned(), addr)));
    assert_eq!(warnings, []);
    let (_, warnings) = found(&ram, 0x9000);
    assert_eq!(warnings, [Warning::Unreachable { addr: 0x9000 }]);
}

#[test]
fn byte_code_is_found_through_the_fadt() {
    let mut ram = rooted(&[0x3000, 0x4000]);
    let fadt = FADTBuilder::new(OEM, TABLE, 1).dsdt_64(0x5000).finalize();
    ram.0.push((0x3000, bytes(&fadt)));
    ram.0.push((0x4000, madt(3, &[&narrow(0, 0, 1)])));
    let (_, warnings) = found(&ram, 0x1000);
    assert_eq!(warnings, [Warning::Unreachable { addr: 0x5000 }]);
    ram.0.push((0x5000, Sdt::new(*b"DSDT", 64, 1, OEM, TABLE, 1).as_slice().to_vec()));
    let (tables, warnings) = found(&ram, 0x1000);
    let want = [("XSDT", 0x2000), ("FACP", 0x3000), ("DSDT", 0x5000), ("APIC", 0x4000)];
    assert_eq!(tables, want.map(|(name, addr)| (name.to_owned(), addr)));
    assert_eq!(warnings, []);
}

#[test]
fn broken_tables_are_left_out() {
    let mut ram = rooted(&[0x3000, 0x4000, 0x5000, 0x6000, 0x7000]);
    let whole = madt(3, &[&narrow(0, 0, 1)]);
    let mut checksum = whole.clone();
    checksum[9] ^= 1;
    let mut length = whole.clone();
    length[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let cut = whole[..whole.len() - 1].to_vec();
    for (at, table) in (3..).zip([checksum, length, cut, whole]) {
        ram.0.push((at << 12, table));
    }
    let (tables, warnings) = found(&ram, 0x1000);
    assert_eq!(tables.last().unwrap(), &("APIC".to_owned(), 0x6000));
    assert_eq!(tables.len(), 2);
    let signature = Some(Signature::MADT);
    let want = [
        Warning::Table { addr: 0x3000, signature, flaw: Flaw::Checksum },
        Warning::Table { addr: 0x4000, signature: None, flaw: Flaw::Length(u32::MAX) },
        Warning::Table { addr: 0x5000, signature, flaw: Flaw::Truncated },
        Warning::Unreachable { addr: 0x7000 },
    ];
    assert_eq!(warnings, want);
}

/// Version 1's root, and what is used when version 2's part is broken.
#[test]
fn the_older_root() {
    let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM, TABLE, 1);
    rsdt.append_slice(&0x4000_u32.to_le_bytes());
    let mut root = vec![0; 20];
    root[..8].copy_from_slice(b"RSD PTR ");
    root[16..20].copy_from_slice(&0x2000_u32.to_le_bytes());
    root[8] = acpi_sum(&root);
    let mut newer = root.clone();
    newer[15] = 2;
    newer[8] = newer[8].wrapping_sub(2);
    newer.extend([0; 16]); // no length, so not whole
    for root in [root, newer] {
        let ram = Ram(vec![
            (0x1000, root),
            (0x2000, rsdt.as_slice().to_vec()),
            (0x4000, madt(3, &[&narrow(0, 0, 1)])),
        ]);
        let (tables, warnings) = found(&ram, 0x1000);
        assert_eq!(tables.iter().map(|found| found.1).collect::<Vec<_>>(), [0x2000, 0x4000]);
        assert_eq!(warnings, []);
    }
}

fn acpi_sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[test]
fn a_root_that_is_none() {
    let good = bytes(&Rsdp::new(OEM, 0x2000));
    let mut checksum = good.clone();
    checksum[10] ^= 1;
    let mut signature = good.clone();
    signature[0] = b'X';
    for (root, flaw) in
        [(checksum, Flaw::Checksum), (signature, Flaw::Signature(Signature(*b"XSD ")))]
    {
        let (tables, warnings) = found(&Ram(vec![(0x1000, root)]), 0x1000);
        assert_eq!((tables, warnings), (vec![], vec![Warning::Root(flaw)]));
    }
    // The table of tables is another table, or points to itself for ever.
    let mut wrong = rooted(&[]);
    wrong.0[1].1 = madt(3, &[]);
    let (tables, warnings) = found(&wrong, 0x1000);
    assert_eq!((tables.len(), warnings.len()), (0, 1));
    let (tables, warnings) = found(&rooted(&[0x2000; 2 * MAX_TABLES]), 0x1000);
    assert_eq!((tables.len(), warnings), (MAX_TABLES, vec![Warning::TooManyTables]));
}

/// Entries of all types that are read, with any content.
fn entry() -> impl Strategy<Value = Vec<u8>> {
    let cpu = (any::<u8>(), 0..8_u8, 0..4_u8).prop_map(|(uid, id, flags)| narrow(uid, id, flags));
    let cpu2 = (0..9_u32, 0..600_u32, 0..4_u8).prop_map(|(uid, id, flags)| wide(uid, id, flags));
    prop_oneof![
        cpu.prop_map(Vec::from),
        cpu2.prop_map(Vec::from),
        (prop_oneof![Just(0_u8), Just(4), Just(5), Just(9), Just(10), any::<u8>()], 0..20_u8)
            .prop_flat_map(|(kind, length)| {
                let rest = usize::from(length.max(2) - 2);
                prop::collection::vec(any::<u8>(), rest)
                    .prop_map(move |rest| [&[kind, length][..], &rest].concat())
            }),
    ]
}

proptest! {
    /// Whatever the entries are: the boot CPU is number 0, ids are distinct and
    /// valid, and the disabled ones come last.
    #[test]
    fn any_list_makes_sense(
        entries in prop::collection::vec(entry(), 0..40),
        revision in 0..7_u8,
        boot in 0..9_u32,
        cpus in 0..12_usize,
        x2apic: bool,
    ) {
        let entries: Vec<&[u8]> = entries.iter().map(|entry| &entry[..]).collect();
        let (found, _) = list(&madt(revision, &entries), boot, Limits { x2apic, cpus });
        let mut seen = ids(&found);
        prop_assert_eq!(seen[0], boot);
        prop_assert!(seen.len() <= cpus.max(1));
        prop_assert!(seen.iter().all(|&id| id < 0xff || (x2apic && id < u32::MAX)));
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), usize::from(found.possible()));
        let disabled: Vec<_> =
            found.iter().map(|cpu| cpu.presence == Presence::Disabled).collect();
        prop_assert!(disabled.is_sorted() && !disabled[0]);
        for (number, cpu) in found.iter().enumerate() {
            prop_assert_eq!(found.of_apic(cpu.apic_id), Some(CpuId(number as u16)));
        }
    }

    /// Damage anywhere is found by the checksum, or does no harm.
    #[test]
    fn damaged_memory(
        damage in prop::collection::vec((0..3_usize, any::<usize>(), any::<u8>()), 1..4),
        repair: bool,
    ) {
        let mut ram = rooted(&[0x3000]);
        ram.0.push((0x3000, madt(3, &[&narrow(0, 0, 1), &narrow(1, 1, 1), &[4, 6, 255, 0, 0, 1]])));
        for (part, at, value) in damage {
            let bytes = &mut ram.0[part].1;
            let at = at % bytes.len();
            bytes[at] = value;
            if repair && part > 0 {
                bytes[9] = 0;
                bytes[9] = acpi_sum(bytes);
            }
        }
        let mut memory = &ram;
        let tables = walk(&mut memory, 0x1000, &mut |warning| {
            let _ = warning.to_string();
        });
        for table in tables.iter() {
            let bytes = memory.bytes(table.addr, table.header.length as usize);
            prop_assert!(super::table(bytes.unwrap()).is_ok());
            if let Ok(madt) = Madt::parse(bytes.unwrap()) {
                let found = CpuList::new(&madt, ApicId(0), ALL, &mut |_| {});
                prop_assert!(found.possible() >= 1);
            }
        }
    }

    /// Any bytes at all.
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Header::parse(&bytes).map(|header| header.to_string());
        let _ = Madt::parse(&bytes).map(|madt| madt.entries().count());
        let ram = Ram(vec![(0, bytes)]);
        let (tables, _) = found(&ram, 0);
        prop_assert!(tables.is_empty());
    }
}

#[test]
fn makers_are_named_whatever_they_wrote() {
    let named = |oem, table| {
        let sdt = Sdt::new(*b"FACP", 44, 1, oem, table, 1);
        Maker(&Header::parse(sdt.as_slice()).unwrap()).to_string()
    };
    assert_eq!(named(OEM, TABLE), "QUARRY TEST");
    assert_eq!(named(*b"A\nB\x1b\xff\0", [0; 8]), "A\\nB\\x1b\\xff ");
}
