//! Devices that come and go in the slots of PCI Express ports: a thread looks at
//! the slots, which is soon enough for what a person or a monitor does. Calls
//! `bind`, `config`.

use super::bind;
use super::config::Config;
use crate::arch::time;
use crate::platform::Machine;
use crate::task::{self, Config as Thread, Mutex};
use ::drivers::pci::{News, PciAddress, Slot, Wish};
use mm::Mm;
use quarry_kernel::sched::{Name, Priority};

/// Slots that are looked at.
const SLOTS: usize = 32;
/// How often (ms).
const LOOK_MS: u64 = 250;
/// Bytes of the stack of the thread that does.
const STACK: usize = 64 << 10;

static FOUND: Mutex<[Option<Slot>; SLOTS]> = Mutex::new([None; SLOTS]);

/// Adds a slot, before [`start`]. In a thread.
pub(super) fn add(slot: Slot) {
    match FOUND.lock().iter_mut().find(|it| it.is_none()) {
        Some(place) => {
            log::info!("{slot}: found");
            *place = Some(slot);
        }
        None => log::warn!("{slot}: one too many: not looked at"),
    }
}

/// Starts the thread that looks at the slots, if there are any.
pub(super) fn start(mm: &'static Mm<Machine>, config: &'static Config) {
    if FOUND.lock().iter().all(Option::is_none) {
        return;
    }
    // Finding a device goes deep.
    let (priority, stack) = (Priority::Low, STACK);
    let thread = Thread { priority, stack, ..Thread::new(Name::new("pciehp")) };
    if let Err(error) = task::spawn(&thread, move || serve(mm, config)) {
        log::error!("pciehp: no thread: {error}");
    }
}

fn serve(mm: &'static Mm<Machine>, config: &'static Config) {
    loop {
        for slot in FOUND.lock().iter_mut().flatten() {
            let name = *slot;
            let say = &mut |news: News| log::info!("{name}: {news}");
            if let Some(wish) = slot.look(config, time::now_ms(), say) {
                fulfil(mm, config, slot, wish);
            }
        }
        task::sleep(LOOK_MS);
    }
}

fn fulfil(mm: &'static Mm<Machine>, config: &'static Config, slot: &mut Slot, wish: Wish) {
    let name = *slot;
    let say = &mut |news: News| log::info!("{name}: {news}");
    let port: PciAddress = slot.port();
    let Some(bus) = slot.bus(config) else {
        slot.keep(config);
        return log::warn!("{name}: there is no bus behind it");
    };
    match wish {
        Wish::Attach => {
            if slot.power_on(config, &mut task::sleep, say) {
                log::info!("{name}: Link Up");
                bind::behind(mm, config, port, bus);
            }
        }
        Wish::Detach => {
            if let Some(why) = bind::needed(mm, port.segment(), bus) {
                slot.keep(config);
                return log::warn!("{name}: {why}: stays on");
            }
            bind::release(config, port.segment(), bus);
            slot.power_off(config, &mut task::sleep);
        }
        Wish::Gone => {
            bind::release(config, port.segment(), bus);
        }
    }
}
