//! Kernel stacks, each above an unmapped guard page in a slot of its own.
//! Calls `kstack`, `layout`, `image`.

use crate::image;
use crate::vm::{kstack, layout};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes from one stack's top to the next; all below a stack in its slot is
/// guard.
const SLOT: u64 = 1 << 20;

/// The stacks that every boot needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Stack {
    /// The boot CPU's, on which boot and self-tests run.
    Boot = 0,
    /// For double faults.
    DoubleFault = 1,
    /// For non-maskable interrupts.
    Nmi = 2,
    /// For machine checks.
    MachineCheck = 3,
}

impl Stack {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::Boot, Self::DoubleFault, Self::Nmi, Self::MachineCheck];

    const fn bytes(self) -> u64 {
        match self {
            Self::Boot => 128 * 1024,
            _ => 16 * 1024,
        }
    }

    /// In words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Boot => "the boot CPU's stack",
            Self::DoubleFault => "the double fault stack",
            Self::Nmi => "the NMI stack",
            Self::MachineCheck => "the machine check stack",
        }
    }

    /// One past its highest byte.
    pub(crate) const fn top(self) -> u64 {
        layout::STACKS + (self as u64 + 1) * SLOT
    }

    /// Its bytes.
    pub(crate) const fn range(self) -> Range<u64> {
        self.top() - self.bytes()..self.top()
    }

    /// The unmapped bytes below it.
    pub(crate) const fn guard(self) -> Range<u64> {
        self.top() - SLOT..self.top() - self.bytes()
    }
}

/// The stack that the boot loader made: first byte, and one past the last.
static LOADER: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// Whether the kernel's own stacks are mapped (and the loader's is not).
static OWN: AtomicBool = AtomicBool::new(false);

/// Notes where the boot loader's stack is.
pub(crate) fn set_loader_stack(start: u64, len: u64) {
    LOADER[0].store(start, Ordering::Relaxed);
    LOADER[1].store(start.saturating_add(len), Ordering::Relaxed);
}

/// Notes that the kernel's own stacks have taken the place of the loader's.
pub(crate) fn set_own() {
    set_loader_stack(0, 0);
    OWN.store(true, Ordering::Relaxed);
}

/// Whether `addr` lies in a stack that is mapped (or in the kernel image,
/// where the first exception stacks are).
pub(crate) fn is_stack(addr: u64) -> bool {
    let loader = LOADER[0].load(Ordering::Relaxed)..LOADER[1].load(Ordering::Relaxed);
    let own = OWN.load(Ordering::Relaxed);
    loader.contains(&addr)
        || (own && Stack::ALL.iter().any(|stack| stack.range().contains(&addr)))
        || (own && kstack::is_stack(addr))
        || (image::base()..image::end()).contains(&addr)
}

/// The stack whose guard `addr` lies in.
pub(crate) fn guard_below(addr: u64) -> Option<&'static str> {
    let start = LOADER[0].load(Ordering::Relaxed);
    if start != 0 && (start.saturating_sub(4096)..start).contains(&addr) {
        return Some("the boot loader's stack");
    }
    let own = OWN.load(Ordering::Relaxed);
    let hit = Stack::ALL.into_iter().find(|stack| own && stack.guard().contains(&addr));
    hit.map(Stack::name).or_else(|| (own && kstack::is_guard(addr)).then_some("a thread's stack"))
}
