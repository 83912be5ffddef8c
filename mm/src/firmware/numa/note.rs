//! What is told of the tables: in Linux's words where Linux has any, so that
//! two boot logs can be compared.

use super::MemoryAffinity;
use crate::types::{MAX_NODES, NodeId};
use core::fmt;

/// A line of the boot log about nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NumaNote {
    /// A processor's node.
    Cpu {
        /// Its proximity domain.
        domain: u32,
        /// Its APIC's number.
        apic_id: u32,
        /// Listed by an entry for x2APICs.
        x2apic: bool,
        /// The domain's node.
        node: NodeId,
    },
    /// A range's node.
    Memory {
        /// Its proximity domain.
        domain: u32,
        /// The domain's node.
        node: NodeId,
        /// First byte.
        start: u64,
        /// Length.
        bytes: u64,
        /// Memory may be plugged in there.
        hotplug: bool,
        /// It keeps its content without power.
        non_volatile: bool,
    },
    /// There are distances.
    Distances {
        /// Between so many nodes.
        nodes: usize,
    },
    /// Two ranges of a node with nothing of another between them.
    Joined {
        /// The lower.
        first: MemoryAffinity,
        /// The higher.
        second: MemoryAffinity,
        /// From the one's start to the other's end.
        whole: MemoryAffinity,
    },
    /// There are no tables, or none to be believed.
    NoConfiguration,
    /// The command line does not want nodes.
    TurnedOff,
    /// One node for all there is.
    Fake {
        /// One past the last byte of RAM.
        end: u64,
    },
    /// Warning: a node lists some memory twice.
    Overlap {
        /// One range.
        first: MemoryAffinity,
        /// The other.
        second: MemoryAffinity,
    },
    /// Warning: more domains than nodes can be told apart.
    TooManyNodes {
        /// The first one without a node of its own.
        domain: u32,
    },
    /// Warning: more processors than there is room for.
    TooManyCpus {
        /// Room.
        room: usize,
    },
    /// Warning: a node with neither memory nor processors.
    NothingOn {
        /// The node.
        node: NodeId,
    },
    /// Warning: the tables are not believed.
    NotUsed(Flaw),
}

impl NumaNote {
    /// Whether something is wrong.
    pub const fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::Overlap { .. }
                | Self::TooManyNodes { .. }
                | Self::TooManyCpus { .. }
                | Self::NothingOn { .. }
                | Self::NotUsed(_)
        )
    }
}

impl fmt::Display for NumaNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Cpu { domain, apic_id, x2apic, node } => {
                let width = if x2apic { 6 } else { 4 };
                write!(f, "SRAT: PXM {domain} -> APIC {apic_id:#0width$x} -> Node {}", node.0)
            }
            Self::Memory { domain, node, start, bytes, hotplug, non_volatile } => {
                let mem = Mem(start, start.saturating_add(bytes));
                write!(f, "ACPI: SRAT: Node {} PXM {domain} {mem}", node.0)?;
                f.write_str(if hotplug { " hotplug" } else { "" })?;
                f.write_str(if non_volatile { " non-volatile" } else { "" })
            }
            Self::Distances { nodes } => write!(f, "NUMA: Initialized distance table, cnt={nodes}"),
            Self::Joined { first, second, whole } => {
                let [a, b, c] = [first, second, whole].map(|m| Mem(m.start, m.end));
                write!(f, "NUMA: Node {} {a} + {b} -> {c}", first.node.0)
            }
            Self::NoConfiguration => f.write_str("No NUMA configuration found"),
            Self::TurnedOff => f.write_str("NUMA turned off"),
            Self::Fake { end } => {
                write!(f, "Faking a node at {}", crate::firmware::Mem { start: 0, end })
            }
            Self::Overlap { first, second } => {
                let [a, b] = [first, second].map(|m| Mem(m.start, m.end));
                write!(f, "NUMA: Warning: node {} {a} overlaps with itself {b}", first.node.0)
            }
            Self::TooManyNodes { domain } => write!(
                f,
                "SRAT: more than {MAX_NODES} proximity domains: PXM {domain} and further ones \
                 count as Node 0"
            ),
            Self::TooManyCpus { room } => {
                write!(f, "SRAT: more than {room} processors: further ones count as on Node 0")
            }
            Self::NothingOn { node } => {
                write!(f, "SRAT: Node {} has neither memory nor processors", node.0)
            }
            Self::NotUsed(flaw) => write!(f, "NUMA: {flaw}: the firmware's tables are not used"),
        }
    }
}

/// Why tables are not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It does not begin with its name.
    WrongName,
    /// It ends too early.
    Truncated,
    /// Its bytes do not add up to zero.
    Checksum,
    /// An entry is shorter than its kind is.
    EntryTooShort {
        /// The kind.
        kind: u8,
    },
    /// A number that no domain has.
    DomainTooLarge {
        /// The number.
        domain: u32,
    },
    /// A processor on two nodes.
    CpuOnTwoNodes {
        /// The processor.
        apic_id: u32,
    },
    /// No range of memory at all.
    NoMemory,
    /// A range beyond the end of all addresses.
    Wraps {
        /// Where it begins.
        start: u64,
    },
    /// Memory on two nodes.
    Overlap {
        /// One range.
        first: MemoryAffinity,
        /// The other.
        second: MemoryAffinity,
    },
    /// More ranges than there is room for.
    TooManyRanges {
        /// Room.
        room: usize,
    },
    /// RAM on no node.
    NotCovered {
        /// So much of it, in pages.
        pages: u64,
        /// Of so much.
        total: u64,
    },
    /// A distance that there cannot be.
    Distance {
        /// From this domain,
        from: u32,
        /// to this one,
        to: u32,
        /// as the table has it.
        distance: u8,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WrongName => f.write_str("a table without its name"),
            Self::Truncated => f.write_str("a table is cut short"),
            Self::Checksum => f.write_str("a table's checksum is wrong"),
            Self::EntryTooShort { kind } => {
                write!(f, "SRAT: an entry of type {kind} is too short")
            }
            Self::DomainTooLarge { domain } => {
                write!(f, "SRAT: Too many proximity domains {domain:#x}")
            }
            Self::CpuOnTwoNodes { apic_id } => {
                write!(f, "SRAT: APIC {apic_id:#x} is on two nodes")
            }
            Self::NoMemory => f.write_str("SRAT: no memory is listed"),
            Self::Wraps { start } => {
                write!(f, "SRAT: memory from {start:#x} on has no end")
            }
            Self::Overlap { first, second } => {
                let [a, b] = [first, second].map(|m| Mem(m.start, m.end));
                write!(f, "node {} {a} overlaps with node {} {b}", first.node.0, second.node.0)
            }
            Self::TooManyRanges { room } => write!(f, "SRAT: more than {room} ranges of memory"),
            Self::NotCovered { pages, total } => {
                write!(f, "no nodes coverage for {}MB of {}MB RAM", pages >> 8, total >> 8)
            }
            Self::Distance { from, to, distance } => {
                write!(f, "SLIT: {distance} as distance from PXM {from} to {to}")
            }
        }
    }
}

/// The bytes from the first to before the second, as Linux prints them here.
struct Mem(u64, u64);

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[mem {:#010x}-{:#010x}]", self.0, self.1.wrapping_sub(1))
    }
}
