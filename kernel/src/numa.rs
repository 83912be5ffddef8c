//! The machine's nodes: read from the firmware's tables while the memory map is
//! made, and asked for ever after. Calls `acpi`, `smp`.

use crate::platform::Machine;
use crate::take::Take;
use crate::{acpi, smp};
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use mm::early::EarlyMem;
use mm::firmware::numa::{CpuAffinity, Distances, MemoryAffinity, NumaTables, Topology};
use mm::types::{CpuId, MAX_NODES, NodeId, PAGE_SIZE};
use mm::zone::Zone;
use mm::{Config, Mm};
use quarry_kernel::sdt::{CpuList, MAX_CPUS, Signature};
use spin::Once;

/// Ranges of memory that the firmware may list.
const RANGES: usize = 256;
/// Processors that it may list: also those that are switched off, each as both
/// kinds of APIC.
const LISTED: usize = 4 * MAX_CPUS;

static MEMORY: Take<[MemoryAffinity; RANGES]> = Take::new([MemoryAffinity::EMPTY; RANGES]);
static PROCESSORS: Take<[CpuAffinity; LISTED]> = Take::new([CpuAffinity::EMPTY; LISTED]);

static TOPOLOGY: Once<Topology<'static>> = Once::new();

/// The nodes of all CPUs, for those who ask often.
static NODE_OF_CPU: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];

/// Reads the firmware's tables, unless the command line wants one node, and
/// tells early memory which node has what. Once, after [`smp::discover`] and
/// before the zones are laid out.
pub(crate) fn discover(early: &mut EarlyMem<'_>, off: bool) {
    let tell = &mut |note: mm::firmware::numa::NumaNote| {
        if note.is_warning() {
            log::warn!("{note}");
        } else {
            log::info!("{note}");
        }
    };
    let topology = match (MEMORY.take(), PROCESSORS.take()) {
        (Some(memory), Some(processors)) if !off => {
            let [srat, slit] = [b"SRAT", b"SLIT"].map(|name| acpi::find(Signature(*name)));
            Topology::read(NumaTables { srat, slit }, early.ram(), memory, processors, tell)
        }
        _ => Topology::off(early.ram(), tell),
    };
    topology.apply(early);
    let cpus = smp::cpus().into_iter().flat_map(CpuList::iter);
    for (cpu, node) in cpus.zip(&NODE_OF_CPU) {
        node.store(topology.node_of_apic(cpu.apic_id.0).0, Relaxed);
    }
    TOPOLOGY.call_once(|| topology);
}

/// The nodes, once they are known.
fn topology() -> Option<&'static Topology<'static>> {
    TOPOLOGY.get()
}

/// Number of nodes, at least 1.
pub(crate) fn nodes() -> usize {
    topology().map_or(1, Topology::nodes)
}

/// The node of a CPU; node 0 before [`discover`].
#[inline]
pub(crate) fn node_of_cpu(cpu: CpuId) -> NodeId {
    NodeId(NODE_OF_CPU.get(usize::from(cpu.0)).map_or(0, |node| node.load(Relaxed)))
}

/// The node that the firmware's tables call proximity domain `domain`.
pub(crate) fn node_of_domain(domain: u32) -> Option<NodeId> {
    let topology = topology()?;
    topology.node_ids().find(|&node| topology.domain(node) == Some(domain))
}

/// Enters the nodes into what the manager is to know.
pub(crate) fn configure(config: &mut Config) {
    config.nodes = nodes();
    config.distances = topology().map_or_else(Distances::default, |t| *t.distances());
}

/// Logs what each node has and how far it is to the others, as `numactl -H`
/// lists them; nothing on a machine of one node.
pub(crate) fn log_nodes(mm: &Mm<Machine>) {
    let (Some(topology), 2..) = (topology(), nodes()) else { return };
    log::info!("available: {0} nodes (0-{1})", nodes(), nodes() - 1);
    for node in topology.node_ids() {
        let of_node = || mm.zones().iter().filter(|zone| zone.node == node);
        let mib = |pages: u64| pages * (PAGE_SIZE as u64 / 1024) / 1024;
        log::info!("node {} cpus:{}", node.0, Cpus(node));
        log::info!("node {} size: {} MB", node.0, mib(of_node().map(Zone::present).sum()));
        log::info!("node {} free: {} MB", node.0, mib(of_node().map(Zone::free_pages).sum()));
    }
    log::info!("node distances:");
    log::info!("node {}", Row(|to: NodeId| to.0));
    for from in topology.node_ids() {
        let row = Row(|to| topology.distances().get(from, to));
        log::info!("{:4}:{row}", from.0);
    }
}

/// The CPUs of a node that run.
struct Cpus(NodeId);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let online = smp::online();
        let mut theirs = online.iter().filter(|&cpu| node_of_cpu(cpu) == self.0);
        theirs.try_for_each(|cpu| write!(f, " {}", cpu.0))
    }
}

/// A number for each node.
struct Row<F>(F);

impl<F: Fn(NodeId) -> u8> fmt::Display for Row<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = nodes().min(MAX_NODES) as u8;
        (0..nodes).try_for_each(|node| write!(f, "{:4}", (self.0)(NodeId(node))))
    }
}
