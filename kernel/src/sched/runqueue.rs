//! Who runs next on a CPU: the highest priority that is ready, in turns among
//! equals, each for a slice of time. Strict: as long as a higher priority is
//! ready a lower one does not run. Lists through what is queued, so that
//! nothing here allocates.

use core::sync::atomic::AtomicU64;
use intrusive_collections::{
    LinkedList, LinkedListAtomicLink, RBTreeAtomicLink, UnsafeRef, intrusive_adapter,
};

/// How urgent a thread is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Priority {
    /// Runs when nothing else wants to: the CPUs' idle threads, never queued.
    Idle = 0,
    /// Background work.
    Low = 1,
    /// What most threads have.
    Normal = 2,
    /// Work that others wait for.
    High = 3,
    /// A real-time thread, in `mm`'s sense too.
    RealTime = 4,
}

const PRIORITIES: usize = Priority::RealTime as usize + 1;

/// Ticks that a thread may run while others of its priority wait.
pub const SLICE_TICKS: u32 = 5;

/// What the scheduler's queues know of a thread.
#[derive(Debug)]
pub struct Entity {
    run: LinkedListAtomicLink,
    pub(super) sleep: RBTreeAtomicLink,
    /// When to wake it (ms); valid while it is among [`super::Sleepers`].
    pub(super) deadline: AtomicU64,
    priority: Priority,
}

/// A reference to an entity that outlives its time in queues.
pub type EntityRef = UnsafeRef<Entity>;

impl Entity {
    /// In no queue.
    pub const fn new(priority: Priority) -> Self {
        Self {
            run: LinkedListAtomicLink::new(),
            sleep: RBTreeAtomicLink::new(),
            deadline: AtomicU64::new(0),
            priority,
        }
    }

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        self.priority
    }
}

intrusive_adapter!(RunAdapter = EntityRef: Entity { run => LinkedListAtomicLink });

/// What is ready to run on a CPU and does not.
pub struct RunQueue {
    lists: [LinkedList<RunAdapter>; PRIORITIES],
    len: u32,
}

impl RunQueue {
    /// Nothing is ready.
    pub const fn new() -> Self {
        Self { lists: [const { LinkedList::new(RunAdapter::NEW) }; PRIORITIES], len: 0 }
    }

    /// How many are ready.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The highest priority that is ready.
    pub fn top(&self) -> Option<Priority> {
        let highest = self.lists.iter().rev().find_map(|list| list.front().get());
        highest.map(Entity::priority)
    }

    /// Puts `entity`, which is in no run queue, behind its equals.
    pub fn push(&mut self, entity: EntityRef) {
        self.lists[entity.priority as usize].push_back(entity);
        self.len += 1;
    }

    /// Puts `entity`, which is in no run queue and had its slice cut short,
    /// before its equals.
    pub fn push_front(&mut self, entity: EntityRef) {
        self.lists[entity.priority as usize].push_front(entity);
        self.len += 1;
    }

    /// Takes out who is to run next.
    pub fn pop(&mut self) -> Option<EntityRef> {
        self.take(&mut |_| true)
    }

    /// Takes out the first, in the order of [`pop`](Self::pop), that `wanted`
    /// accepts.
    pub fn take(&mut self, wanted: &mut dyn FnMut(EntityRef) -> bool) -> Option<EntityRef> {
        for list in self.lists.iter_mut().rev() {
            let mut at = list.front_mut();
            // The reference that was queued, not one to the entity alone.
            while let Some(entity) = at.as_cursor().clone_pointer() {
                if wanted(entity) {
                    self.len -= 1;
                    return at.remove();
                }
                at.move_next();
            }
        }
        None
    }
}

/// What is left of the running thread's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Ticks.
    pub left: u32,
}

impl Slice {
    /// A whole slice.
    pub const FULL: Self = Self { left: SLICE_TICKS };

