//! Both kinds of local APIC against register files that behave like the
//! hardware as far as it matters, and refuse what the hardware refuses.

use super::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What happened, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Write(u32, u64),
    Fence,
}

/// Registers by number: memory offsets or model-specific registers.
#[derive(Default)]
struct File {
    registers: Mutex<BTreeMap<u32, u64>>,
    events: Mutex<Vec<Event>>,
    /// Reads of the command register that say that it is busy.
    busy: Mutex<u32>,
    /// The APIC cannot be switched on.
    dead: bool,
}

impl File {
    fn get(&self, number: u32) -> u64 {
        self.registers.lock().unwrap().get(&number).copied().unwrap_or(0)
    }

    fn set(&self, number: u32, value: u64) {
        self.events.lock().unwrap().push(Event::Write(number, value));
        self.registers.lock().unwrap().insert(number, value);
    }

    fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

impl Mmio for File {
    fn read(&self, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(16) && offset < 0x400, "{offset:#x} is no register");
        let mut busy = self.busy.lock().unwrap();
        if offset == 0x300 && *busy > 0 {
            *busy -= 1;
            return 1 << 12;
        }
        self.get(offset.into()) as u32
    }

    fn write(&self, offset: u16, value: u32) {
        assert!(offset.is_multiple_of(16) && offset < 0x400, "{offset:#x} is no register");
        assert!(offset != 0x300 || *self.busy.lock().unwrap() == 0, "command while one is pending");
        self.set(offset.into(), value.into());
    }
}

impl Msrs for File {
    fn read(&self, number: u32) -> u64 {
        assert!(number == APIC_BASE || (0x800..0x840).contains(&number), "#GP: {number:#x}");
        self.get(number)
    }

    fn write(&self, number: u32, value: u64) {
        match number {
            APIC_BASE => {
                let legal = [
                    (Mode::Off, Mode::Off),
                    (Mode::Off, Mode::XApic),
                    (Mode::XApic, Mode::XApic),
                    (Mode::XApic, Mode::X2Apic),
                    (Mode::XApic, Mode::Off),
                    (Mode::X2Apic, Mode::X2Apic),
                    (Mode::X2Apic, Mode::Off),
                ];
                let step = (mode(self.get(APIC_BASE)), mode(value));
                assert!(legal.contains(&step), "#GP: {step:?}");
                if self.dead {
                    return;
                }
            }
            // Reserved bits, and registers that can only be read.
            0x80b => assert_eq!(value, 0, "#GP: end of interrupt"),
            0x830 => assert_eq!(value & 0xfff0_3000, 0, "#GP: reserved bits of {value:#x}"),
            0x802 | 0x803 | 0x839 => panic!("#GP: {number:#x} cannot be written"),
            0x800..0x840 => assert_eq!(value >> 32, 0, "#GP: {number:#x}"),
            _ => panic!("#GP: {number:#x}"),
        }
        self.set(number, value);
    }

    fn fence(&self) {
        self.events.lock().unwrap().push(Event::Fence);
    }
}

fn both() -> (XApic<File>, X2Apic<File>) {
    (XApic(File::default()), X2Apic(File::default()))
}

#[test]
fn numbers_have_8_and_32_bits() {
    let (narrow, wide) = both();
    narrow.0.set(0x20, 0x2a00_0000);
    wide.0.set(0x802, 0x0001_0007);
    assert_eq!((narrow.id(), wide.id()), (ApicId(0x2a), ApicId(0x1_0007)));
}

/// SDM volume 3, figures 11-12 and 11-28, by hand.
#[test]
fn commands_are_composed_as_the_manual_says() {
    for (command, low) in [
        (Command::Interrupt(0x41), 0x4041),
        (Command::Nmi, 0x4400),
        (Command::Init, 0x4500),
        (Command::StartUp(0x08), 0x4608),
    ] {
        let (narrow, wide) = both();
        narrow.send(command, Destination::One(ApicId(0x21))).unwrap();
        let want = [Event::Write(0x310, 0x2100_0000), Event::Write(0x300, low)];
        assert_eq!(narrow.0.take_events(), want);
        narrow.send(command, Destination::Others).unwrap();
        let want = [Event::Write(0x310, 0), Event::Write(0x300, low | 0xc_0000)];
        assert_eq!(narrow.0.take_events(), want);

        wide.send(command, Destination::One(ApicId(0x0102_0304))).unwrap();
        let want = [Event::Fence, Event::Write(0x830, 0x0102_0304_0000_0000 | low)];
        assert_eq!(wide.0.take_events(), want);
        wide.send(command, Destination::Others).unwrap();
        assert_eq!(wide.0.take_events(), [Event::Fence, Event::Write(0x830, low | 0xc_0000)]);
    }
}

#[test]
fn nobody_is_addressed_by_mistake() {
    let (narrow, wide) = both();
    for id in [0xff, 0x100, 0x1_0001, u32::MAX] {
        let sent = narrow.send(Command::Nmi, Destination::One(ApicId(id)));
        assert_eq!(sent, Err(NotSent::OutOfReach(ApicId(id))));
    }
    let sent = wide.send(Command::Nmi, Destination::One(ApicId(u32::MAX)));
    assert_eq!(sent, Err(NotSent::OutOfReach(ApicId(u32::MAX))));
    wide.send(Command::Nmi, Destination::One(ApicId(0xff))).unwrap();
    assert_eq!((narrow.0.take_events(), wide.0.take_events().len()), (vec![], 2));
}

