//! What a script says a machine is: the lines between `machine` and `end`.
//! Calls the parsers of `mm::cmdline` and `mm::firmware`.
//!
//! ```text
//! machine
//! mem 0x0-0x9fbff usable              # inclusive end; an e820 type, or its number
//! node 1 0x10000000-0x1fffffff cpus=1 # ranges and CPUs; a node may have neither,
//!                                     # node 0 has all RAM that is on no other
//! distance 0 1 30                     # there and back
//! cpus 2
//! cmdline cma=16M movablecore=64M
//! reporting                           # the host takes back what is free
//! disk 1G                             # /dev/vda; the next one is /dev/vdb
//! end
//! ```

use mm::cmdline::{parse_number, parse_size};
use mm::firmware::numa::Distances;
use mm::firmware::{RawRegion, RegionKind, parse_kind};
use mm::types::{MAX_NODES, PAGE_SIZE};
use shell::{Errno, Error, without_comment};

/// CPUs that a machine may have, as many as the kernel would bring up.
const MAX_CPUS: u16 = 256;
/// Ranges that nodes may have, all together.
const MAX_RANGES: usize = 256;
/// Disks that a machine may have.
pub(super) const MAX_DISKS: usize = 4;
/// Bytes of a command line.
const MAX_CMDLINE: usize = 4096;

/// The command line of the machine that is there unless a script describes
/// another; the kernel gets the same where scripts are to run in both.
pub(crate) const DEFAULT_CMDLINE: &str = "cma=16M";

/// QEMU's PC with 512 MiB, as its BIOS describes it.
const PC: [(u64, u64, RegionKind); 7] = [
    (0x0, 0x9_fbff, RegionKind::Usable),
    (0x9_fc00, 0x9_ffff, RegionKind::Reserved),
    (0xf_0000, 0xf_ffff, RegionKind::Reserved),
    (0x10_0000, 0x1ffd_ffff, RegionKind::Usable),
    (0x1ffe_0000, 0x1fff_ffff, RegionKind::Reserved),
    (0xfffc_0000, 0xffff_ffff, RegionKind::Reserved),
    (0xfd_0000_0000, 0xff_ffff_ffff, RegionKind::Reserved),
];

/// A node, as it is described.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) number: u32,
    /// First byte, and one past the last.
    pub(super) memory: Vec<(u64, u64)>,
    /// None: nothing was said.
    cpus: Option<Vec<u16>>,
}

/// A machine, as it is described.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    entries: Vec<RawRegion>,
    nodes: Vec<Node>,
    /// From, to, how far.
    distances: Vec<(u32, u32, u8)>,
    cpus: u16,
    cmdline: String,
    /// There is a device for free page reporting.
    reporting: bool,
    /// Blocks of a page of each disk.
    disks: Vec<u64>,
}

/// Blocks of the default machine's disk: 64 MiB.
const DEFAULT_DISK: u64 = (64 << 20) / PAGE_SIZE as u64;

/// The machine that is there unless a script describes another: QEMU's PC with
/// 512 MiB, two CPUs and a disk.
impl Default for Description {
    fn default() -> Self {
        let entry = |&(start, last, kind)| RawRegion::inclusive(start, last, kind);
        let entries = PC.iter().map(entry).collect();
        let disks = vec![DEFAULT_DISK];
        Self { entries, cpus: 2, cmdline: DEFAULT_CMDLINE.into(), disks, ..Self::empty() }
    }
}

const fn invalid(why: &'static str) -> Error {
    Error::new(Errno::EINVAL, why)
}

impl Description {
    /// A machine without memory, with one CPU: what `machine` begins with.
    pub const fn empty() -> Self {
        Self {
            entries: Vec::new(),
            nodes: Vec::new(),
            distances: Vec::new(),
            cpus: 1,
            cmdline: String::new(),
            reporting: false,
            disks: Vec::new(),
        }
    }

