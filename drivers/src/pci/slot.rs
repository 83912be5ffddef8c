//! Slots of PCI Express ports in which devices come and go (PCI Express base
//! specification 6.7; the rules for buttons as in Linux drivers/pci/hotplug):
//! what a port says of its slot, and what follows from it. Somebody looks now and
//! then; interrupts are not used. Calls `capability`, `function`.

use super::{ConfigRegionAccess, Function, HeaderType, PciAddress, capabilities, read};
use core::fmt;

/// The capability of PCI Express.
const EXPRESS: u8 = 0x10;
/// Port types: of a root complex, of a switch downwards.
const PORTS: [u16; 2] = [4, 6];
/// In the capability's control word: there is a slot.
const IMPLEMENTED: u16 = 1 << 8;

/// Registers, from the capability's offset on.
const LINK: u16 = 0x10;
const CAPABILITIES: u16 = 0x14;
const CONTROL: u16 = 0x18;

/// The link's status, in the upper half: it is up.
const LINK_UP: u32 = 1 << 29;

/// In the slot's capabilities.
const HOT_PLUG: u32 = 1 << 6;
const SILENT_COMMANDS: u32 = 1 << 18;
const NUMBER_SHIFT: u32 = 19;

/// In the slot's control.
const INDICATOR: u32 = 3 << 8;
const INDICATOR_ON: u32 = 1 << 8;
const INDICATOR_BLINK: u32 = 2 << 8;
const INDICATOR_OFF: u32 = 3 << 8;
const POWER_OFF: u32 = 1 << 10;

/// In the slot's status, the upper half; all but the last are cleared by ones.
const BUTTON: u32 = 1 << 16;
const PRESENCE_CHANGED: u32 = 1 << 19;
const COMMAND_DONE: u32 = 1 << 20;
const LINK_CHANGED: u32 = 1 << 24;
const EVENTS: u32 = BUTTON | 7 << 17 | COMMAND_DONE | LINK_CHANGED;
const PRESENT: u32 = 1 << 22;

/// A button that is pressed again within this time (ms) was not meant.
pub const BLINK_MS: u64 = 5_000;
/// How long a port may take for a command, and a link to come up (ms).
const PATIENCE_MS: u64 = 1_000;
/// Time between two looks meanwhile (ms).
const STEP_MS: u64 = 10;
/// Time from a link that is up to a device that answers (ms).
const SETTLE_MS: u64 = 100;

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Off,
    On,
    /// To be switched on at that time (ms), or off.
    BlinkingOn(u64),
    BlinkingOff(u64),
}

/// What is to be done with a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// [`Slot::power_on`], and find out what is there.
    Attach,
    /// Take the devices from their drivers, then [`Slot::power_off`].
    Detach,
    /// The devices are gone already: take them from their drivers.
    Gone,
}

/// What there is to say of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// The button was pressed.
    Button,
    /// What follows from that.
    PoweringOn,
    /// What follows from that.
    PoweringOff,
    /// It was pressed again.
    Cancelled,
    /// There is a card now.
    Present,
    /// There is none any more.
    NotPresent,
    /// The link does not come up.
    NoLink,
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Button => "Attention button pressed",
            Self::PoweringOn => "Powering on due to button press",
            Self::PoweringOff => "Powering off due to button press",
            Self::Cancelled => "Button cancel",
            Self::Present => "Card present",
            Self::NotPresent => "Card not present",
            Self::NoLink => "No link",
        })
    }
}

/// A slot for hot-plug.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    port: PciAddress,
    offset: u16,
    number: u32,
    state: State,
}

/// Its name in the log, as Linux has it.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pcieport {}: pciehp: Slot({})", self.port, self.number)
    }
}

impl Slot {
    /// The slot of `function`, if it is a port with one that devices can come to
    /// and go from.
    pub fn find(access: &dyn ConfigRegionAccess, function: &Function) -> Option<Self> {
        if function.header != HeaderType::PciPciBridge {
            return None;
        }
        let port = function.address;
        let express = capabilities(access, port)
            .find(|it| it.id == EXPRESS && it.offset + CONTROL + 4 <= super::CONFIG_BYTES)?;
        let ty = express.control >> 4 & 15;
        let word = read(access, port, express.offset + CAPABILITIES);
        let has = PORTS.contains(&ty) && express.control & IMPLEMENTED != 0;
        if !has || word & HOT_PLUG == 0 || word == u32::MAX {
            return None;
        }
        let mut slot =
            Self { port, offset: express.offset, number: word >> NUMBER_SHIFT, state: State::Off };
        let word = slot.read(access)?;
        if word & (PRESENT | POWER_OFF) == PRESENT {
            slot.state = State::On;
        }
        // What was before is the firmware's affair.
        slot.write(access, word & 0xffff | EVENTS);
        Some(slot)
    }

    /// The port.
    pub const fn port(&self) -> PciAddress {
        self.port
    }

    /// The bus behind the port, if the firmware has given it one.
    pub fn bus(&self, access: &dyn ConfigRegionAccess) -> Option<u8> {
        let secondary = (read(access, self.port, 0x18) >> 8) as u8;
        (secondary > self.port.bus() && secondary != u8::MAX).then_some(secondary)
    }

