//! What was found, for whoever asks. Calls `env`.

use super::env;
use crate::arch::irq::IrqMutex;
use ::drivers::DeviceType;
use ::drivers::pci::Function;
use core::fmt;
use mm::sync::LockRank;

/// Functions that are listed; more than that work all the same.
const FUNCTIONS: usize = 128;

/// A function, and what became of it.
#[derive(Clone, Copy)]
struct Entry {
    function: Function,
    use_: Use,
}

/// What became of a function.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Nothing: there is no driver for it.
    None,
    /// It was left out; the log says why.
    LeftOut,
    /// A driver has it: what it is, and the number of its events.
    Driven(DeviceType, usize),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Function { address, vendor, device, class, revision, .. } = self.function;
        write!(f, "{address} [{vendor:04x}:{device:04x}] class {class:#08x} rev {revision:02x}")?;
        match self.use_ {
            Use::None => Ok(()),
            Use::LeftOut => f.write_str(" left out"),
            Use::Driven(kind, number) => {
                write!(f, " virtio{number} {kind:?}")?;
                match env::get(number).and_then(env::Events::interrupts) {
                    Some(count) => write!(f, ", {count} interrupts"),
                    None => f.write_str(", no interrupt"),
                }
            }
        }
    }
}

struct List {
    entries: [Option<Entry>; FUNCTIONS],
    len: usize,
}

static LIST: IrqMutex<List> =
    IrqMutex::new(LockRank::Leaf, List { entries: [None; FUNCTIONS], len: 0 });

/// Lists a function.
pub(super) fn add(function: &Function, use_: Use) {
    let mut list = LIST.lock();
    let at = list.len;
    if let Some(slot) = list.entries.get_mut(at) {
        *slot = Some(Entry { function: *function, use_ });
        list.len += 1;
    }
}

/// The functions on bus `bus` of `segment`, one after the other, taken off the
/// list: each with the kind of its driver's device and the number of its events,
/// if it has a driver.
pub(super) fn take(segment: u16, bus: u8) -> Option<(Function, Option<(DeviceType, usize)>)> {
    let mut list = LIST.lock();
    let len = list.len;
    let there = |it: &Option<Entry>| {
        it.is_some_and(|it| {
            let address = it.function.address;
            (address.segment(), address.bus()) == (segment, bus)
        })
    };
    let at = list.entries[..len].iter().position(there)?;
    let entry = list.entries[at].take();
    list.entries.copy_within(at + 1..len, at);
    // Readers go on to the first that is empty.
    list.entries[len - 1] = None;
    list.len -= 1;
    let Entry { function, use_ } = entry?;
    let driven = match use_ {
        Use::Driven(kind, number) => Some((kind, number)),
        Use::None | Use::LeftOut => None,
    };
    Some((function, driven))
}

/// What drivers have on bus `bus` of `segment`: the kind of each device, and the
/// number of its events.
pub(super) fn driven(segment: u16, bus: u8) -> impl Iterator<Item = (DeviceType, usize)> {
    let entries = (0..FUNCTIONS).map_while(|at| LIST.lock().entries[at]);
    entries.filter_map(move |it| {
        let address = it.function.address;
        match it.use_ {
            Use::Driven(kind, number) if (address.segment(), address.bus()) == (segment, bus) => {
                Some((kind, number))
            }
            _ => None,
        }
    })
}

/// Calls `line` for each function, with what there is to say about it. In a
/// thread.
pub(crate) fn each(line: &mut dyn FnMut(fmt::Arguments<'_>)) {
    for at in 0..FUNCTIONS {
        // Not under the lock, for a console is slow.
        let entry = LIST.lock().entries[at];
        let Some(entry) = entry else { return };
        line(format_args!("{entry}"));
    }
}
