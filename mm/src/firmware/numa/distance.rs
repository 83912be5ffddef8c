//! How far nodes are from each other.

use crate::types::{MAX_NODES, NodeId};

/// Distances between nodes as ACPI counts them: 10 is on the spot, 20 twice as
/// slow, 255 out of reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Distances([[u8; MAX_NODES]; MAX_NODES]);

/// All nodes equally far from each other.
impl Default for Distances {
    fn default() -> Self {
        let mut table = [[Self::REMOTE; MAX_NODES]; MAX_NODES];
        for (node, row) in table.iter_mut().enumerate() {
            row[node] = Self::LOCAL;
        }
        Self(table)
    }
}

impl Distances {
    /// From a node to itself.
    pub const LOCAL: u8 = 10;
    /// From a node to another when nobody says.
    pub const REMOTE: u8 = 20;

    /// From one node to another; [`REMOTE`](Self::REMOTE) for nodes that there
    /// cannot be.
    pub fn get(&self, from: NodeId, to: NodeId) -> u8 {
        let row = self.0.get(usize::from(from.0));
        row.and_then(|row| row.get(usize::from(to.0))).copied().unwrap_or(Self::REMOTE)
    }

    /// Changes the way from one node to another; not the way back, and nothing
    /// about nodes that there cannot be.
    pub fn set(&mut self, from: NodeId, to: NodeId, distance: u8) {
        let row = self.0.get_mut(usize::from(from.0));
        if let Some(slot) = row.and_then(|row| row.get_mut(usize::from(to.0))) {
            *slot = distance;
        }
    }
}