/// A command waits until the one before it has left, but not for ever.
#[test]
fn one_command_after_the_other() {
    let (narrow, _) = both();
    *narrow.0.busy.lock().unwrap() = 1000;
    narrow.send(Command::Nmi, Destination::Others).unwrap();
    assert_eq!(narrow.0.take_events().len(), 2);
    *narrow.0.busy.lock().unwrap() = u32::MAX;
    assert_eq!(narrow.send(Command::Nmi, Destination::Others), Err(NotSent::Stuck));
    assert_eq!(narrow.0.take_events(), []);
}

#[test]
fn every_way_to_be_switched_on() {
    const FRAME: u64 = 0xfee0_0000;
    const BOOT_CPU: u64 = 1 << 8;
    for (base, x2apic, want, writes) in [
        (0, false, Mode::XApic, 1),
        (0, true, Mode::X2Apic, 2),
        // Nonsense: an x2APIC that is off.
        (1 << 10, false, Mode::XApic, 1),
        (1 << 11, false, Mode::XApic, 0),
        (1 << 11, true, Mode::X2Apic, 1),
        (3 << 10, true, Mode::X2Apic, 0),
        // The firmware wants it so, whatever the command line says.
        (3 << 10, false, Mode::X2Apic, 0),
    ] {
        let file = File::default();
        file.set(APIC_BASE, FRAME | BOOT_CPU | base);
        file.take_events();
        assert_eq!(switch_on(&file, x2apic), want, "{base:#x} {x2apic}");
        assert_eq!(file.take_events().len(), writes);
        let base = file.get(APIC_BASE);
        assert_eq!((frame(base), mode(base)), (mm::types::Pfn(0xfee00), want));
        assert_ne!(base & BOOT_CPU, 0);
    }
    let dead = File { dead: true, ..File::default() };
    assert_eq!(switch_on(&dead, true), Mode::Off);
}

#[test]
fn it_is_prepared_alike_in_both_modes() {
    let nmi = Lint { pin: LintPin::Lint1, active_low: true, level: false };
    let other = Lint { pin: LintPin::Lint0, active_low: false, level: true };
    for (nmi, lint0_nmi, lint0, lint1) in [
        (None, false, 0x1_0000, 0x1_0000),
        (None, true, 0x400, 0x1_0000),
        (Some(nmi), false, 0x1_0000, 0x2400),
        (Some(nmi), true, 0x400, 0x2400),
        (Some(other), true, 0x8400, 0x1_0000),
    ] {
        let (narrow, wide) = both();
        let apics: [&dyn LocalApic; 2] = [&narrow, &wide];
        for apic in apics {
            enable(apic, 0xff, nmi, lint0_nmi);
            assert_eq!(apic.read(Register::Spurious), 0x1ff);
            assert_eq!(apic.read(Register::TaskPriority), 0);
            assert_eq!(apic.read(Register::LvtTimer), 0x1_0000);
            assert_eq!(apic.read(Register::LvtLint0), lint0);
            assert_eq!(apic.read(Register::LvtLint1), lint1);
        }
        // The APIC forgets its pins while it is off.
        assert_eq!(narrow.0.take_events()[0], Event::Write(0xf0, 0x1ff));
        assert_eq!(wide.0.take_events()[0], Event::Write(0x80f, 0x1ff));
    }
}

#[test]
fn the_end_of_an_interrupt() {
    let (narrow, wide) = both();
    end_of_interrupt(&narrow);
    end_of_interrupt(&wide);
    assert_eq!(narrow.0.take_events(), [Event::Write(0xb0, 0)]);
    assert_eq!(wide.0.take_events(), [Event::Write(0x80b, 0)]);
}

/// A timer that counts down by `per_look` at each look at the clock, which moves
/// on by 1000.
#[test]
fn the_timer_is_measured_and_started() {
    for (per_look, khz) in [(500, Some(1_000_000)), (1, Some(2000)), (0, None)] {
        let (narrow, wide) = both();
        // The counter that hardware counts down, by both its names.
        let apics: [(&dyn LocalApic, &File, u32); 2] =
            [(&narrow, &narrow.0, 0x390), (&wide, &wide.0, 0x839)];
        for (apic, file, current) in apics {
            let clock = Cell::new(0_u64);
            let mut now = || {
                clock.set(clock.get() + 1000);
                let left = u64::from(u32::MAX) - (clock.get() / 1000 - 1) * per_look;
                file.registers.lock().unwrap().insert(current, left);
                clock.get()
            };
            // Two million counts in a millisecond: 2 GHz.
            assert_eq!(measure_timer(apic, 2_000_000, &mut now), khz);
            assert_eq!(apic.read(Register::InitialCount), 0);
            assert_eq!(apic.read(Register::LvtTimer), 0x1_0000);
            let Some(khz) = khz else { continue };
            assert!(start_timer(apic, khz, 100, 0x40));
            assert_eq!(apic.read(Register::InitialCount), khz as u32 * 10);
            assert_eq!(apic.read(Register::LvtTimer), 0x2_0040);
            assert_eq!(apic.read(Register::DivideConfig), 3);
            stop_timer(apic);
            assert_eq!(apic.read(Register::InitialCount), 0);
        }
    }
    let (narrow, _) = both();
    assert!(!start_timer(&narrow, 0, 100, 0x40) && !start_timer(&narrow, 1, 0, 0x40));
    assert!(start_timer(&narrow, u64::MAX, 1, 0x40));
    assert_eq!(narrow.read(Register::InitialCount), u32::MAX);
}
