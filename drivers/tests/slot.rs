//! Slots of ports, as QEMU has them: buttons, cards that come and go; and
//! addresses for what has come.

use drivers::pci::{
    BLINK_MS, Bar, ConfigRegionAccess, Function, HeaderType, News, PciAddress, Slot, Window, Wish,
    windows,
};
use std::sync::Mutex;

const EXPRESS: u16 = 0x54;
const BUTTON: u32 = 1 << 16;
const CHANGED: u32 = 1 << 19;
const PRESENT: u32 = 1 << 22;
const UP: u32 = 1 << 29;

/// A root port: its words, and what it does when its slot is commanded.
struct Port(Mutex<[u32; 64]>);

impl Port {
    fn new(present: bool) -> Self {
        let mut words = [0; 64];
        words[0] = 0x000c_1b36;
        words[1] = 0x0010_0007;
        words[3] = 0x0001_0000;
        words[6] = 0x0001_0100;
        words[8] = 0xfe9f_fe80;
        words[9] = 0x0001_0001 | 0xfe0f_0000 | 0xfe00;
        words[10] = 1;
        words[11] = 1;
        words[13] = u32::from(EXPRESS);
        // Version 2, root port, slot.
        words[usize::from(EXPRESS) / 4] = 0x0142_0010;
        words[usize::from(EXPRESS + 0x14) / 4] = 3 << 19 | 0x7b;
        let port = Self(Mutex::new(words));
        port.card(present);
        let off = if present { 1 << 8 } else { 1 << 10 | 3 << 8 };
        port.with(0x18, |word| *word = *word & !CHANGED | off);
        port
    }

    fn with<R>(&self, at: u16, f: impl FnOnce(&mut u32) -> R) -> R {
        f(&mut self.0.lock().unwrap()[usize::from(EXPRESS + at) / 4])
    }

    fn card(&self, present: bool) {
        self.with(0x18, |word| *word = *word & !PRESENT | CHANGED | u32::from(present) << 22);
        self.with(0x10, |word| *word = if present { UP } else { 0 });
    }

    fn press(&self) {
        self.with(0x18, |word| *word |= BUTTON);
    }

    /// Indicator and power.
    fn command(&self) -> (u32, bool) {
        self.with(0x18, |word| (*word >> 8 & 3, *word >> 10 & 1 == 0))
    }

    fn function(&self) -> Function {
        Function::at(self, PciAddress::new(0, 0, 3, 0)).unwrap()
    }

    fn slot(&self) -> Slot {
        Slot::find(self, &self.function()).unwrap()
    }

    fn look(&self, slot: &mut Slot, now: u64) -> (Option<Wish>, Vec<News>) {
        let mut news = Vec::new();
        let wish = slot.look(self, now, &mut |it| news.push(it));
        (wish, news)
    }
}

impl ConfigRegionAccess for Port {
    unsafe fn read(&self, _: PciAddress, offset: u16) -> u32 {
        self.0.lock().unwrap()[usize::from(offset) / 4]
    }

    unsafe fn write(&self, _: PciAddress, offset: u16, value: u32) {
        if offset != EXPRESS + 0x18 {
            return;
        }
        let before = self.command();
        self.with(0x18, |word| {
            // Events are cleared by ones; presence is read only.
            let status = *word & !(value & !PRESENT) & 0xffff_0000;
            // A command is done at once.
            *word = status | value & 0xffff | 1 << 20;
        });
        // What is switched off is let go, as QEMU has it.
        let off = self.command() == (3, false) && before != (3, false);
        if off && self.with(0x18, |word| *word & PRESENT != 0) {
            self.card(false);
        }
    }
}

#[test]
fn a_button_is_pressed_and_the_card_goes() {
    let port = Port::new(true);
    let mut slot = port.slot();
    assert_eq!(slot.to_string(), "pcieport 0000:00:03.0: pciehp: Slot(3)");
    assert_eq!(slot.bus(&port), Some(1));
    assert_eq!(port.look(&mut slot, 0), (None, vec![]));
    port.press();
    assert_eq!(port.look(&mut slot, 10), (None, vec![News::Button, News::PoweringOff]));
    assert_eq!(port.command(), (2, true), "it blinks");
    assert_eq!(port.look(&mut slot, 9 + BLINK_MS), (None, vec![]));
    assert_eq!(port.look(&mut slot, 10 + BLINK_MS), (Some(Wish::Detach), vec![]));
    slot.power_off(&port, &mut |_| ());
    assert_eq!(port.command(), (3, false));
    assert_eq!(port.look(&mut slot, 11 + BLINK_MS), (None, vec![]), "that was no surprise");
    // Another comes: QEMU presses the button too.
    port.card(true);
    port.press();
    assert_eq!(port.look(&mut slot, 20_000), (Some(Wish::Attach), vec![News::Present]));
    assert!(slot.power_on(&port, &mut |_| (), &mut |it| panic!("{it}")));
    assert_eq!(port.command(), (1, true));
    assert_eq!(port.look(&mut slot, 20_001), (None, vec![]));
}

#[test]
fn a_button_that_is_pressed_twice() {
    let port = Port::new(true);
    let mut slot = port.slot();
    port.press();
    port.look(&mut slot, 0);
    port.press();
    assert_eq!(port.look(&mut slot, 1000), (None, vec![News::Button, News::Cancelled]));
    assert_eq!((port.command(), port.look(&mut slot, 99_000)), ((1, true), (None, vec![])));
    // Somebody behind it cannot let go.
    port.press();
    port.look(&mut slot, 100_000);
    assert_eq!(port.look(&mut slot, 200_000).0, Some(Wish::Detach));
    slot.keep(&port);
    assert_eq!((port.command(), port.look(&mut slot, 300_000).0), ((1, true), None));
}

