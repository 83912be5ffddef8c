//! Which node memory and processors belong to, by the firmware's ACPI tables
//! SRAT and SLIT (Linux `drivers/acpi/numa/srat.c`, `mm/numa_memblks.c`). Pure:
//! from plain bytes, which are not trusted, to tables of the caller's. Calls
//! `table`, `types` and, to tell it where the nodes lie, `early`.
//!
//! Tables that cannot be believed give one node and a word on why: nothing is
//! gained from half of a topology.

mod distance;
mod memory;
mod note;
mod slit;
mod srat;
mod tables;

pub use distance::Distances;
pub use memory::MemoryAffinity;
pub use note::{Flaw, NumaNote};
pub use srat::CpuAffinity;

use crate::early::{EarlyMem, RamRange};
use crate::table::Table;
use crate::types::{MAX_NODES, NodeId, PAGEBLOCK_ORDER, Pfn, PfnRange};
use memory::Memory;
use srat::{Entry, Srat};

/// Proximity domains with larger numbers are taken for nonsense. (What Linux
/// takes depends on how it was built; distributions' kernels take this.)
pub const MAX_DOMAIN: u32 = 1024;

/// Receives what is to be told.
type Tell<'t> = &'t mut dyn FnMut(NumaNote);

/// The tables as the firmware left them, as far as there are such.
#[derive(Clone, Copy, Default, Debug)]
pub struct NumaTables<'t> {
    /// System Resource Affinity Table: who is where.
    pub srat: Option<&'t [u8]>,
    /// System Locality Distance Information Table: how far it is.
    pub slit: Option<&'t [u8]>,
}

/// The nodes of a machine: which memory and processors each has, and how far
/// they are from each other. There is at least one.
#[derive(Debug)]
pub struct Topology<'a> {
    domains: Domains,
    /// Sorted, disjoint; of a node, ranges with others' memory between them.
    memory: Table<'a, MemoryAffinity>,
    /// Sorted by APIC id.
    cpus: Table<'a, CpuAffinity>,
    distances: Distances,
}

impl<'a> Topology<'a> {
    /// A machine that is one node.
    pub fn one() -> Self {
        Self {
            domains: Domains::default(),
            memory: Table::new(&mut []),
            cpus: Table::new(&mut []),
            distances: Distances::default(),
        }
    }

    /// What `tables` say of a machine with RAM `ram`, sorted and disjoint. Each
    /// oddity, and in Linux's words what was found, goes to `tell`. Where
    /// tables are missing or cannot be believed the machine is one node.
    ///
    /// The slices are room for what is found; their contents do not matter.
    pub fn read(
        tables: NumaTables<'_>,
        ram: &[RamRange],
        memory: &'a mut [MemoryAffinity],
        cpus: &'a mut [CpuAffinity],
        tell: Tell<'_>,
    ) -> Self {
        let found = match tables.srat {
            None => None,
            Some(srat) => match Self::believe(srat, tables.slit, ram, memory, cpus, tell) {
                Ok(topology) => Some(topology),
                Err(flaw) => {
                    tell(NumaNote::NotUsed(flaw));
                    None
                }
            },
        };
        found.unwrap_or_else(|| {
            tell(NumaNote::NoConfiguration);
            Self::fake(ram, tell)
        })
    }

    /// One node because the command line wants it so.
    pub fn off(ram: &[RamRange], tell: Tell<'_>) -> Self {
        tell(NumaNote::TurnedOff);
        Self::fake(ram, tell)
    }

    fn fake(ram: &[RamRange], tell: Tell<'_>) -> Self {
        let end = ram.last().map_or(Pfn(0), |r| r.range.end);
        tell(NumaNote::Fake { end: end.addr() });
        Self::one()
    }

    fn believe(
        srat: &[u8],
        slit: Option<&[u8]>,
        ram: &[RamRange],
        memory: &'a mut [MemoryAffinity],
        cpus: &'a mut [CpuAffinity],
        tell: Tell<'_>,
    ) -> Result<Self, Flaw> {
        let srat = Srat::new(srat)?;
        let mut topology = Self { cpus: Table::new(cpus), ..Self::one() };
        // Nodes are numbered as they come, those of the processors first, as in
        // Linux: so the boot CPU's is usually node 0.
        let mut domains = Domains { nodes: 0, ..Domains::default() };
        let mut too_many_cpus = false;
        for entry in srat.entries() {
            if let Entry::Cpu { domain, apic_id, x2apic } = entry? {
                let node = domains.node(domain, tell)?;
                tell(NumaNote::Cpu { domain, apic_id, x2apic, node });
                too_many_cpus |= !topology.add_cpu(CpuAffinity { apic_id, node })?;
            }
        }
        if too_many_cpus {
            tell(NumaNote::TooManyCpus { room: topology.cpus.capacity() });
        }
        let mut blocks = Memory::new(memory);
        let mut growing = [false; MAX_NODES];
        for entry in srat.entries() {
            if let Entry::Memory { domain, start, bytes, hotplug, non_volatile } = entry? {
                let node = domains.node(domain, tell)?;
                tell(NumaNote::Memory { domain, node, start, bytes, hotplug, non_volatile });
                blocks.add(MemoryAffinity::new(start, bytes, node)?, tell)?;
                growing[usize::from(node.0) % MAX_NODES] |= hotplug;
            }
        }
        if blocks.is_empty() {
            return Err(Flaw::NoMemory);
        }
        if let Some(slit) = slit {
            slit::read(slit, &domains, &mut topology.distances)?;
            tell(NumaNote::Distances { nodes: domains.nodes });
        }
        topology.memory = blocks.settle(ram, tell)?;
        topology.domains = domains;
        for (node, growing) in topology.node_ids().zip(growing) {
            let memory = topology.memory.iter().any(|m| m.node == node);
            let cpus = topology.cpus.iter().any(|c| c.node == node);
            if !(memory || cpus || growing) {
                tell(NumaNote::NothingOn { node });
            }
        }
        Ok(topology)
    }