    /// A tick has passed while a thread of priority `running` ran: whether it
    /// is to make way for one of `waiting`'s. A thread without equals goes on
    /// with a new slice.
    pub fn tick(&mut self, running: Priority, waiting: &RunQueue) -> bool {
        self.left = self.left.saturating_sub(1);
        match waiting.top() {
            Some(top) if top > running => true,
            Some(top) if top == running && self.left == 0 => true,
            _ => {
                if self.left == 0 {
                    *self = Self::FULL;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// References that the tests' entities outlive.
    fn refer(entity: &Entity) -> EntityRef {
        // SAFETY: the queues of these tests go before the entities do.
        unsafe { UnsafeRef::from_raw(core::ptr::from_ref(entity)) }
    }

    fn addr(entity: &EntityRef) -> *const Entity {
        &raw const **entity
    }

    const KINDS: [Priority; 6] = [
        Priority::Normal,
        Priority::Low,
        Priority::RealTime,
        Priority::Normal,
        Priority::High,
        Priority::Normal,
    ];

    #[test]
    fn the_most_urgent_first_and_equals_in_turn() {
        let all = KINDS.map(Entity::new);
        let mut queue = RunQueue::new();
        assert!(queue.is_empty() && queue.top().is_none() && queue.pop().is_none());
        for entity in &all {
            queue.push(refer(entity));
        }
        assert_eq!((queue.len(), queue.top()), (6, Some(Priority::RealTime)));
        for want in [2, 4, 0, 3, 5, 1] {
            assert_eq!(addr(&queue.pop().unwrap()), &raw const all[want]);
        }
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn who_was_cut_short_goes_on_first() {
        let all = [Priority::Normal; 3].map(Entity::new);
        let mut queue = RunQueue::new();
        queue.push(refer(&all[0]));
        queue.push(refer(&all[1]));
        queue.push_front(refer(&all[2]));
        for want in [2, 0, 1] {
            assert_eq!(addr(&queue.pop().unwrap()), &raw const all[want]);
        }
    }

    #[test]
    fn the_first_that_is_wanted_is_taken() {
        let all = KINDS.map(Entity::new);
        let mut queue = RunQueue::new();
        all.iter().for_each(|entity| queue.push(refer(entity)));
        let found = queue.take(&mut |entity| entity.priority() < Priority::High).unwrap();
        assert_eq!(addr(&found), &raw const all[0]);
        assert!(queue.take(&mut |_| false).is_none());
        let last =
            queue.take(&mut |entity| core::ptr::eq(&raw const *entity, &raw const all[1])).unwrap();
        assert_eq!((addr(&last), queue.len()), (&raw const all[1], 4));
        for want in [2, 4, 3, 5] {
            assert_eq!(addr(&queue.pop().unwrap()), &raw const all[want]);
        }
    }

    #[test]
    fn a_slice_ends_only_for_equals_and_at_once_for_betters() {
        let (equal, low, high) =
            (Priority::Normal, Entity::new(Priority::Low), Entity::new(Priority::High));
        let other = Entity::new(equal);
        let (mut queue, mut slice) = (RunQueue::new(), Slice::FULL);
        for _ in 0..3 * SLICE_TICKS {
            assert!(!slice.tick(equal, &queue));
        }
        queue.push(refer(&low));
        for _ in 0..3 * SLICE_TICKS {
            assert!(!slice.tick(equal, &queue));
        }
        queue.push(refer(&other));
        slice = Slice::FULL;
        for tick in 1..=SLICE_TICKS {
            assert_eq!(slice.tick(equal, &queue), tick == SLICE_TICKS);
        }
        queue.push(refer(&high));
        for (running, gives_way) in
            [(equal, true), (Priority::Idle, true), (Priority::RealTime, false)]
        {
            slice = Slice::FULL;
            assert_eq!(slice.tick(running, &queue), gives_way);
        }
        while queue.pop().is_some() {}
    }
}
