//! How fragmented a zone is: pure functions of its free blocks (Linux
//! mm/vmstat.c). Calls nothing but `types`.

use crate::types::{NR_ORDERS, Order};

/// Free blocks of a zone by order, all types together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FreeBlocks(pub [u64; NR_ORDERS]);

impl FreeBlocks {
    /// Free pages.
    pub fn pages(&self) -> u64 {
        self.0.iter().enumerate().map(|(order, n)| n << order).sum()
    }

    /// Free blocks of any order.
    pub fn blocks(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Blocks of `order` that could be cut from what is free.
    pub fn suitable(&self, order: Order) -> u64 {
        (order.index()..NR_ORDERS).map(|o| self.0[o] << (o - order.index())).sum()
    }

    /// Why an allocation of `order` would fail, in thousandths: towards 0 for
    /// lack of memory, towards 1000 because what is free is in pieces; -1000
    /// when it would not fail.
    pub fn fragmentation_index(&self, order: Order) -> i32 {
        let blocks = self.blocks();
        if blocks == 0 {
            return 0;
        }
        if self.suitable(order) > 0 {
            return -1000;
        }
        let wanted = 1000 + self.pages() * 1000 / order.pages();
        1000 - (wanted / blocks) as i32
    }

    /// How much of the free memory is of no use for `order`, in thousandths.
    pub fn unusable_index(&self, order: Order) -> u32 {
        let free = self.pages();
        if free == 0 {
            return 0;
        }
        let usable = self.suitable(order) * order.pages();
        ((free - usable) * 1000 / free) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_free_is_lack_of_memory() {
        let none = FreeBlocks::default();
        assert_eq!(none.fragmentation_index(Order(9)), 0);
        assert_eq!(none.unusable_index(Order(9)), 0);
    }

    #[test]
    fn scattered_pages_are_fragmentation() {
        let mut scattered = FreeBlocks::default();
        scattered.0[0] = 100_000;
        // 1000 - (1000 + 100000 * 1000 / 512) / 100000
        assert_eq!(scattered.fragmentation_index(Order(9)), 999);
        assert_eq!(scattered.unusable_index(Order(9)), 1000);
        assert_eq!(scattered.unusable_index(Order(0)), 0);
        let mut few = FreeBlocks::default();
        few.0[8] = 1;
        assert_eq!(few.fragmentation_index(Order(9)), -500);
    }

    /// Zone DMA32 of a real Linux with 512 MiB: its buddyinfo and what it says
    /// of its unusable index at orders 0, 9 and 10.
    #[test]
    fn golden_512m() {
        let zone = FreeBlocks([2, 2, 2, 0, 1, 1, 1, 2, 3, 1, 113]);
        assert_eq!(zone.pages(), 117_374);
        assert_eq!(zone.fragmentation_index(Order(10)), -1000);
        assert_eq!(zone.unusable_index(Order(0)), 0);
        assert_eq!(zone.unusable_index(Order(9)), 9);
        assert_eq!(zone.unusable_index(Order(10)), 14);
    }
}