    /// Enters a processor; false if there is no room.
    fn add_cpu(&mut self, cpu: CpuAffinity) -> Result<bool, Flaw> {
        let at = self.cpus.partition_point(|c| c.apic_id < cpu.apic_id);
        match self.cpus.get(at) {
            // Named as a local APIC and as an x2APIC: that is common.
            Some(there) if there.apic_id == cpu.apic_id && there.node == cpu.node => Ok(true),
            Some(there) if there.apic_id == cpu.apic_id => {
                Err(Flaw::CpuOnTwoNodes { apic_id: cpu.apic_id })
            }
            _ => Ok(self.cpus.insert(at, cpu)),
        }
    }

    /// Number of nodes, 1 to [`MAX_NODES`].
    pub fn nodes(&self) -> usize {
        self.domains.nodes
    }

    /// All nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes() as u8).map(NodeId)
    }

    /// The firmware's number for a node: its proximity domain.
    pub fn domain(&self, node: NodeId) -> Option<u32> {
        self.domains.numbers[..self.nodes()].get(usize::from(node.0)).copied()
    }

    /// The node of the processor with that APIC id; node 0 for one that the
    /// firmware says nothing about.
    pub fn node_of_apic(&self, apic_id: u32) -> NodeId {
        let at = self.cpus.binary_search_by_key(&apic_id, |c| c.apic_id);
        at.ok().and_then(|at| self.cpus.get(at)).map_or(NodeId(0), |c| c.node)
    }

    /// How far the nodes are from each other.
    pub fn distances(&self) -> &Distances {
        &self.distances
    }

    /// Tells `early` where the nodes lie: every frame of its RAM gets one. A
    /// pageblock has one node: the one whose memory begins it.
    pub fn apply(&self, early: &mut EarlyMem<'_>) {
        let mut start = Pfn(0);
        for (i, block) in self.memory.iter().enumerate() {
            // What lies between two nodes' memory, and is too little to matter,
            // counts to the lower one.
            let end = match self.memory.get(i + 1) {
                None => Pfn(u64::MAX),
                Some(next) => border(block.frames().end, next.frames().start).max(start),
            };
            early.set_node(PfnRange::new(start, end), block.node);
            start = end;
        }
    }
}

/// Where one node's pageblocks end and the next one's begin, when the memory of
/// the one ends at `end` and that of the other begins at `start`.
fn border(end: Pfn, start: Pfn) -> Pfn {
    if start.pageblock() >= end { start.pageblock() } else { start.align_up(PAGEBLOCK_ORDER) }
}

/// The nodes in the order in which their domains came up.
#[derive(Clone, Copy, Debug)]
struct Domains {
    numbers: [u32; MAX_NODES],
    nodes: usize,
    /// It has been said that there are too many.
    told: bool,
}

/// One node, of domain 0.
impl Default for Domains {
    fn default() -> Self {
        Self { numbers: [0; MAX_NODES], nodes: 1, told: false }
    }
}

impl Domains {
    /// The node of a domain that may be new. Domains for which no number is
    /// left count as node 0.
    fn node(&mut self, domain: u32, tell: Tell<'_>) -> Result<NodeId, Flaw> {
        if domain >= MAX_DOMAIN {
            return Err(Flaw::DomainTooLarge { domain });
        }
        if let Some(node) = self.find(domain) {
            return Ok(node);
        }
        let Some(slot) = self.numbers.get_mut(self.nodes) else {
            if !self.told {
                tell(NumaNote::TooManyNodes { domain });
                self.told = true;
            }
            return Ok(NodeId(0));
        };
        *slot = domain;
        self.nodes += 1;
        Ok(NodeId(self.nodes as u8 - 1))
    }

    /// The node of a domain that has one.
    fn find(&self, domain: u32) -> Option<NodeId> {
        let at = self.numbers[..self.nodes].iter().position(|&number| number == domain)?;
        Some(NodeId(at as u8))
    }
}
