//! The controller of PS/2 keyboards: whether it is there with a keyboard on it,
//! and having it send codes of set 1. All waits are bounded. Calls nothing.

/// The controller's two ports.
pub trait Ports {
    /// Reads the status.
    fn status(&mut self) -> u8;
    /// Reads a byte that has come.
    fn data(&mut self) -> u8;
    /// Tells the keyboard something, or ends a command.
    fn send(&mut self, byte: u8);
    /// Tells the controller something.
    fn command(&mut self, byte: u8);
}

/// A byte has come.
const FULL: u8 = 1 << 0;
/// The last byte has not been taken yet.
const BUSY: u8 = 1 << 1;
/// What has come is the mouse's.
const MOUSE: u8 = 1 << 5;

const READ_CONFIG: u8 = 0x20;
const WRITE_CONFIG: u8 = 0x60;
const MOUSE_OFF: u8 = 0xa7;
const SELF_TEST: u8 = 0xaa;
const SELF_TEST_OK: u8 = 0x55;
const KEYBOARD_OFF: u8 = 0xad;
const KEYBOARD_ON: u8 = 0xae;

/// In the configuration.
const CONFIG_KEYBOARD_IRQ: u8 = 1 << 0;
const CONFIG_MOUSE_IRQ: u8 = 1 << 1;
const CONFIG_KEYBOARD_STOPPED: u8 = 1 << 4;
const CONFIG_MOUSE_STOPPED: u8 = 1 << 5;
const CONFIG_TRANSLATE: u8 = 1 << 6;

/// For the keyboard: send what is typed.
const SCAN: u8 = 0xf4;
const ACKNOWLEDGED: u8 = 0xfa;

/// Looks at the status before a wait is given up; each takes a microsecond or
/// so, and a self-test some milliseconds.
const PATIENCE: u32 = 200_000;
/// Bytes that may have come before anybody listened.
const STALE: u32 = 64;

/// Why there is no keyboard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoKeyboard {
    /// There is no controller.
    NoController,
    /// The controller does not do what it is told.
    Broken,
    /// No keyboard answers.
    NoAnswer,
}

impl core::fmt::Display for NoKeyboard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoController => "no PS/2 controller",
            Self::Broken => "the PS/2 controller does not work",
            Self::NoAnswer => "no PS/2 keyboard answers",
        })
    }
}

/// Finds a keyboard, and has it send codes of set 1, with interrupts.
///
/// # Errors
///
/// [`NoKeyboard`].
pub fn init(ports: &mut dyn Ports) -> Result<(), NoKeyboard> {
    if ports.status() == u8::MAX {
        return Err(NoKeyboard::NoController);
    }
    let broken = NoKeyboard::Broken;
    // Nothing may come in between.
    command(ports, KEYBOARD_OFF).ok_or(broken)?;
    command(ports, MOUSE_OFF).ok_or(broken)?;
    forget(ports);
    command(ports, SELF_TEST).ok_or(broken)?;
    if answer(ports) != Some(SELF_TEST_OK) {
        return Err(broken);
    }
    command(ports, READ_CONFIG).ok_or(broken)?;
    let config = answer(ports).ok_or(broken)?;
    let config = config & !(CONFIG_KEYBOARD_STOPPED | CONFIG_MOUSE_IRQ)
        | CONFIG_KEYBOARD_IRQ
        | CONFIG_MOUSE_STOPPED
        | CONFIG_TRANSLATE;
    command(ports, WRITE_CONFIG).ok_or(broken)?;
    send(ports, config).ok_or(broken)?;
    command(ports, KEYBOARD_ON).ok_or(broken)?;
    send(ports, SCAN).ok_or(broken)?;
    // What was typed meanwhile may come first.
    for _ in 0..STALE {
        match answer(ports) {
            Some(ACKNOWLEDGED) => return Ok(()),
            Some(_) => {}
            None => break,
        }
    }
    Err(NoKeyboard::NoAnswer)
}

