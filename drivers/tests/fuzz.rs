//! Devices that do anything: drivers end with an answer or a fault, never with
//! a panic, and nothing is touched that was not the device's.

use drivers::entropy::Entropy;
use drivers::model::{self, Board, Chain, HostMemory, Script, dma_pages};
use drivers::pci::{ConfigRegionAccess, Function, HeaderType, PciAddress, Slot, Wish};
use drivers::virtio_pci::{Layout, Part, PciLink, Vectors};
use drivers::{Buffer, Coherent, Device, DeviceType, Env, Error, Fault, Mmio, Queue, Token};
use mm::platform::LogLevel;
use proptest::prelude::*;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a device does in one turn.
#[derive(Clone, Debug)]
enum Turn {
    /// Takes what there is, and answers so many of those it has, last ones first
    /// if it says so, each with so many bytes.
    Answer {
        count: u8,
        last_first: bool,
        bytes: u32,
    },
    /// Pushes anything.
    Push {
        id: u32,
        len: u32,
    },
    /// Moves its index.
    Index(u16),
    /// Overwrites an entry.
    Entry {
        slot: u16,
        id: u32,
        len: u32,
    },
    /// Does not want to be told any more, or does again.
    Flags(u16),
    NeedsReset,
    Gone,
    Nothing,
}

fn honest_turns() -> impl Strategy<Value = Turn> {
    let answer = (0..6_u8, any::<bool>(), 0..64_u32);
    prop_oneof![
        4 => answer.prop_map(|(count, last_first, bytes)| Turn::Answer { count, last_first, bytes }),
        1 => (0..2_u16).prop_map(Turn::Flags),
        1 => Just(Turn::Nothing),
    ]
}

fn turns() -> impl Strategy<Value = Turn> {
    let id = prop_oneof![0..20_u32, any::<u32>()];
    let len = prop_oneof![0..200_u32, any::<u32>()];
    prop_oneof![
        12 => honest_turns(),
        1 => (id.clone(), len.clone()).prop_map(|(id, len)| Turn::Push { id, len }),
        1 => prop_oneof![0..20_u16, any::<u16>()].prop_map(Turn::Index),
        1 => (0..16_u16, id, len).prop_map(|(slot, id, len)| Turn::Entry { slot, id, len }),
        1 => any::<u16>().prop_map(Turn::Flags),
        1 => prop_oneof![Just(Turn::NeedsReset), Just(Turn::Gone)],
    ]
}

struct Player {
    turns: std::vec::IntoIter<Turn>,
    has: Vec<Chain>,
}

impl Script for Player {
    fn work(&mut self, board: &mut Board) {
        while let Some(chain) = board.next(0) {
            self.has.push(chain);
        }
        match self.turns.next() {
            Some(Turn::Answer { count, last_first, bytes }) => {
                for _ in 0..count.min(self.has.len() as u8) {
                    let at = if last_first { self.has.len() - 1 } else { 0 };
                    let chain = self.has.remove(at);
                    let len = chain.write(board, &vec![0xee; bytes as usize]);
                    board.push_used(0, chain.id(), len);
                }
            }
            Some(Turn::Push { id, len }) => board.push_used(0, id, len),
            Some(Turn::Index(to)) => board.set_used_index(0, to),
            Some(Turn::Entry { slot, id, len }) => board.write_used(0, slot, id, len),
            Some(Turn::Flags(flags)) => board.set_used_flags(0, flags),
            Some(Turn::NeedsReset) => board.needs_reset = true,
            Some(Turn::Gone) => board.gone = true,
            Some(Turn::Nothing) | None => {}
        }
    }
}

