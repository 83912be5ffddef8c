//! What is made of the firmware's affinity tables: of whole ones what Linux
//! makes of them, of others one node. The tables are built by `acpi_tables`.

use acpi_tables::sdt::Sdt;
use acpi_tables::slit::SLIT;
use acpi_tables::srat::MemoryAffinity as Listed;
use acpi_tables::{Aml, AmlSink};
use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::numa::{CpuAffinity, Distances, MemoryAffinity, NumaTables, Topology};
use mm::firmware::{MovableSplit, ZoneLayout, report_nodes};
use mm::types::{MAX_NODES, NodeId, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use proptest::prelude::*;

/// A table under construction.
struct Srat(Sdt);

impl Srat {
    fn new(revision: u8) -> Self {
        let mut table = Sdt::new(*b"SRAT", 36, revision, *b"QUARRY", *b"TESTSRAT", 1);
        table.append(1u32);
        table.append(0u64);
        Self(table)
    }

    fn local_apic(mut self, domain: u32, apic_id: u8, flags: u32) -> Self {
        let [lo, hi @ ..] = domain.to_le_bytes();
        self.0.append_slice(&[0, 16, lo, apic_id]);
        self.0.append(flags);
        self.0.append_slice(&[0, hi[0], hi[1], hi[2], 0, 0, 0, 0]);
        self
    }

    fn x2apic(mut self, domain: u32, apic_id: u32) -> Self {
        self.0.append_slice(&[2, 24, 0, 0]);
        for word in [domain, apic_id, 1, 0, 0] {
            self.0.append(word);
        }
        self
    }

    fn listed(mut self, memory: Listed) -> Self {
        // Not through the table's own sink, which takes a byte at a time.
        struct Bytes(Vec<u8>);
        impl AmlSink for Bytes {
            fn byte(&mut self, byte: u8) {
                self.0.push(byte);
            }
        }
        let mut bytes = Bytes(Vec::new());
        memory.to_aml_bytes(&mut bytes);
        self.0.append_slice(&bytes.0);
        self
    }

    fn memory(self, domain: u32, start: u64, end: u64) -> Self {
        self.listed(Listed::new(domain, start, end - start).enabled())
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.to_aml_bytes(&mut bytes);
        bytes
    }
}

/// Makes the checksum right after bytes were changed.
fn sign(table: &mut [u8]) {
    if let Some(length) = table.first_chunk::<8>().map(|head| head[4..].try_into().unwrap()) {
        let length = (u32::from_le_bytes(length) as usize).min(table.len());
        if length > 9 {
            let sum = table[..length].iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
            table[9] = table[9].wrapping_sub(sum);
        }
    }
}

fn slit(rows: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    SLIT::new(*b"QUARRY", *b"TESTSLIT", 1, rows.len() as u32).to_aml_bytes(&mut bytes);
    for (row, out) in rows.iter().zip(bytes[44..].chunks_exact_mut(rows.len())) {
        out.copy_from_slice(row);
    }
    sign(&mut bytes);
    bytes
}

fn ram(ranges: &[(u64, u64)]) -> Vec<RamRange> {
    let range = |&(start, end)| PfnRange::new(Pfn::containing(start), Pfn::containing(end));
    ranges.iter().map(|r| RamRange { range: range(r), node: NodeId(0) }).collect()
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// RAM of a PC with 2 GiB.
fn pc() -> Vec<RamRange> {
    ram(&[(0x1000, 0x9f000), (0x10_0000, 0x7ffe_0000)])
}

/// What was found, and the log.
struct Found {
    nodes: usize,
    domains: Vec<u32>,
    /// Start and end in MiB, and the node, of each piece of RAM.
    pieces: Vec<(u64, u64, u8)>,
    early: Vec<RamRange>,
    distances: Distances,
    log: Vec<String>,
    warnings: Vec<String>,
    cpus: Vec<u8>,
}

fn read(srat: Option<&[u8]>, slit: Option<&[u8]>, ram: &[RamRange]) -> Found {
    let (mut log, mut warnings) = (Vec::new(), Vec::new());
    let (mut memory, mut cpus) = ([MemoryAffinity::EMPTY; 32], [CpuAffinity::EMPTY; 16]);
    let tables = NumaTables { srat, slit };
    let topology = Topology::read(tables, ram, &mut memory, &mut cpus, &mut |note| {
        if note.is_warning() { &mut warnings } else { &mut log }.push(note.to_string());
    });
    let (mut ranges, mut reserved) = ([RamRange::EMPTY; 128], [Reservation::EMPTY; 8]);
    let mut early = EarlyMem::new(&mut ranges, &mut reserved);
    ram.iter().for_each(|r| early.add_ram(r.range, r.node));
    topology.apply(&mut early);
    assert!(early.lost().is_nothing());
    assert_eq!(early.present_pages(), ram.iter().map(|r| r.range.pages()).sum::<u64>());
    let piece = |r: &RamRange| (r.range.start.addr() / MIB, r.range.end.addr() / MIB, r.node.0);
    Found {
        nodes: topology.nodes(),
        domains: topology.node_ids().filter_map(|node| topology.domain(node)).collect(),
        pieces: early.ram().iter().map(piece).collect(),
        early: early.ram().to_vec(),
        distances: *topology.distances(),
        log,
        warnings,
        cpus: (0..16).map(|apic| topology.node_of_apic(apic).0).collect(),
    }
}

/// Two nodes with a GiB and a CPU each, as QEMU describes them.
fn two_nodes() -> Srat {
    Srat::new(1)
        .local_apic(0, 0, 1)
        .local_apic(1, 1, 1)
        .memory(0, 0, 640 << 10)
        .memory(0, MIB, GIB)
        .memory(1, GIB, 2 * GIB)
        .listed(Listed::new(0, 0, 0))
}

/// A machine that Linux 6.12 was booted on; see also how its zones came out.
#[test]
fn qemus_two_nodes_in_linuxs_words() {
    let (srat, slit) = (two_nodes().bytes(), slit(&[&[10, 20], &[20, 10]]));
    assert_eq!((srat.len(), slit.len()), (0xf0, 0x30));
    let found = read(Some(&srat), Some(&slit), &pc());
    let want = [
        "SRAT: PXM 0 -> APIC 0x00 -> Node 0",
        "SRAT: PXM 1 -> APIC 0x01 -> Node 1",
        "ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x0009ffff]",
        "ACPI: SRAT: Node 0 PXM 0 [mem 0x00100000-0x3fffffff]",
        "ACPI: SRAT: Node 1 PXM 1 [mem 0x40000000-0x7fffffff]",
        "NUMA: Initialized distance table, cnt=2",
        "NUMA: Node 0 [mem 0x00001000-0x0009ffff] + [mem 0x00100000-0x3fffffff] -> \
         [mem 0x00001000-0x3fffffff]",
    ];
    assert_eq!(found.log, want);
    assert_eq!(found.warnings, [""; 0]);
    assert_eq!(found.nodes, 2);
    assert_eq!(found.cpus[..2], [0, 1]);

    let layout = ZoneLayout::new(&found.early, MovableSplit::default());
    let mut lines = Vec::new();
    report_nodes(&layout, &found.early, found.nodes, &mut |line| lines.push(line.to_string()));
    let want = [
        "Movable zone start for each node",
        "Early memory node ranges",
        "  node   0: [mem 0x0000000000001000-0x000000000009efff]",
        "  node   0: [mem 0x0000000000100000-0x000000003fffffff]",
        "  node   1: [mem 0x0000000040000000-0x000000007ffdffff]",
        "Initmem setup node 0 [mem 0x0000000000001000-0x000000003fffffff]",
        "Initmem setup node 1 [mem 0x0000000040000000-0x000000007ffdffff]",
    ];
    assert_eq!(lines, want);
    let zone = |node, kind| {
        let span = layout.span(&found.early, NodeId(node), kind);
        (span.start.0, span.pages(), layout.present(&found.early, NodeId(node), kind))
    };
    assert_eq!(zone(0, ZoneKind::Dma), (1, 4095, 3998));
    assert_eq!(zone(0, ZoneKind::Dma32), (4096, 258_048, 258_048));
    assert_eq!(zone(1, ZoneKind::Dma), (0, 0, 0));
    assert_eq!(zone(1, ZoneKind::Dma32), (262_144, 262_112, 262_112));
    assert_eq!(zone(1, ZoneKind::Normal), (0, 0, 0));
}

#[test]
fn without_tables_there_is_one_node() {
    let found = read(None, None, &pc());
    let want = [
        "No NUMA configuration found",
        "Faking a node at [mem 0x0000000000000000-0x000000007ffdffff]",
    ];
    assert_eq!(found.log, want);
    assert_eq!((found.nodes, found.warnings.len()), (1, 0));
    assert_eq!(found.cpus, [0; 16]);
}

#[test]
fn the_command_line_can_turn_nodes_off() {
    let mut lines = Vec::new();
    let topology = Topology::off(&pc(), &mut |note| lines.push(note.to_string()));
    assert_eq!(lines[0], "NUMA turned off");
    assert_eq!((topology.nodes(), topology.domain(NodeId(0))), (1, Some(0)));
}

#[test]
fn domains_become_dense_nodes_in_the_order_of_their_processors() {
    // The memory of domain 3 is listed before that of 700.
    let srat = Srat::new(2)
        .x2apic(700, 9)
        .local_apic(0x0103, 4, 1)
        .local_apic(5, 7, 0)
        .memory(0x0103, 0, GIB)
        .memory(700, GIB, 2 * GIB)
        .bytes();
    let found = read(Some(&srat), None, &pc());
    assert_eq!(found.warnings, [""; 0]);
    assert_eq!(found.domains, [700, 0x103]);
    assert_eq!(found.pieces, [(0, 0, 1), (1, 1024, 1), (1024, 2047, 0)]);
    // APIC 7 is not enabled: as if it were not listed.
    assert_eq!((found.cpus[9], found.cpus[4], found.cpus[7]), (0, 1, 0));
    assert_eq!(found.log[0], "SRAT: PXM 700 -> APIC 0x0009 -> Node 0");
}

#[test]
fn old_tables_have_domains_of_eight_bits() {
    let srat = Srat::new(1)
        .local_apic(0xabcd_ef01, 0, 1)
        .memory(0x1234_5601, 0, GIB)
        .memory(2, GIB, 2 * GIB)
        .bytes();
    let found = read(Some(&srat), None, &pc());
    assert_eq!((found.nodes, found.domains), (2, vec![1, 2]));
}

#[test]
fn distances_are_by_domain_and_may_differ_by_direction() {
    let srat = Srat::new(3).memory(2, 0, GIB).memory(0, GIB, 2 * GIB).bytes();
    let table = slit(&[&[10, 40, 31], &[40, 10, 40], &[21, 40, 10]]);
    let found = read(Some(&srat), Some(&table), &pc());
    assert_eq!((found.nodes, found.warnings.len()), (2, 0));
    assert_eq!(found.distances.get(NodeId(0), NodeId(1)), 21);
    assert_eq!(found.distances.get(NodeId(1), NodeId(0)), 31);
    assert_eq!(found.distances.get(NodeId(1), NodeId(1)), 10);
    // A table that knows fewer domains leaves the others at 20.
    let found = read(Some(&srat), Some(&slit(&[&[10]])), &pc());
    assert_eq!((found.nodes, found.distances), (2, Distances::default()));
}

#[test]
fn nodes_may_interleave_and_lie_around_each_other() {
    let mib = |n: u64| n * MIB;
    let srat = Srat::new(3)
        .memory(1, mib(300), mib(500))
        .memory(0, 0, mib(100))
        .memory(1, mib(100), mib(200))
        .memory(0, mib(200), mib(300))
        .memory(0, mib(600), mib(700))
        .bytes();
    let ram = ram(&[(0, mib(400)), (mib(450), mib(500)), (mib(600), mib(700))]);
    let found = read(Some(&srat), None, &ram);
    let want =
        [(0, 100, 1), (100, 200, 0), (200, 300, 1), (300, 400, 0), (450, 500, 0), (600, 700, 1)];
    assert_eq!(found.pieces, want);
    assert_eq!(found.warnings, [""; 0]);
}

#[test]
fn borders_are_those_of_pageblocks() {
    let mib = |n: u64| n * MIB;
    // Node 0 has the first MiB of a pageblock, node 1 the rest; then a hole
    // inside a pageblock, whose RAM is all node 2's; a node that is too small.
    let srat = Srat::new(3)
        .memory(0, 0, mib(65))
        .memory(1, mib(65), mib(100))
        .memory(2, mib(101), mib(121))
        .memory(3, mib(121), mib(122))
        .memory(4, mib(122), mib(200))
        .bytes();
    let whole = [(0, mib(100)), (mib(101), mib(200))];
    let found = read(Some(&srat), None, &ram(&whole));
    let want = [(0, 66, 0), (66, 100, 1), (101, 122, 2), (122, 200, 4)];
    assert_eq!((found.nodes, &found.pieces[..]), (5, &want[..]));
    // RAM that is on no node, if it is little, goes with what is below it.
    let found = read(Some(&srat), None, &ram(&[(0, mib(100)), (mib(101), mib(200) + (1 << 16))]));
    assert_eq!(found.pieces.last(), Some(&(122, 200, 4)));
}

#[test]
fn nodes_without_memory_and_places_for_more() {
    let srat = Srat::new(3)
        .local_apic(0, 0, 1)
        .local_apic(1, 1, 1)
        .memory(0, 0, 2 * GIB)
        .listed(Listed::new(1, 4 * GIB, 4 * GIB).enabled().hotpluggable())
        .listed(Listed::new(2, 8 * GIB, 4 * GIB).enabled().hotpluggable().nonvolatile())
        .listed(Listed::new(3, 12 * GIB, GIB).enabled())
        .bytes();
    let found = read(Some(&srat), None, &pc());
    assert_eq!(found.nodes, 4);
    assert_eq!(found.cpus[1], 1);
    assert!(found.pieces.iter().all(|p| p.2 == 0));
    assert_eq!(found.warnings, ["SRAT: Node 3 has neither memory nor processors"]);
    assert!(
        found.log.iter().any(|l| l.ends_with("-0x2ffffffff] hotplug non-volatile")),
        "{:?}",
        found.log
    );

    let layout = ZoneLayout::new(&found.early, MovableSplit::default());
    let mut lines = Vec::new();
    report_nodes(&layout, &found.early, found.nodes, &mut |line| lines.push(line.to_string()));
    assert_eq!(lines[lines.len() - 1], "Initmem setup node 3 as memoryless");
}

#[test]
fn more_domains_than_nodes_are_cut_off() {
    let step = 100 * MIB;
    let srat = (0..18)
        .fold(Srat::new(3), |t, i| t.memory(i, u64::from(i) * step, (u64::from(i) + 1) * step));
    let srat = (0..18).fold(srat, |t, i| t.x2apic(17 - i, i)).bytes();
    let found = read(Some(&srat), None, &ram(&[(0, 18 * step)]));
    assert_eq!(found.nodes, MAX_NODES);
    let want = "SRAT: more than 16 proximity domains: PXM 1 and further ones count as Node 0";
    assert_eq!(found.warnings[0], want);
    // Also two processors more than there is room for.
    assert_eq!(found.warnings[1], "SRAT: more than 16 processors: further ones count as on Node 0");
    assert_eq!(found.warnings.len(), 2);
    assert_eq!((found.cpus[0], found.cpus[15]), (0, 15));
    assert_eq!(found.pieces[..3], [(0, 200, 0), (200, 300, 15), (300, 400, 14)]);
}

/// A warning that says why, and one node.
fn refused(srat: &[u8], slit: Option<&[u8]>, why: &str) {
    let found = read(Some(srat), slit, &pc());
    let want = format!("NUMA: {why}: the firmware's tables are not used");
    assert_eq!(found.warnings.last(), Some(&want));
    let end = &found.log[found.log.len() - 2..];
    assert_eq!(end[0], "No NUMA configuration found");
    assert!(end[1].starts_with("Faking a node at "));
    assert_eq!((found.nodes, found.domains), (1, vec![0]));
    assert_eq!(found.distances, Distances::default());
    assert_eq!(found.cpus, [0; 16]);
    assert_eq!(found.early, pc());
}

#[test]
fn what_cannot_be_believed_gives_one_node() {
    let good = two_nodes().bytes();
    let far = slit(&[&[10, 20], &[20, 10]]);
    refused(&[], None, "a table without its name");
    refused(&far, None, "a table without its name");
    refused(&good[..7], None, "a table is cut short");
    refused(&good[..good.len() - 1], None, "a table is cut short");
    let mut flipped = good.clone();
    flipped[60] ^= 4;
    refused(&flipped, None, "a table's checksum is wrong");
    // An entry that reaches beyond the end, one that is too short, one of no
    // length at all, and a single byte at the end.
    for (at, length, why) in [
        (200, 48, "a table is cut short"),
        (80, 39, "SRAT: an entry of type 1 is too short"),
        (80, 0, "SRAT: an entry of type 1 is too short"),
        (48, 15, "SRAT: an entry of type 0 is too short"),
    ] {
        let mut table = good.clone();
        table[at + 1] = length;
        sign(&mut table);
        refused(&table, None, why);
    }
    let mut tail = good.clone();
    tail.push(9);
    tail[4] += 1;
    sign(&mut tail);
    refused(&tail, None, "a table is cut short");

    let srat = |table: Srat, why| refused(&table.bytes(), None, why);
    srat(Srat::new(3).local_apic(0, 0, 1), "SRAT: no memory is listed");
    srat(two_nodes().x2apic(1024, 5), "SRAT: Too many proximity domains 0x400");
    srat(two_nodes().x2apic(0, 1), "SRAT: APIC 0x1 is on two nodes");
    srat(
        two_nodes().listed(Listed::new(1, u64::MAX - 9, 11).enabled()),
        "SRAT: memory from 0xfffffffffffffff6 on has no end",
    );
    srat(
        two_nodes().memory(1, GIB - 4096, GIB),
        "node 0 [mem 0x00100000-0x3fffffff] overlaps with node 1 [mem 0x3ffff000-0x3fffffff]",
    );
    srat(
        Srat::new(3).memory(0, 0, GIB).memory(1, GIB, 2 * GIB - 2 * MIB),
        "no nodes coverage for 1MB of 2047MB RAM",
    );
    srat(Srat::new(3).memory(0, 8 * GIB, 9 * GIB), "no nodes coverage for 2047MB of 2047MB RAM");
    let many = (0..33)
        .fold(Srat::new(3), |t, i| t.memory(i % 2, u64::from(i) << 26, u64::from(i + 1) << 26));
    srat(many, "SRAT: more than 32 ranges of memory");

    for (rows, why) in [
        ([&[10, 9], &[20, 10]], "SLIT: 9 as distance from PXM 0 to 1"),
        ([&[10, 20], &[20, 11]], "SLIT: 11 as distance from PXM 1 to 1"),
        ([&[10, 20], &[10, 10]], "SLIT: 10 as distance from PXM 1 to 0"),
        ([&[0, 20], &[20, 10]], "SLIT: 0 as distance from PXM 0 to 0"),
    ] {
        refused(&good, Some(&slit(&[&rows[0][..], &rows[1][..]])), why);
    }
    refused(&good, Some(&far[..46]), "a table is cut short");
    // Widths whose squares are too large, or larger than numbers go.
    for width in [3u64, 1 << 16, 1 << 32, u64::MAX] {
        let mut wide = far.clone();
        wide[36..44].copy_from_slice(&width.to_le_bytes());
        sign(&mut wide);
        refused(&good, Some(&wide), "a table is cut short");
    }
}

#[test]
fn a_node_may_repeat_itself() {
    let found = read(Some(&two_nodes().memory(1, GIB + MIB, GIB + 2 * MIB).bytes()), None, &pc());
    let want = "NUMA: Warning: node 1 [mem 0x40000000-0x7fffffff] overlaps with itself \
                [mem 0x40100000-0x401fffff]";
    assert_eq!((found.nodes, found.warnings), (2, vec![want.to_owned()]));
}

/// Whatever the tables say, what comes out makes sense; `read` has checked that
/// no RAM was lost.
fn sane(found: &Found) {
    assert!((1..=MAX_NODES).contains(&found.nodes));
    assert!(found.early.iter().all(|r| usize::from(r.node.0) < found.nodes));
    assert!(found.cpus.iter().all(|&node| usize::from(node) < found.nodes));
    let block = |pfn: Pfn| pfn.0 / PAGEBLOCK_PAGES;
    for pair in found.early.windows(2) {
        let [low, high] = pair else { continue };
        let shared = block(Pfn(low.range.end.0 - 1)) == block(high.range.start);
        assert!(!shared || low.node == high.node, "a pageblock on two nodes: {pair:?}");
    }
    for (a, b) in (0..found.nodes as u8).flat_map(|a| (0..found.nodes as u8).map(move |b| (a, b))) {
        let distance = found.distances.get(NodeId(a), NodeId(b));
        assert!(if a == b { distance == 10 } else { distance > 10 });
    }
}

fn entry() -> impl Strategy<Value = (u8, u32, u64, u64)> {
    let edge = prop_oneof![0..64u64, 2040..2060u64, Just(u64::MAX / MIB)];
    (0..4u8, prop_oneof![0..20u32, any::<u32>()], edge.clone(), edge)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_tables(srat in prop::collection::vec(any::<u8>(), 0..200), slit in prop::collection::vec(any::<u8>(), 0..100)) {
        sane(&read(Some(&srat), Some(&slit), &pc()));
    }

    /// Headers right, everything else random.
    #[test]
    fn random_entries(body in prop::collection::vec(any::<u8>(), 0..300), distances in prop::collection::vec(any::<u8>(), 0..40), revision in 0..4u8) {
        let mut table = Srat::new(revision);
        table.0.append_slice(&body);
        let mut far = Sdt::new(*b"SLIT", 36, 1, *b"QUARRY", *b"TESTSLIT", 1);
        far.append_slice(&distances);
        let mut bytes = Vec::new();
        far.to_aml_bytes(&mut bytes);
        sane(&read(Some(&table.bytes()), Some(&bytes), &pc()));
    }

    /// Whole entries with odd contents.
    #[test]
    fn odd_entries(entries in prop::collection::vec(entry(), 0..24)) {
        let mut table = Srat::new(3);
        for (kind, domain, a, b) in entries {
            table = match kind {
                0 => table.local_apic(domain, a as u8, 1),
                1 => table.x2apic(domain, b as u32),
                _ => table.listed(Listed::new(domain, a.wrapping_mul(MIB), b.wrapping_mul(MIB)).enabled()),
            };
        }
        sane(&read(Some(&table.bytes()), None, &pc()));
    }

    /// Good tables with some bytes changed and cut off, checksums right.
    #[test]
    fn damaged_tables(changes in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in 0..60usize) {
        let mut tables = [two_nodes().bytes(), slit(&[&[10, 20], &[20, 10]])];
        for (which, at, byte) in changes {
            let table = &mut tables[usize::from(which)];
            let at = at.index(table.len());
            table[at] = byte;
        }
        let [srat, far] = &mut tables;
        srat.truncate(srat.len() - cut.saturating_sub(20));
        far.truncate(far.len() - cut.saturating_sub(48));
        sign(srat);
        sign(far);
        sane(&read(Some(srat), Some(far), &pc()));
    }
}

/// Every byte of a good table with every value.
#[test]
#[cfg_attr(miri, ignore = "takes long; it is safe code")]
fn every_single_byte_changed() {
    let good = two_nodes().bytes();
    let far = slit(&[&[10, 20], &[20, 10]]);
    let mut twos = 0;
    for byte in 0..=255 {
        for at in 0..good.len() {
            let mut table = good.clone();
            table[at] = byte;
            sign(&mut table);
            let found = read(Some(&table), Some(&far), &pc());
            sane(&found);
            twos += u32::from(found.nodes == 2);
        }
        for at in 0..far.len() {
            let mut table = far.clone();
            table[at] = byte;
            sign(&mut table);
            sane(&read(Some(&good), Some(&table), &pc()));
        }
    }
    assert!(twos > 1000, "most bytes are reserved: {twos}");
}