    /// Looks at what has happened since it was looked at last; `now` in ms. What
    /// there is to say goes to `say`.
    pub fn look(
        &mut self,
        access: &dyn ConfigRegionAccess,
        now: u64,
        say: &mut dyn FnMut(News),
    ) -> Option<Wish> {
        let Some(word) = self.read(access) else {
            // The port itself is gone, and all behind it.
            return self.is_on().then(|| {
                self.state = State::Off;
                Wish::Gone
            });
        };
        if word & EVENTS != 0 {
            self.write(access, word & 0xffff | word & EVENTS);
        }
        let present = word & PRESENT != 0;
        if self.is_on() && !present {
            say(News::NotPresent);
            self.state = State::Off;
            self.indicate(access, INDICATOR_OFF | POWER_OFF);
            return Some(Wish::Gone);
        }
        // Who puts a card in need not press the button too.
        if !self.is_on() && present && word & PRESENCE_CHANGED != 0 {
            say(News::Present);
            return Some(Wish::Attach);
        }
        if word & BUTTON != 0 {
            say(News::Button);
            let (state, bits) = match self.state {
                State::On => {
                    say(News::PoweringOff);
                    (State::BlinkingOff(now + BLINK_MS), INDICATOR_BLINK)
                }
                State::Off if present => {
                    say(News::PoweringOn);
                    (State::BlinkingOn(now + BLINK_MS), INDICATOR_BLINK | POWER_OFF)
                }
                State::Off => {
                    say(News::NotPresent);
                    (State::Off, INDICATOR_OFF | POWER_OFF)
                }
                State::BlinkingOff(_) => {
                    say(News::Cancelled);
                    (State::On, INDICATOR_ON)
                }
                State::BlinkingOn(_) => {
                    say(News::Cancelled);
                    (State::Off, INDICATOR_OFF | POWER_OFF)
                }
            };
            self.state = state;
            self.indicate(access, bits);
        }
        match self.state {
            State::BlinkingOff(at) if now >= at => Some(Wish::Detach),
            State::BlinkingOn(at) if now >= at && present => Some(Wish::Attach),
            State::BlinkingOn(_) if !present => {
                say(News::NotPresent);
                self.state = State::Off;
                self.indicate(access, INDICATOR_OFF | POWER_OFF);
                None
            }
            _ => None,
        }
    }

    /// Switches the slot on and waits for its link, by `pause` of so many ms.
    /// False, and off again, if that does not come up.
    pub fn power_on(
        &mut self,
        access: &dyn ConfigRegionAccess,
        pause: &mut dyn FnMut(u64),
        say: &mut dyn FnMut(News),
    ) -> bool {
        self.command(access, INDICATOR_BLINK, pause);
        let up = |access| read(access, self.port, self.offset + LINK) & LINK_UP != 0;
        let tries = PATIENCE_MS / STEP_MS;
        let is_up = (0..tries).any(|_| {
            let is_up = up(access);
            if !is_up {
                pause(STEP_MS);
            }
            is_up
        });
        if !is_up {
            say(News::NoLink);
            self.power_off(access, pause);
            return false;
        }
        pause(SETTLE_MS);
        self.command(access, INDICATOR_ON, pause);
        self.state = State::On;
        true
    }

    /// Switches the slot off, whose devices nobody uses any more.
    pub fn power_off(&mut self, access: &dyn ConfigRegionAccess, pause: &mut dyn FnMut(u64)) {
        self.command(access, INDICATOR_OFF | POWER_OFF, pause);
        self.state = State::Off;
        // What was said of the change is no news.
        if let Some(word) = self.read(access) {
            self.write(access, word & 0xffff | word & EVENTS);
        }
    }

    /// The devices stay: somebody cannot let go of them.
    pub fn keep(&mut self, access: &dyn ConfigRegionAccess) {
        self.state = State::On;
        self.indicate(access, INDICATOR_ON);
    }

    const fn is_on(&self) -> bool {
        matches!(self.state, State::On | State::BlinkingOff(_))
    }

    /// Sets indicator and power, and waits until the port has done it.
    fn command(&self, access: &dyn ConfigRegionAccess, bits: u32, pause: &mut dyn FnMut(u64)) {
        self.indicate(access, bits);
        let silent = read(access, self.port, self.offset + CAPABILITIES) & SILENT_COMMANDS != 0;
        for _ in 0..PATIENCE_MS / STEP_MS {
            match self.read(access) {
                Some(word) if !silent && word & COMMAND_DONE == 0 => pause(STEP_MS),
                Some(word) if !silent => {
                    return self.write(access, word & 0xffff | COMMAND_DONE);
                }
                _ => return,
            }
        }
    }

    /// Sets indicator and power.
    fn indicate(&self, access: &dyn ConfigRegionAccess, bits: u32) {
        if let Some(word) = self.read(access) {
            self.write(access, word & 0xffff & !(INDICATOR | POWER_OFF) | bits);
        }
    }

    /// Control and status; None if the port is not there any more.
    fn read(&self, access: &dyn ConfigRegionAccess) -> Option<u32> {
        let word = read(access, self.port, self.offset + CONTROL);
        (word != u32::MAX).then_some(word)
    }

    /// Writes control, and status bits that are to be cleared.
    fn write(&self, access: &dyn ConfigRegionAccess, word: u32) {
        // SAFETY: a port's slot, which nobody else commands; what is switched off
        // has no driver any more.
        unsafe { access.write(self.port, self.offset + CONTROL, word) };
    }
}