/// Requests of `sizes` buffers each, to a device that plays `turns`; what it
/// ended with. A request's tokens come back once, with as many bytes as fit.
fn play(turns: Vec<Turn>, sizes: Vec<(u8, u8)>) -> Result<(), Fault> {
    let before = dma_pages();
    let player = Player { turns: turns.into_iter(), has: Vec::new() };
    let (link, env, handle) = model::device(DeviceType::Memory, &[16], player);
    let mut device = Device::new(0, link, env, 0).unwrap();
    let mut queue: Queue<HostMemory, 16> = device.queue(0).unwrap();
    device.start().unwrap();
    let page = Coherent::<HostMemory>::new(1).unwrap();
    let mut given: Vec<(Token, u32)> = Vec::new();
    let mut result = Ok(());
    let take = |given: &mut Vec<(Token, u32)>, done: drivers::Done| {
        let at = given.iter().position(|it| it.0 == done.token);
        let (_, room) = given.swap_remove(at.expect("a token that was given"));
        assert!(done.len <= room, "{} bytes in {room}", done.len);
    };
    'requests: for (readable, writable) in sizes {
        let mut chain = vec![Buffer::readable(page.as_ptr(), 8); readable.into()];
        for at in 0..usize::from(writable) {
            // SAFETY: inside of the page.
            chain.push(Buffer::writable(unsafe { page.as_ptr().add(64 + 16 * at) }, 16));
        }
        // SAFETY: the page lives to the end.
        match unsafe { queue.submit(&device, &chain) } {
            Ok(token) => {
                assert!(given.iter().all(|it| it.0 != token), "{token:?} twice");
                given.push((token, 16 * u32::from(writable)));
            }
            Err(Error::Full | Error::Invalid) => {}
            Err(Error::Broken { fault, .. }) => {
                result = Err(fault);
                break;
            }
            Err(error) => panic!("{error:?}"),
        }
        queue.notify(&device);
        for _ in 0..2 {
            match queue.poll(&device) {
                Ok(Some(done)) => take(&mut given, done),
                Ok(None) => break,
                Err(Error::Broken { fault, .. }) => {
                    result = Err(fault);
                    break 'requests;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    while result.is_ok() && queue.in_flight() > 0 {
        match queue.wait(&device, 2_000) {
            Ok(done) => take(&mut given, done),
            Err(Error::Broken { fault, .. }) => result = Err(fault),
            Err(error) => panic!("{error:?}"),
        }
    }
    if result.is_ok() {
        assert_eq!(given, []);
        // Whatever it plays now, it can be stopped.
        device.stop();
    }
    assert!(device.is_quiet() && !handle.with(|board| board.has_memory()));
    assert_eq!(handle.log().len(), usize::from(device.fault().is_some()));
    queue.free(&device);
    drop(page);
    assert_eq!((dma_pages(), device.leaked()), (before, 0));
    result
}

fn requests() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0..4_u8, 0..4_u8), 1..80)
}

proptest! {
    #[test]
    fn queues_of_any_device(turns in prop::collection::vec(turns(), 0..80), sizes in requests()) {
        let _ = play(turns, sizes);
    }

    #[test]
    fn queues_of_honest_devices(
        turns in prop::collection::vec(honest_turns(), 0..80),
        sizes in requests(),
    ) {
        let mut turns = turns;
        // In the end all is answered.
        for _ in 0..80 {
            turns.push(Turn::Answer { count: 5, last_first: false, bytes: 3 });
        }
        prop_assert_eq!(play(turns, sizes), Ok(()));
    }
}

/// Registers that read as anything, and forget what is written.
#[derive(Clone)]
struct Noise<'a> {
    words: &'a [u32],
    at: &'a AtomicU64,
    bytes: u64,
}

impl Noise<'_> {
    fn next(&self) -> u32 {
        let at = self.at.fetch_add(1, Ordering::Relaxed) as usize;
        self.words[at % self.words.len()]
    }

    fn check(&self, offset: u32, width: u64) {
        assert!(u64::from(offset) + width <= self.bytes, "{width} bytes at {offset}");
    }
}

impl Mmio for Noise<'_> {
    fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.bytes).then(|| Self { bytes: len, ..self.clone() })
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read8(&self, offset: u32) -> u8 {
        self.check(offset, 1);
        self.next() as u8
    }

    fn read16(&self, offset: u32) -> u16 {
        self.check(offset, 2);
        self.next() as u16
    }

    fn read32(&self, offset: u32) -> u32 {
        self.check(offset, 4);
        self.next()
    }

    fn write8(&self, offset: u32, _: u8) {
        self.check(offset, 1);
    }

    fn write16(&self, offset: u32, _: u16) {
        self.check(offset, 2);
    }

    fn write32(&self, offset: u32, _: u32) {
        self.check(offset, 4);
    }
}

/// A configuration space that reads as noise too.
struct NoiseSpace<'a>(Noise<'a>);

impl ConfigRegionAccess for NoiseSpace<'_> {
    unsafe fn read(&self, _: PciAddress, _: u16) -> u32 {
        self.0.next()
    }

    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

/// Surroundings in which each look at the clock takes a while.
#[derive(Default)]
struct Clock {
    now: AtomicU64,
    log: Mutex<Vec<String>>,
}

impl Env for Clock {
    fn now_ms(&self) -> u64 {
        self.now.fetch_add(100, Ordering::Relaxed)
    }

    fn wait(&self, limit_ms: u64, ready: &mut dyn FnMut() -> bool) -> bool {
        let until = self.now_ms() + limit_ms;
        loop {
            if ready() {
                return true;
            }
            if self.now_ms() >= until {
                return false;
            }
        }
    }

    fn wake(&self) {}