    /// Takes in one line between `machine` and `end`, these two not included.
    ///
    /// # Errors
    /// EINVAL for a line that makes no sense by itself.
    pub fn accept(&mut self, line: &str) -> Result<(), Error> {
        let line = without_comment(line).trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "" => Ok(()),
            "mem" => self.mem(rest),
            "node" => self.node(rest),
            "distance" => self.distance(rest),
            "cpus" => {
                let cpus = number(rest)?;
                let cpus = u16::try_from(cpus).ok().filter(|n| (1..=MAX_CPUS).contains(n));
                self.cpus = cpus.ok_or(invalid("a machine has 1 to 256 CPUs"))?;
                Ok(())
            }
            "cmdline" => {
                if rest.len() > MAX_CMDLINE {
                    return Err(invalid("the command line is too long"));
                }
                rest.clone_into(&mut self.cmdline);
                Ok(())
            }
            "reporting" => {
                if !rest.is_empty() {
                    return Err(invalid("want: reporting"));
                }
                self.reporting = true;
                Ok(())
            }
            "disk" => {
                let blocks = address(rest)? / PAGE_SIZE as u64;
                if self.disks.len() == MAX_DISKS || blocks == 0 {
                    return Err(invalid("a machine has up to 4 disks, of a page each at least"));
                }
                self.disks.push(blocks);
                Ok(())
            }
            _ => {
                let why = "a machine is described by mem, node, distance, cpus, cmdline, \
                           reporting and disk";
                Err(invalid(why).about(word))
            }
        }
    }

    /// `mem S-E TYPE`.
    fn mem(&mut self, text: &str) -> Result<(), Error> {
        let want = invalid("want: mem START-LAST TYPE");
        let (range, kind) = text.split_once(char::is_whitespace).ok_or(want)?;
        let (start, last) = range.split_once('-').ok_or(want)?;
        let (start, last) = (address(start)?, address(last)?);
        let kind = kind.trim();
        let known = match parse_number(kind) {
            Ok(type_number) => u32::try_from(type_number).ok().map(RegionKind::from_e820),
            Err(_) => parse_kind(kind.as_bytes()),
        };
        let unknown = || invalid("no type of memory that e820 maps know").about(kind);
        let kind = known.ok_or_else(unknown)?;
        self.entries.push(RawRegion::inclusive(start, last, kind));
        Ok(())
    }

    /// `node N [S-E]... [cpus=LIST]`; several lines for a node add up.
    fn node(&mut self, text: &str) -> Result<(), Error> {
        let mut words = text.split_whitespace();
        let node = self.node_number(words.next().unwrap_or(""))?;
        let mut memory = Vec::new();
        let mut cpus = None;
        for word in words {
            if let Some(list) = word.strip_prefix("cpus=") {
                cpus.get_or_insert_with(Vec::new).extend(cpu_list(list)?);
                continue;
            }
            let want = invalid("want: node N [START-LAST]... [cpus=LIST]");
            let (start, last) = word.split_once('-').ok_or(want)?;
            let (start, last) = (address(start)?, address(last)?);
            let end = last.checked_add(1).filter(|end| start < *end);
            memory.push((start, end.ok_or(invalid("the range ends before it starts"))?));
        }
        let ranges: usize = self.nodes.iter().map(|n| n.memory.len()).sum();
        if ranges + memory.len() > MAX_RANGES {
            return Err(invalid("too many ranges of nodes"));
        }
        let at = self.nodes.binary_search_by_key(&node, |n| n.number);
        let at = at.unwrap_or_else(|at| {
            self.nodes.insert(at, Node { number: node, memory: Vec::new(), cpus: None });
            at
        });
        self.nodes[at].memory.extend(memory);
        if let Some(cpus) = cpus {
            self.nodes[at].cpus.get_or_insert_default().extend(cpus);
        }
        Ok(())
    }

    /// `distance FROM TO N`.
    fn distance(&mut self, text: &str) -> Result<(), Error> {
        let words: Vec<_> = text.split_whitespace().collect();
        let [from, to, distance] = words[..] else {
            return Err(invalid("want: distance NODE NODE N"));
        };
        let (from, to) = (self.node_number(from)?, self.node_number(to)?);
        let distance = u8::try_from(number(distance)?).ok();
        let distance = distance.filter(|&d| (d == Distances::LOCAL) == (from == to));
        let distance = distance.filter(|&d| d >= Distances::LOCAL);
        let why = "a distance is 10 on the spot and 11 to 255 elsewhere";
        let distance = distance.ok_or(invalid(why))?;
        self.distances.extend([(from, to, distance), (to, from, distance)]);
        Ok(())
    }

    fn node_number(&self, text: &str) -> Result<u32, Error> {
        let number = u32::try_from(number(text)?).ok();
        number.filter(|&n| (n as usize) < MAX_NODES).ok_or(invalid("nodes are numbered 0 to 15"))
    }

    /// Puts on node 0 what RAM no node was given, if there are nodes at all, and
    /// sees whether the lines make sense together.
    ///
    /// # Errors
    /// EINVAL if they do not.
    pub(super) fn completed(mut self) -> Result<Self, Error> {
        if !self.nodes.is_empty() {
            let rest = self.unplaced_ram();
            if self.nodes[0].number != 0 {
                self.nodes.insert(0, Node { number: 0, memory: Vec::new(), cpus: None });
            }
            self.nodes[0].memory.extend(rest);
        }
        self.check().map(|()| self)
    }

    /// The RAM that lies on none of the nodes.
    fn unplaced_ram(&self) -> Vec<(u64, u64)> {
        let mut placed: Vec<_> = self.nodes.iter().flat_map(|n| &n.memory).copied().collect();
        placed.sort_unstable();
        let usable = self.entries.iter().filter(|entry| entry.kind == RegionKind::Usable);
        let mut rest = Vec::new();
        for entry in usable {
            let mut from = entry.start;
            for &(start, end) in &placed {
                if from < start.min(entry.end) {
                    rest.push((from, start.min(entry.end)));
                }
                from = from.max(end);
            }
            if from < entry.end {
                rest.push((from, entry.end));
            }
        }
        rest
    }

    fn check(&self) -> Result<(), Error> {
        if (0u32..).zip(&self.nodes).any(|(i, node)| node.number != i) {
            return Err(invalid("nodes are numbered from 0 on, without gaps"));
        }
        let nodes = self.nodes.len().max(1) as u32;
        if self.distances.iter().any(|&(from, to, _)| from.max(to) >= nodes) {
            return Err(invalid("a distance to a node that is not described"));
        }
        let mut placed = [false; MAX_CPUS as usize];
        for &cpu in self.nodes.iter().filter_map(|n| n.cpus.as_ref()).flatten() {
            if cpu >= self.cpus {
                return Err(invalid("a node has a CPU that the machine has not"));
            }
            if core::mem::replace(&mut placed[usize::from(cpu)], true) {
                return Err(invalid("a CPU is on one node"));
            }
        }
        // So numbers nodes whoever reads the firmware's tables.
        let mut nodes_with_cpus = 0;
        for cpu in 0..self.cpus {
            let node = self.node_of_cpu(cpu);
            if node > nodes_with_cpus {
                return Err(invalid("nodes are numbered in the order of their CPUs, CPU 0 first"));
            }
            nodes_with_cpus = nodes_with_cpus.max(node + 1);
        }
        Ok(())
    }

    /// The node of a CPU: the one that names it, or node 0. Where no node names
    /// any, CPUs are dealt out evenly.
    pub(super) fn node_of_cpu(&self, cpu: u16) -> u32 {
        let names = |node: &&Node| node.cpus.as_ref().is_some_and(|cpus| cpus.contains(&cpu));
        if let Some(node) = self.nodes.iter().find(names) {
            return node.number;
        }
        if self.nodes.iter().any(|node| node.cpus.is_some()) {
            return 0;
        }
        let nodes = self.nodes.len().max(1) as u32;
        let per_node = u32::from(self.cpus).div_ceil(nodes);
        u32::from(cpu) / per_node
    }

    pub(super) fn entries(&self) -> &[RawRegion] {
        &self.entries
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn distances(&self) -> &[(u32, u32, u8)] {
        &self.distances
    }

    pub(super) const fn cpus(&self) -> u16 {
        self.cpus
    }

    /// Whether there is a device for free page reporting.
    pub(super) const fn has_reporting(&self) -> bool {
        self.reporting
    }

    /// Blocks of a page of each disk.
    pub(super) fn disks(&self) -> &[u64] {
        &self.disks
    }

    pub(super) fn cmdline(&self) -> &str {
        &self.cmdline
    }
}