/// The next code, if one has come.
pub fn receive(ports: &mut dyn Ports) -> Option<u8> {
    // All ones: the controller has gone.
    let status = Some(ports.status()).filter(|&status| status != u8::MAX && status & FULL != 0)?;
    let byte = ports.data();
    (status & MOUSE == 0).then_some(byte)
}

fn wait(ports: &mut dyn Ports, mask: u8, value: u8) -> Option<()> {
    (0..PATIENCE).any(|_| ports.status() & mask == value).then_some(())
}

fn command(ports: &mut dyn Ports, byte: u8) -> Option<()> {
    wait(ports, BUSY, 0)?;
    ports.command(byte);
    Some(())
}

fn send(ports: &mut dyn Ports, byte: u8) -> Option<()> {
    wait(ports, BUSY, 0)?;
    ports.send(byte);
    Some(())
}

fn answer(ports: &mut dyn Ports) -> Option<u8> {
    wait(ports, FULL, FULL)?;
    Some(ports.data())
}

/// Drops what has come.
fn forget(ports: &mut dyn Ports) {
    for _ in 0..STALE {
        if ports.status() & FULL == 0 {
            return;
        }
        ports.data();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A controller with a keyboard, or with something wrong.
    struct Fake {
        status: Option<u8>,
        come: VecDeque<u8>,
        config: u8,
        writes_config: bool,
        keyboard: bool,
        test: u8,
    }

    fn fake() -> Fake {
        let come = [0x1e, 0x9e].into();
        let config = CONFIG_MOUSE_IRQ | CONFIG_KEYBOARD_STOPPED | 1 << 2;
        Fake { status: None, come, config, writes_config: false, keyboard: true, test: 0x55 }
    }

    impl Ports for Fake {
        fn status(&mut self) -> u8 {
            self.status.unwrap_or(u8::from(!self.come.is_empty()))
        }
        fn data(&mut self) -> u8 {
            match self.status {
                Some(_) => 0,
                None => self.come.pop_front().unwrap_or_default(),
            }
        }
        fn send(&mut self, byte: u8) {
            if core::mem::take(&mut self.writes_config) {
                self.config = byte;
            } else if self.keyboard && byte == SCAN {
                // A key that was let go just now.
                self.come.extend([0x9c, ACKNOWLEDGED, 0x1e]);
            }
        }
        fn command(&mut self, byte: u8) {
            match byte {
                SELF_TEST => self.come.push_back(self.test),
                READ_CONFIG => self.come.push_back(self.config),
                WRITE_CONFIG => self.writes_config = true,
                _ => {}
            }
        }
    }

    #[test]
    fn a_keyboard_is_found_and_heard() {
        let mut ports = fake();
        assert_eq!(init(&mut ports), Ok(()));
        let want = CONFIG_KEYBOARD_IRQ | CONFIG_TRANSLATE | CONFIG_MOUSE_STOPPED | 1 << 2;
        assert_eq!(ports.config, want);
        assert_eq!(receive(&mut ports), Some(0x1e));
        assert_eq!(receive(&mut ports), None);
        ports.status = Some(FULL | MOUSE);
        assert_eq!(receive(&mut ports), None);
        ports.status = Some(u8::MAX);
        assert_eq!(receive(&mut ports), None);
    }

    /// Every wait ends.
    #[test]
    fn none_is_found_where_something_is_missing() {
        let with = |change: fn(&mut Fake)| {
            let mut ports = fake();
            change(&mut ports);
            init(&mut ports)
        };
        assert_eq!(with(|ports| ports.status = Some(u8::MAX)), Err(NoKeyboard::NoController));
        assert_eq!(with(|ports| ports.status = Some(BUSY)), Err(NoKeyboard::Broken));
        assert_eq!(with(|ports| ports.status = Some(0)), Err(NoKeyboard::Broken));
        assert_eq!(with(|ports| ports.status = Some(FULL)), Err(NoKeyboard::Broken));
        assert_eq!(with(|ports| ports.test = 0xfc), Err(NoKeyboard::Broken));
        assert_eq!(with(|ports| ports.keyboard = false), Err(NoKeyboard::NoAnswer));
    }
}