    fn config_changes(&self) -> u32 {
        0
    }

    fn exclusively(&self, f: &mut dyn FnMut()) {
        f();
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.log.lock().unwrap().push(format!("{level:?} {line}"));
    }
}

/// Numbers that a device might say to get somewhere.
fn words() -> impl Strategy<Value = Vec<u32>> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![0, 1, 2, 8, 0xf, 0xffff, u32::MAX, 16, 0x40]),
        1 => any::<u32>(),
    ];
    prop::collection::vec(word, 1..40)
}

proptest! {
    #[test]
    fn registers_that_read_as_anything(words in words(), stride in any::<u32>(), with in any::<bool>()) {
        let before = dma_pages();
        let at = AtomicU64::new(0);
        let registers = Noise { words: &words, at: &at, bytes: 0x4000 };
        let function = Function {
            address: PciAddress::new(0, 0, 4, 0),
            vendor: 0x1af4,
            device: 0x1044,
            class: 0xff_0000,
            revision: 1,
            header: HeaderType::Endpoint,
            pin: 1,
            line: 11,
        };
        let part = |offset, bytes| Part { bar: 4, offset, bytes };
        let layout = Layout {
            kind: DeviceType::EntropySource,
            common: part(0, 0x1000),
            notify: part(0x3000, 0x1000),
            stride,
            isr: part(0x1000, 0x1000),
            device: Some(part(0x2000, 12)),
        };
        let vectors = with.then_some(Vectors { config: 0, queue: 1, queues: 1 });
        let clock = Clock::default();
        let access = NoiseSpace(registers.clone());
        let link = PciLink::new(function, access, &layout, vectors, |_| Some(registers.clone()));
        match Device::new(0, link.unwrap(), &clock, 0) {
            Ok(mut device) => {
                let _ = device.config(|config| Ok((config.u64(0)?, config.u16(10)?)));
                let small = device.config(|config| config.u32(12)).is_err();
                prop_assert!(small);
                if let Ok(queue) = device.queue::<HostMemory, 8>(0) {
                    queue.free(&device);
                }
                let _ = device.start();
                let quiet = device.stop();
                let leaked = device.leaked() as usize;
                prop_assert!(quiet || device.fault().is_some());
                prop_assert_eq!(dma_pages() - before, leaked);
            }
            Err(error) => {
                let broken = matches!(error, Error::Broken { .. });
                prop_assert!(broken);
            }
        }
        let log = clock.log.lock().unwrap();
        prop_assert!(log.iter().filter(|line| line.starts_with("Error")).count() <= 1);
    }

    #[test]
    fn dice_of_any_device(turns in prop::collection::vec(turns(), 0..40), wants in 1..9000_usize) {
        let before = dma_pages();
        let player = Player { turns: turns.into_iter(), has: Vec::new() };
        let (link, env, handle) = model::device(DeviceType::EntropySource, &[8], player);
        let mut dice = Entropy::<_, _, HostMemory>::new(0, link, env).unwrap();
        let mut bytes = vec![0; wants];
        let filled = dice.fill(&mut bytes);
        prop_assert_eq!(filled.is_err(), dice.device().fault().is_some());
        dice.stop();
        prop_assert!(!handle.with(|board| board.has_memory()));
        prop_assert_eq!(dma_pages(), before);
    }
}

proptest! {
    /// Slots whose words are anything: looks and commands end, whatever is said.
    #[test]
    fn slots_of_any_port(words in words(), looks in 1..40_u64) {
        let at = AtomicU64::new(0);
        let noise = NoiseSpace(Noise { words: &words, at: &at, bytes: 256 });
        let address = PciAddress::new(0, 0, 3, 0);
        let function = Function {
            address,
            vendor: 0x1b36,
            device: 0xc,
            class: 0x06_0400,
            revision: 0,
            header: HeaderType::PciPciBridge,
            pin: 1,
            line: 11,
        };
        let mut ms = 0;
        let pause = &mut |step| ms += step;
        let windows = drivers::pci::windows(&noise, address);
        prop_assert!(windows.iter().all(|it| it.next <= it.end && it.end <= 1 << 52));
        if let Some(mut slot) = Slot::find(&noise, &function) {
            for now in 0..looks {
                match slot.look(&noise, now * 1000, &mut |_| ()) {
                    Some(Wish::Attach) => drop(slot.power_on(&noise, pause, &mut |_| ())),
                    Some(Wish::Detach) => slot.power_off(&noise, pause),
                    Some(Wish::Gone) | None => {}
                }
                prop_assert!(slot.bus(&noise) != Some(0));
            }
        }
        prop_assert!(ms <= looks * 4500, "{} ms", ms);
    }
}
