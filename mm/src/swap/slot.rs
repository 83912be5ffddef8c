//! What is known of a slot, in one word. Calls nothing.
//!
//! ```text
//!  63    61   60    59    58 56 55          32 31             0
//! | BAD | FAILED | ZERO | FREED | - | users    | page + 1      |
//! ```
//!
//! A slot is free when its word is 0. While it is freed but not discarded yet
//! the lower half names the next such slot in the same way.

use crate::page::linked;
use crate::types::Pfn;

const USERS_SHIFT: u32 = 32;
const USERS_MASK: u64 = 0xff_ffff;

/// Never to be used again; or no slot at all, beyond the device's end.
const BAD: u64 = 1 << 63;
/// In use, but writing it has failed: it holds nothing, and will be bad.
const FAILED: u64 = 1 << 62;
/// The page that belongs here is all zero, and was not written.
const ZERO: u64 = 1 << 61;
/// Not in use any more, but the device has not been told.
const FREED: u64 = 1 << 60;

/// A slot's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(pub(crate) u64);

/// Most page-table entries that can name one slot. Who wants to make one more
/// is told that memory has run out.
pub(crate) const MAX_USERS: u32 = USERS_MASK as u32;

impl Slot {
    /// A free one.
    pub(crate) const FREE: Self = Self(0);
    /// One that is never to be used again.
    pub(crate) const BAD: Self = Self(BAD);

    /// One that has been used, and `next` in the same list.
    pub(crate) const fn freed(next: Option<u32>) -> Self {
        Self(
            FREED
                | match next {
                    Some(slot) => slot as u64 + 1,
                    None => 0,
                },
        )
    }

    /// The next one in the list of those that [`freed`](Self::freed) made.
    pub(crate) const fn next(self) -> Option<u32> {
        (self.0 as u32).checked_sub(1)
    }

    /// One that has the page `pfn` in memory.
    pub(crate) const fn cached(pfn: u32) -> Self {
        Self(pfn as u64 + 1)
    }

    /// Entries of page tables that name it.
    pub(crate) const fn users(self) -> u32 {
        (self.0 >> USERS_SHIFT & USERS_MASK) as u32
    }

    /// The page in memory that belongs here, if there is one.
    pub(crate) fn page(self) -> Option<Pfn> {
        match self.0 & FREED {
            0 => (self.0 as u32).checked_sub(1).and_then(linked),
            _ => None,
        }
    }

    /// The same with another page, or none.
    pub(crate) const fn with_page(self, pfn: Option<u32>) -> Self {
        let rest = self.0 >> USERS_SHIFT << USERS_SHIFT;
        Self(match pfn {
            Some(pfn) => rest | (pfn as u64 + 1),
            None => rest,
        })
    }

    /// The same with one user more; None if there are too many.
    pub(crate) const fn add_user(self) -> Option<Self> {
        if self.users() == MAX_USERS { None } else { Some(Self(self.0 + (1 << USERS_SHIFT))) }
    }

    /// The same with one user less; None if there was none.
    pub(crate) const fn drop_user(self) -> Option<Self> {
        if self.users() == 0 { None } else { Some(Self(self.0 - (1 << USERS_SHIFT))) }
    }

    /// Somebody's entry names it, or a page is in memory for it.
    pub(crate) fn is_used(self) -> bool {
        self.users() > 0 || self.page().is_some()
    }

    /// Free for whoever wants one.
    pub(crate) const fn is_free(self) -> bool {
        self.0 == 0
    }

    /// Never to be used again.
    pub(crate) const fn is_bad(self) -> bool {
        self.0 & BAD != 0
    }

    /// Given up, but not discarded yet.
    pub(crate) const fn is_freed(self) -> bool {
        self.0 & FREED != 0
    }

    /// Writing it has failed.
    pub(crate) const fn has_failed(self) -> bool {
        self.0 & FAILED != 0
    }

    /// The same after writing it has failed.
    pub(crate) const fn failed(self) -> Self {
        Self((self.0 | FAILED) & !ZERO)
    }

    /// Its page is all zero.
    pub(crate) const fn is_zero(self) -> bool {
        self.0 & ZERO != 0
    }

    /// The same, its page being all zero or not.
    pub(crate) const fn with_zero(self, zero: bool) -> Self {
        if zero { Self(self.0 | ZERO) } else { Self(self.0 & !ZERO) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_do_not_disturb_each_other() {
        let mut slot = Slot::cached(u32::MAX - 2).with_zero(true);
        for users in 1..=3 {
            slot = slot.add_user().expect("room");
            assert_eq!((slot.users(), slot.page()), (users, Some(Pfn(0xffff_fffd))));
        }
        assert!(slot.is_zero() && slot.is_used() && !slot.is_free());
        let slot = slot.failed().with_page(None);
        assert!(slot.has_failed() && !slot.is_zero() && slot.is_used());
        assert_eq!((slot.users(), slot.page()), (3, None));
        let slot = slot.drop_user().and_then(Slot::drop_user).and_then(Slot::drop_user);
        assert!(slot.is_some_and(|slot| !slot.is_used() && slot.drop_user().is_none()));
    }

    #[test]
    fn users_have_a_limit_that_changes_nothing() {
        let full = Slot((u64::from(MAX_USERS)) << USERS_SHIFT);
        assert_eq!((full.users(), full.add_user()), (MAX_USERS, None));
        assert!(!full.is_bad() && !full.has_failed() && !full.is_zero() && !full.is_freed());
    }

    #[test]
    fn freed_slots_are_a_list() {
        for next in [None, Some(0), Some(77), Some((1 << 27) - 1)] {
            let slot = Slot::freed(next);
            assert!(slot.is_freed() && !slot.is_free() && !slot.is_used() && !slot.is_bad());
            assert_eq!((slot.next(), slot.page(), slot.users()), (next, None, 0));
        }
        assert!(Slot::BAD.is_bad() && !Slot::BAD.is_used() && !Slot::BAD.is_free());
    }
}
