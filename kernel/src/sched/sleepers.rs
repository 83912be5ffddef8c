//! Who is to be woken when: a tree by deadline, through what is in it. Pure.

use super::runqueue::{Entity, EntityRef};
use core::sync::atomic::Ordering::Relaxed;
use intrusive_collections::{KeyAdapter, RBTree, RBTreeAtomicLink, UnsafeRef, intrusive_adapter};

intrusive_adapter!(SleepAdapter = EntityRef: Entity { sleep => RBTreeAtomicLink });

impl KeyAdapter<'_> for SleepAdapter {
    type Key = u64;
    fn get_key(&self, entity: &Entity) -> u64 {
        entity.deadline.load(Relaxed)
    }
}

/// Threads of a CPU that wait no longer than until some moment.
pub struct Sleepers(RBTree<SleepAdapter>);

impl Sleepers {
    /// Nobody.
    pub const fn new() -> Self {
        Self(RBTree::new(SleepAdapter::NEW))
    }

    /// Takes in `entity`, which sleeps nowhere, to be woken at `deadline` (ms).
    pub fn add(&mut self, entity: EntityRef, deadline: u64) {
        entity.deadline.store(deadline, Relaxed);
        self.0.insert(entity);
    }

    /// Takes `entity` out, if it sleeps.
    ///
    /// # Safety
    ///
    /// If it sleeps, it sleeps here.
    pub unsafe fn remove(&mut self, entity: &EntityRef) {
        if entity.sleep.is_linked() {
            // SAFETY: the caller says that it is an element of this tree.
            unsafe { self.0.cursor_mut_from_ptr(&raw const **entity) }.remove();
        }
    }

    /// Takes out one whose deadline is `now` (ms) or before, the earliest first.
    pub fn expired(&mut self, now: u64) -> Option<EntityRef> {
        let mut first = self.0.front_mut();
        let due = first.get()?.deadline.load(Relaxed) <= now;
        if due { first.remove() } else { None }
    }

    /// Takes out the earliest of those that are `wanted`.
    pub fn take(&mut self, wanted: &mut dyn FnMut(&Entity) -> bool) -> Option<EntityRef> {
        let mut cursor = self.0.front_mut();
        while !wanted(cursor.get()?) {
            cursor.move_next();
        }
        cursor.remove()
    }

    /// The earliest deadline (ms).
    pub fn next(&self) -> Option<u64> {
        self.0.front().get().map(|entity| entity.deadline.load(Relaxed))
    }

    /// Whether `entity` sleeps, here or elsewhere.
    pub fn sleeps(entity: &UnsafeRef<Entity>) -> bool {
        entity.sleep.is_linked()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Priority;
    use super::*;

    #[test]
    fn the_earliest_wakes_first_and_none_too_early() {
        const DEADLINES: [u64; 9] = [50, 10, 30, 30, 70, 10, 90, 20, 60];
        let all = DEADLINES.map(|_| Entity::new(Priority::Normal));
        // SAFETY: the tree is empty at the end.
        let refer = |entity: &Entity| unsafe { EntityRef::from_raw(core::ptr::from_ref(entity)) };
        let mut sleepers = Sleepers::new();
        for (entity, deadline) in all.iter().zip(DEADLINES) {
            assert!(!Sleepers::sleeps(&refer(entity)));
            sleepers.add(refer(entity), deadline);
            assert!(Sleepers::sleeps(&refer(entity)));
        }
        // SAFETY: it sleeps in this tree, the second time nowhere.
        unsafe {
            sleepers.remove(&refer(&all[8]));
            sleepers.remove(&refer(&all[8]));
        }
        let at = |entity: &Entity| all.iter().position(|one| core::ptr::eq(one, entity)).unwrap();
        // The later of two with the same deadline, and nobody.
        let taken = sleepers.take(&mut |entity| at(entity) == 3).unwrap();
        assert!(sleepers.take(&mut |_| false).is_none());
        sleepers.add(taken, 30);
        let mut woken = Vec::new();
        for now in 0..100 {
            assert!(sleepers.next().is_none_or(|next| next >= now));
            while let Some(entity) = sleepers.expired(now) {
                let index = all.iter().position(|one| core::ptr::eq(one, &raw const *entity));
                woken.push((now, index.unwrap()));
            }
        }
        woken.sort_unstable();
        let want = [(10, 1), (10, 5), (20, 7), (30, 2), (30, 3), (50, 0), (70, 4), (90, 6)];
        assert_eq!(woken, want);
        assert!(sleepers.next().is_none());
    }
}