#[test]
fn surprises() {
    let port = Port::new(true);
    let mut slot = port.slot();
    port.card(false);
    assert_eq!(port.look(&mut slot, 0), (Some(Wish::Gone), vec![News::NotPresent]));
    assert_eq!(port.command(), (3, false));
    assert_eq!(port.look(&mut slot, 1), (None, vec![]));
    port.press();
    assert_eq!(port.look(&mut slot, 2), (None, vec![News::Button, News::NotPresent]));
    // A card whose link never comes up.
    port.card(true);
    port.with(0x10, |word| *word = 0);
    assert_eq!(port.look(&mut slot, 3).0, Some(Wish::Attach));
    let (mut ms, mut news) = (0, Vec::new());
    assert!(!slot.power_on(&port, &mut |it| ms += it, &mut |it| news.push(it)));
    assert_eq!((news, ms), (vec![News::NoLink], 1000));
    // The port itself goes: all ones.
    let port = Port::new(true);
    let mut slot = port.slot();
    port.0.lock().unwrap().fill(u32::MAX);
    assert_eq!(port.look(&mut slot, 0), (Some(Wish::Gone), vec![]));
    assert_eq!(port.look(&mut slot, 1), (None, vec![]));
    assert_eq!(slot.bus(&port), None);
    slot.power_off(&port, &mut |_| ());
}

#[test]
fn ports_without_a_slot() {
    for (at, word) in [(0x14, 3 << 19), (0, 0x0042_0010), (0, 0x0152_0010), (0, 0x0142_0005)] {
        let port = Port::new(true);
        port.with(at, |it| *it = word);
        assert!(Slot::find(&port, &port.function()).is_none(), "{at:#x} {word:#x}");
    }
    let port = Port::new(true);
    let function = Function { header: HeaderType::Endpoint, ..port.function() };
    assert!(Slot::find(&port, &function).is_none());
}

#[test]
fn addresses_for_what_has_come() {
    let port = Port::new(true);
    let at = PciAddress::new(0, 0, 3, 0);
    let [any, pref] = windows(&port, at);
    assert_eq!(any, Window { next: 0xfe80_0000, end: 0xfea0_0000 });
    assert_eq!(pref, Window { next: 0x1_fe00_0000, end: 0x1_fe10_0000 });
    // A device with registers of each kind.
    struct Device(Mutex<[u32; 64]>);
    impl ConfigRegionAccess for Device {
        unsafe fn read(&self, _: PciAddress, offset: u16) -> u32 {
            self.0.lock().unwrap()[usize::from(offset) / 4]
        }

        unsafe fn write(&self, _: PciAddress, offset: u16, value: u32) {
            let masks = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map(|it| it / 4);
            let mut words = self.0.lock().unwrap();
            let at = usize::from(offset) / 4;
            if let Some(n) = masks.iter().position(|&it| it == at) {
                // 4 KiB, 4 KiB prefetchable, 16 KiB of 64 bits, ports, nothing.
                let (mask, kind) = [
                    (0xffff_f000, 0),
                    (0xffff_f000, 8),
                    (0xffff_c000, 12),
                    (u32::MAX, 0),
                    (0xffff_ffe0, 1),
                    (0, 0),
                ][n];
                words[at] = value & mask | kind;
            }
        }
    }
    let device = Device(Mutex::new([0; 64]));
    device.0.lock().unwrap()[..1].fill(0x1045_1af4);
    device.0.lock().unwrap()[4..10].copy_from_slice(&[0, 8, 12, 0, 1, 0]);
    let function = Function::at(&device, PciAddress::new(0, 1, 0, 0)).unwrap();
    // SAFETY: nothing is behind it.
    let bars = unsafe { function.bars(&device) }.unwrap();
    let mut windows = [any, pref];
    // SAFETY: as above.
    assert!(unsafe { function.assign(&device, &bars, &mut windows) });
    // SAFETY: as above.
    let bars = unsafe { function.bars(&device) }.unwrap();
    let memory = |addr, bytes, prefetchable| Some(Ok(Bar::Memory { addr, bytes, prefetchable }));
    assert_eq!(bars[0], memory(0xfe80_0000, 0x1000, false));
    // The window of its kind is out of its reach.
    assert_eq!(bars[1], memory(0xfe80_1000, 0x1000, true));
    assert_eq!(bars[2], memory(0x1_fe00_0000, 0x4000, true));
    assert_eq!(bars[4], Some(Ok(Bar::Unassigned { bytes: 0x20 })));
    // No room: it stays without.
    let mut windows = [Window { next: 0xfe9f_f800, end: 0xfea0_0000 }; 2];
    device.0.lock().unwrap()[4..10].copy_from_slice(&[0, 8, 12, 0, 1, 0]);
    // SAFETY: as above.
    let bars = unsafe { function.bars(&device) }.unwrap();
    // SAFETY: as above.
    assert!(!unsafe { function.assign(&device, &bars, &mut windows) });
    // All ones: the bridge is gone.
    port.0.lock().unwrap().fill(u32::MAX);
    assert_eq!(drivers::pci::windows(&port, at), [Window { next: 0, end: 0 }; 2]);
}
