//! Consoles by the names that Linux's command line gives them: `console=tty0
//! console=ttyS0,115200n8`. Calls nothing.

/// Consoles at most.
const MAX_CONSOLES: usize = 6;
/// Serial lines that have a name: four that a PC has at fixed places, and the
/// one that the firmware tells of.
pub const SERIAL_LINES: u8 = 5;
/// The number of the one that the firmware tells of, if it is none of the others.
pub const FIRMWARE_LINE: u8 = 4;

/// Clock of a PC's serial lines by 16: the highest rate, which all others divide.
const MAX_BAUD: u32 = 115_200;

/// Where text goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// `tty0`: the screen, and the keyboard.
    Screen,
    /// `ttyS0` ...: a serial line, below [`SERIAL_LINES`].
    Serial(u8),
}

impl core::fmt::Display for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Screen => f.write_str("tty0"),
            Self::Serial(number) => write!(f, "ttyS{number}"),
        }
    }
}

/// Which extra bit a serial line has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    /// None.
    None,
    /// The number of ones is even.
    Even,
    /// It is odd.
    Odd,
}

/// How a serial line talks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineMode {
    /// Bits per second.
    pub baud: u32,
    /// The extra bit.
    pub parity: Parity,
    /// Bits of a character are 7 and not 8.
    pub seven: bool,
    /// Waits until the other side is clear to send.
    pub flow: bool,
}

/// As the command line has it: `115200n8`.
impl core::fmt::Display for LineMode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let parity = match self.parity {
            Parity::None => 'n',
            Parity::Even => 'e',
            Parity::Odd => 'o',
        };
        let bits = if self.seven { 7 } else { 8 };
        write!(f, "{}{parity}{bits}{}", self.baud, if self.flow { "r" } else { "" })
    }
}

impl LineMode {
    /// 115200n8.
    pub const USUAL: Self =
        Self { baud: MAX_BAUD, parity: Parity::None, seven: false, flow: false };

    /// Reads what follows the comma in `ttyS0,9600n8r`.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (baud, rest) = text.split_at(digits);
        let baud: u32 = baud.parse().map_err(|_| "no baud rate")?;
        if baud == 0 || !MAX_BAUD.is_multiple_of(baud) || MAX_BAUD / baud > u16::MAX.into() {
            return Err("no baud rate of a PC's serial line");
        }
        let mut mode = Self { baud, ..Self::USUAL };
        let mut rest = rest.chars();
        match rest.next() {
            None | Some('n') => {}
            Some('e') => mode.parity = Parity::Even,
            Some('o') => mode.parity = Parity::Odd,
            Some(_) => return Err("parity is n, e or o"),
        }
        match rest.next() {
            None | Some('8') => {}
            Some('7') => mode.seven = true,
            Some(_) => return Err("bits are 7 or 8"),
        }
        match (rest.next(), rest.next()) {
            (None, _) => {}
            (Some('r'), None) => mode.flow = true,
            _ => return Err("flow control is r"),
        }
        Ok(mode)
    }
}

/// One console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Console {
    /// Where.
    pub device: Device,
    /// How, for a serial line; else without meaning.
    pub mode: LineMode,
}

impl Console {
    /// `device` as it usually is.
    pub const fn usual(device: Device) -> Self {
        Self { device, mode: LineMode::USUAL }
    }

    /// Reads a console's name and mode.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, mode) = match text.split_once(',') {
            Some((name, mode)) => (name, Some(mode)),
            None => (text, None),
        };
        match (name, name.strip_prefix("ttyS").map(str::as_bytes)) {
            ("tty0", _) if mode.is_some() => Err("a screen has no mode"),
            ("tty0", _) => Ok(Self::usual(Device::Screen)),
            (_, Some(&[number @ b'0'..=b'9'])) if number - b'0' < SERIAL_LINES => {
                let mode = mode.map_or(Ok(LineMode::USUAL), LineMode::parse)?;
                Ok(Self { device: Device::Serial(number - b'0'), mode })
            }
            _ => Err("consoles are tty0 and ttyS0 to ttyS4"),
        }
    }
}

/// The consoles that the command line asks for, in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consoles {
    list: [Console; MAX_CONSOLES],
    len: usize,
}

impl Consoles {
    /// None is asked for.
    pub const NONE: Self = Self { list: [Console::usual(Device::Screen); MAX_CONSOLES], len: 0 };

    /// Asks for one more. A device that is there already is asked for again: as
    /// the last one, in the new mode.
    pub fn add(&mut self, console: Console) {
        let mut len = 0;
        for at in 0..self.len {
            if self.list[at].device != console.device {
                self.list[len] = self.list[at];
                len += 1;
            }
        }
        // There are as many places as devices.
        if let Some(place) = self.list.get_mut(len) {
            *place = console;
            len += 1;
        }
        self.len = len;
    }

    /// All of them. The last one is where a prompt reads.
    pub fn as_slice(&self) -> &[Console] {
        &self.list[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_linuxs() {
        let mode = |text| Console::parse(text).map(|console| (console.device, console.mode));
        let usual = LineMode::USUAL;
        assert_eq!(mode("tty0"), Ok((Device::Screen, usual)));
        assert_eq!(mode("ttyS0"), Ok((Device::Serial(0), usual)));
        assert_eq!(mode("ttyS4,115200n8"), Ok((Device::Serial(4), usual)));
        let slow = LineMode { baud: 9600, ..usual };
        assert_eq!(mode("ttyS1,9600"), Ok((Device::Serial(1), slow)));
        let odd = LineMode { parity: Parity::Odd, seven: true, flow: true, ..slow };
        assert_eq!(mode("ttyS1,9600o7r"), Ok((Device::Serial(1), odd)));
        let even = LineMode { parity: Parity::Even, baud: 57_600, ..usual };
        assert_eq!(mode("ttyS2,57600e"), Ok((Device::Serial(2), even)));
        let last = Console::parse("ttyS3,1200o7r").unwrap();
        assert_eq!(
            (last.device.to_string(), last.mode.to_string()),
            ("ttyS3".into(), "1200o7r".into())
        );
    }

    #[test]
    fn nonsense_is_none() {
        for text in [
            "",
            "tty",
            "tty1",
            "tty0,9600",
            "ttyS",
            "ttyS5",
            "ttyS00",
            "ttyS-1",
            "ttyUSB0",
            "TTY0",
            "ttyS0,",
            "ttyS0,n8",
            "ttyS0,0",
            "ttyS0,1",
            "ttyS0,9601",
            "ttyS0,230400",
            "ttyS0,9600x",
            "ttyS0,9600n9",
            "ttyS0,9600n8x",
            "ttyS0,9600n8rr",
            "ttyS0,99999999999",
            "ttyS0,+9600",
            "ttyS0,9600 n8",
            "null",
        ] {
            assert!(Console::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_one_counts() {
        let mut all = Consoles::NONE;
        for text in ["ttyS0", "tty0", "ttyS1", "ttyS2", "ttyS3", "ttyS4", "ttyS0,9600", "tty0"] {
            all.add(Console::parse(text).unwrap());
        }
        let devices: Vec<String> =
            all.as_slice().iter().map(|console| console.device.to_string()).collect();
        assert_eq!(devices, ["ttyS1", "ttyS2", "ttyS3", "ttyS4", "ttyS0", "tty0"]);
        assert_eq!(all.as_slice()[4].mode.baud, 9600);
        assert_eq!(Consoles::NONE.as_slice(), []);
    }
}
