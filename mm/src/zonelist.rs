//! Where a request from a node looks, and in which order (Linux
//! `build_zonelists`): node by node, the nearest first, and on each from the
//! highest zone down. Pure. Calls `types` and `firmware`'s distances.

use crate::firmware::numa::Distances;
use crate::types::{MAX_NODES, NR_ZONES, NodeId};
use core::fmt;

/// End of a zonelist.
pub(crate) const NO_ZONE: u16 = u16::MAX;

/// A set of nodes, a bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct NodeSet(u32);

impl NodeSet {
    pub(crate) fn insert(&mut self, node: NodeId) {
        self.0 |= 1u32.checked_shl(u32::from(node.0)).unwrap_or(0);
    }

    pub(crate) fn contains(self, node: NodeId) -> bool {
        self.0.checked_shr(u32::from(node.0)).is_some_and(|bits| bits & 1 != 0)
    }
}

/// The nodes with memory, in the order in which one node asks them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FallbackOrder {
    nodes: [u8; MAX_NODES],
    len: usize,
}

impl FallbackOrder {
    /// The nodes, the best first.
    pub(crate) fn nodes(&self) -> &[u8] {
        &self.nodes[..self.len]
    }
}

/// As Linux lists it.
impl fmt::Display for FallbackOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.nodes().iter().enumerate().try_for_each(|(i, node)| {
            f.write_str(if i == 0 { "" } else { " " })?;
            node.fmt(f)
        })
    }
}

/// The orders of `nodes` nodes, of which some have memory and some have CPUs.
///
/// Among nodes that are equally far, those without CPUs come first, then those
/// that come after the asking node rather than before it, then those that
/// fewer others have as the first of such a group: no node is to be
/// everybody's second choice.
pub(crate) fn fallback_orders(
    nodes: usize,
    memory: NodeSet,
    cpus: NodeSet,
    distances: &Distances,
) -> [FallbackOrder; MAX_NODES] {
    let mut load = [0u32; MAX_NODES];
    let mut orders = [FallbackOrder::default(); MAX_NODES];
    let ids = || (0..nodes.min(MAX_NODES) as u8).map(NodeId);
    for (from, order) in ids().zip(&mut orders) {
        let mut left = memory;
        let mut before = from;
        loop {
            let cost = |to: NodeId| {
                let after = u32::from(to < from);
                let busy = u32::from(cpus.contains(to));
                let cost = u32::from(distances.get(from, to)) + after + busy;
                cost * MAX_NODES as u32 + load[usize::from(to.0)]
            };
            let own = Some(from).filter(|&own| left.contains(own));
            let next =
                own.or_else(|| ids().filter(|&to| left.contains(to)).min_by_key(|&to| cost(to)));
            let Some(next) = next else { break };
            left.0 &= !(1 << next.0);
            if distances.get(from, next) != distances.get(from, before) {
                load[usize::from(next.0)] += 1;
            }
            before = next;
            order.nodes[order.len] = next.0;
            order.len += 1;
        }
    }
    orders
}

/// Entry `i` of all zonelists of `nodes` nodes: for a node and a class of
/// request, the zones of that class and below, highest kind first, node by node
/// in that node's order.
pub(crate) fn entry(orders: &[FallbackOrder; MAX_NODES], nodes: usize, i: usize) -> u16 {
    let stride = nodes * NR_ZONES + 1;
    let (list, at) = (i / stride, i % stride);
    let (node, class) = (list / NR_ZONES, list % NR_ZONES);
    let kinds = class + 1;
    match orders.get(node).and_then(|order| order.nodes().get(at / kinds)) {
        Some(&from) => (usize::from(from) * NR_ZONES + (class - at % kinds)) as u16,
        None => NO_ZONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn set(nodes: &[u8]) -> NodeSet {
        let mut set = NodeSet::default();
        nodes.iter().for_each(|&node| set.insert(NodeId(node)));
        set
    }

    fn orders(memory: &[u8], cpus: &[u8], nodes: usize, distances: &Distances) -> Vec<String> {
        let orders = fallback_orders(nodes, set(memory), set(cpus), distances);
        orders[..nodes].iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equally_far_nodes_take_turns() {
        let flat = Distances::default();
        assert_eq!(orders(&[0], &[0], 1, &flat), ["0"]);
        assert_eq!(orders(&[0, 1], &[0, 1], 2, &flat), ["0 1", "1 0"]);
        // Linux's own result for four nodes that are equally far.
        let all = [0, 1, 2, 3];
        assert_eq!(orders(&all, &all, 4, &flat), ["0 1 2 3", "1 2 3 0", "2 3 0 1", "3 0 1 2"]);
    }

    #[test]
    fn near_nodes_come_first() {
        // A ring of four.
        let mut ring = Distances::default();
        for (a, b, distance) in [(0, 2, 30), (1, 3, 30)] {
            ring.set(NodeId(a), NodeId(b), distance);
            ring.set(NodeId(b), NodeId(a), distance);
        }
        let all = [0, 1, 2, 3];
        let found = orders(&all, &all, 4, &ring);
        assert_eq!(found, ["0 1 3 2", "1 2 0 3", "2 3 1 0", "3 0 2 1"]);
    }

    #[test]
    fn a_node_without_cpus_is_spared_nothing() {
        let all = [0, 1, 2];
        assert_eq!(orders(&all, &[0, 1], 3, &Distances::default())[0], "0 2 1");
    }

    #[test]
    fn a_node_without_memory_asks_the_nearest() {
        let mut line = Distances::default();
        for (a, b) in [(0, 2), (2, 0)] {
            line.set(NodeId(a), NodeId(b), 31);
        }
        assert_eq!(orders(&[0, 2], &[0, 1, 2], 3, &line), ["0 2", "2 0", "2 0"]);
        assert_eq!(orders(&[], &[0], 1, &line), [""]);
    }

    #[test]
    fn lists_end() {
        let orders = fallback_orders(2, set(&[1]), set(&[0, 1]), &Distances::default());
        let stride = 2 * NR_ZONES + 1;
        let list = |node: usize, class: usize| -> Vec<u16> {
            let from = (node * NR_ZONES + class) * stride;
            (from..from + stride)
                .map(|i| entry(&orders, 2, i))
                .take_while(|&z| z != NO_ZONE)
                .collect()
        };
        assert_eq!(list(0, 2), [6, 5, 4]);
        assert_eq!(list(1, 3), [7, 6, 5, 4]);
        assert_eq!(list(0, 0), [4]);
    }
}
