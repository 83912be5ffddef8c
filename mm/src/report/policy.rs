//! The arithmetic of reporting: how much at once, how much a pass, from which
//! order on, and how full a zone has to be (Linux mm/page_reporting.c). Calls
//! nothing.

use crate::types::{MAX_ORDER, Order, PAGEBLOCK_ORDER};

/// Most blocks that a device is told of at once.
pub const CAPACITY: usize = 32;

/// Milliseconds from a request to the pass that serves it: time for more to be
/// freed, and for what was freed to be wanted again.
pub const DELAY_MS: u64 = 2000;

/// Batches after which a pass leaves a list with `blocks` free blocks of that
/// order, asked after a batch: it is left once *more* have been sent. So a pass
/// takes about a sixteenth of what is free, but two full batches of a list that
/// has them.
pub const fn budget(blocks: u64) -> u64 {
    blocks.div_ceil(16 * CAPACITY as u64)
}

/// The smallest order that is reported: what the knob says (none: nobody has
/// touched it), else what the device prefers, if that is an order from 1 on,
/// else a pageblock's.
pub const fn effective_order(knob: Option<Order>, device: Option<Order>) -> Order {
    match (knob, device) {
        (Some(order), _) => order,
        (None, Some(order)) if order.0 > 0 && order.0 <= MAX_ORDER.0 => order,
        _ => PAGEBLOCK_ORDER,
    }
}

/// Pages that a zone has to have free for a pass to look at it, given its low
/// mark: a batch of the smallest order must be able to leave.
pub const fn gate(low: u64, order: Order) -> u64 {
    low + ((CAPACITY as u64) << order.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let table = [(0, 0), (1, 1), (192, 1), (511, 1), (512, 1), (513, 2), (1024, 2), (1025, 3)];
        for (blocks, batches) in table {
            assert_eq!(budget(blocks), batches, "{blocks} blocks");
        }
        // A terabyte in blocks of 4 MiB.
        assert_eq!(budget(1 << 18), 512);
        assert_eq!(budget(u64::MAX), u64::MAX / 512 + 1);
    }

    #[test]
    fn orders() {
        let of = |knob: Option<u8>, device: Option<u8>| {
            effective_order(knob.map(Order), device.map(Order)).0
        };
        for (knob, device, order) in [
            (None, None, 9),
            (None, Some(0), 9),
            (None, Some(1), 1),
            (None, Some(5), 5),
            (None, Some(10), 10),
            (None, Some(11), 9),
            (None, Some(255), 9),
            (Some(0), None, 0),
            (Some(0), Some(5), 0),
            (Some(10), Some(5), 10),
        ] {
            assert_eq!(of(knob, device), order, "knob {knob:?}, device {device:?}");
        }
    }

    #[test]
    fn gates() {
        // A DMA32 zone of 512 MiB: low 853.
        for (order, pages) in [(0, 885), (4, 1365), (9, 17_237), (10, 33_621)] {
            assert_eq!(gate(853, Order(order)), pages, "order {order}");
        }
    }
}