fn number(text: &str) -> Result<u64, Error> {
    parse_number(text).map_err(|malformed| invalid(malformed.why).about(text))
}

/// An address in bytes, which may be written as sizes are.
fn address(text: &str) -> Result<u64, Error> {
    parse_size(text).map_err(|malformed| invalid(malformed.why).about(text))
}

/// `0-1,3`.
fn cpu_list(list: &str) -> Result<Vec<u16>, Error> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= u64::from(MAX_CPUS) {
            return Err(invalid("CPUs are numbered 0 to 255"));
        }
        cpus.extend(first as u16..=last as u16);
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(lines: &[&str]) -> Result<Description, Error> {
        let mut description = Description::empty();
        lines.iter().try_for_each(|line| description.accept(line))?;
        description.completed()
    }

    #[test]
    fn memory_of_all_types() {
        for (word, kind) in [
            ("usable", RegionKind::Usable),
            ("reserved", RegionKind::Reserved),
            ("ACPI data", RegionKind::AcpiData),
            ("ACPI NVS", RegionKind::AcpiNvs),
            ("unusable", RegionKind::Unusable),
            ("persistent (type 7)", RegionKind::Persistent),
            ("persistent (type 12)", RegionKind::PersistentLegacy),
            ("soft reserved", RegionKind::SoftReserved),
            ("type 20", RegionKind::Unknown(20)),
            ("System RAM", RegionKind::Usable),
            ("1", RegionKind::Usable),
            ("0x14", RegionKind::Unknown(20)),
        ] {
            let machine = described(&[&format!("mem 4096-0x1fff  {word} # so it is")]).unwrap();
            assert_eq!(machine.entries(), [RawRegion::new(0x1000, 0x2000, kind)], "{word}");
        }
    }

    #[test]
    fn a_number_sign_within_a_word_is_no_comment() {
        let line = "cmdline memmap=64M#0x10000000 cma=8M # reserved";
        assert_eq!(described(&[line]).unwrap().cmdline(), "memmap=64M#0x10000000 cma=8M");
    }

    #[test]
    fn addresses_may_be_sizes() {
        let machine = described(&["mem 1M-0x1fffff usable"]).unwrap();
        assert_eq!(machine.entries(), [RawRegion::new(0x10_0000, 0x20_0000, RegionKind::Usable)]);
    }

    #[test]
    fn the_default_machine_is_one_that_can_be_described() {
        let lines = PC.map(|(start, last, kind)| format!("mem {start:#x}-{last:#x} {kind}"));
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.extend(["cpus 2", "cmdline cma=16M", "disk 64M"]);
        assert_eq!(described(&lines), Ok(Description::default()));
    }

    #[test]
    fn ram_that_no_node_was_given_is_on_node_0() {
        let memory = |lines: &[&str]| {
            let machine = described(lines).unwrap();
            machine.nodes().iter().map(|node| node.memory.clone()).collect::<Vec<_>>()
        };
        let ram = "mem 0-0x9fff usable";
        assert!(memory(&[ram]).is_empty());
        assert_eq!(
            memory(&[ram, "node 1 0x2000-0x2fff 0x8000-0xffff"]),
            [vec![(0, 0x2000), (0x3000, 0x8000)], vec![(0x2000, 0x3000), (0x8000, 0x10000)]]
        );
        assert_eq!(
            memory(&[ram, "mem 0xa000-0xffff reserved", "node 1 0-0xfff", "node 0 0x2000-0x9fff"]),
            [vec![(0x2000, 0xa000), (0x1000, 0x2000)], vec![(0, 0x1000)]]
        );
    }

    #[test]
    fn cpus_are_dealt_out_or_placed() {
        let nodes = |lines: &[&str]| {
            let machine = described(lines).unwrap();
            (0..machine.cpus()).map(|cpu| machine.node_of_cpu(cpu)).collect::<Vec<_>>()
        };
        assert_eq!(nodes(&["cpus 2"]), [0, 0]);
        assert_eq!(nodes(&["cpus 4", "node 0 0-9", "node 1 10-19"]), [0, 0, 1, 1]);
        assert_eq!(nodes(&["cpus 3", "node 1", "node 0"]), [0, 0, 1]);
        assert_eq!(nodes(&["cpus 1", "node 1", "node 0"]), [0]);
        assert_eq!(nodes(&["cpus 4", "node 0", "node 1 cpus=1,3"]), [0, 1, 0, 1]);
        assert_eq!(nodes(&["cpus 4", "node 0 cpus=0-3", "node 1 5-9"]), [0, 0, 0, 0]);
    }

    #[test]
    fn nonsense_is_refused() {
        for lines in [
            &["mem"][..],
            &["mem 0-1"],
            &["mem 0..1 usable"],
            &["mem 0-x usable"],
            &["mem 0-1 nice"],
            &["mem 0-1 0x100000000"],
            &["memory 0-1 usable"],
            &["cpus"],
            &["cpus 0"],
            &["cpus 257"],
            &["cpus 99999999999999999999"],
            &["node"],
            &["node 16"],
            &["node 2"],
            &["node 0 5"],
            &["node 0 9-5"],
            &["node 0 0-0xffffffffffffffff"],
            &["node 0 cpus=0-999999999"],
            &["node 0 cpus=1"],
            &["node 0 cpus=0,0"],
            &["node 0", "node 1 cpus=0"],
            &["node 0", "distance 0 1 20"],
            &["node 0", "distance 0 0 20"],
            &["node 0", "node 1", "distance 0 1 10"],
            &["node 0", "node 1", "distance 0 1 256"],
            &["distance 0 1"],
        ] {
            let error = described(lines).unwrap_err();
            assert_eq!(error.errno, Errno::EINVAL, "{lines:?}");
        }
        let long = format!("cmdline {}", "x".repeat(MAX_CMDLINE + 1));
        assert!(described(&[&long]).is_err());
    }

    #[test]
    fn comments_and_blanks() {
        let lines = ["", "  # nothing", "\tmem\t0-4095\tusable\t", "cmdline  cma=0  # none"];
        let machine = described(&lines).unwrap();
        assert_eq!((machine.entries().len(), machine.cmdline()), (1, "cma=0"));
    }
}
