//! Configuration spaces, honest and not: what is read from them lies where it
//! can be, and reading always ends.

use drivers::pci::{
    self, Bar, BarError, CommandRegister, ConfigRegionAccess, Function, HeaderType, Msix,
    PciAddress, capabilities, scan,
};
use drivers::virtio_pci::{Layout, NotVirtio};
use drivers::{DeviceType, Fault};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// One function: its bytes, and which bits of them can be written.
#[derive(Clone, Debug)]
struct Space {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl Space {
    /// An endpoint of virtio's vendor.
    fn new(device: u16) -> Self {
        let mut space = Self { bytes: [0; 256], writable: [0; 256] };
        space.set(0, 0x1af4 | u32::from(device) << 16);
        space.set(4, 0x0010_0003);
        space.writable[4..6].fill(0xff);
        space.set(8, 0x00ff_0001);
        space
    }

    fn get(&self, at: u16) -> u32 {
        let at = usize::from(at);
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn set(&mut self, at: u16, value: u32) {
        let at = usize::from(at);
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Base address register `at` with the given bits writable.
    fn bar(&mut self, at: u16, value: u32, writable: u32) {
        let offset = 0x10 + 4 * at;
        self.set(offset, value);
        self.writable[usize::from(offset)..][..4].copy_from_slice(&writable.to_le_bytes());
    }

    /// A capability of virtio at `at`.
    fn virtio(&mut self, at: u16, next: u8, kind: u8, bar: u8, (offset, bytes): (u32, u32)) {
        let len = if kind == 2 { 20 } else { 16 };
        self.set(at, u32::from_le_bytes([9, next, len, kind]));
        self.set(at + 4, bar.into());
        self.set(at + 8, offset);
        self.set(at + 12, bytes);
        if kind == 2 {
            self.set(at + 16, 4);
        }
    }

    /// What QEMU's modern devices look like.
    fn qemu() -> Self {
        let mut space = Self::new(0x1045);
        space.bar(1, 0xfebd_1000, 0xffff_f000);
        space.bar(4, 0xc, 0xffff_c000);
        space.bar(5, 0x10, 0xffff_ffff);
        space.set(0x34, 0x98);
        // MSI-X: two messages, in register 1.
        space.set(0x98, 0x0001_8411);
        space.set(0x9c, 1);
        space.set(0xa0, 0x801);
        space.virtio(0x84, 0x70, 5, 0, (0, 0));
        space.virtio(0x70, 0x60, 2, 4, (0x3000, 0x1000));
        space.virtio(0x60, 0x50, 4, 4, (0x2000, 0x1000));
        space.virtio(0x50, 0x40, 3, 4, (0x1000, 0x1000));
        space.virtio(0x40, 0, 1, 4, (0, 0x1000));
        space
    }
}

/// A machine's configuration spaces.
struct Machine(Mutex<BTreeMap<PciAddress, Space>>);

impl Machine {
    fn with(space: Space) -> (Self, PciAddress) {
        let at = PciAddress::new(0, 0, 4, 0);
        (Self(Mutex::new(BTreeMap::from([(at, space)]))), at)
    }
}

impl ConfigRegionAccess for Machine {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        assert!(offset < 256 && offset % 4 == 0, "read at {offset:#x}");
        self.0.lock().unwrap().get(&address).map_or(u32::MAX, |space| space.get(offset))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        assert!(offset < 256 && offset % 4 == 0, "write at {offset:#x}");
        if let Some(space) = self.0.lock().unwrap().get_mut(&address) {
            let at = usize::from(offset);
            for (place, byte) in (at..).zip(value.to_le_bytes()) {
                let mask = space.writable[place];
                space.bytes[place] = space.bytes[place] & !mask | byte & mask;
            }
        }
    }
}

/// The function at `at`, its registers, and where its structures are.
fn look(machine: &Machine, at: PciAddress) -> (pci::Bars, Result<Layout, NotVirtio>, Option<Msix>) {
    let function = Function::at(machine, at).unwrap();
    // SAFETY: nothing is behind it.
    let bars = unsafe { function.bars(machine) }.unwrap();
    let layout = Layout::find(machine, &function, &bars);
    (bars, layout, Msix::find(machine, &function, &bars))
}

#[test]
fn a_device_as_qemu_has_it() {
    let (machine, at) = Machine::with(Space::qemu());
    let before = machine.0.lock().unwrap()[&at].bytes;
    let (bars, layout, msix) = look(&machine, at);
    let registers = Bar::Memory { addr: 0xfebd_1000, bytes: 0x1000, prefetchable: false };
    assert_eq!(bars[1], Some(Ok(registers)));
    let wide = Bar::Memory { addr: 0x10_0000_0000, bytes: 0x4000, prefetchable: true };
    assert_eq!((bars[0], bars[4], bars[5]), (None, Some(Ok(wide)), None));
    let layout = layout.unwrap();
    assert_eq!((layout.kind, layout.stride), (DeviceType::MemoryBalloon, 4));
    assert_eq!((layout.common.offset, layout.notify.offset), (0, 0x3000));
    assert!(layout.bars().eq([4]));
    let msix = msix.unwrap();
    assert_eq!((msix.entries, msix.bar, msix.table), (2, 1, 0));
    // Whatever was tried is as before.
    assert_eq!(machine.0.lock().unwrap()[&at].bytes, before);
    let ids: Vec<u8> = capabilities(&machine, at).map(|it| it.id).collect();
    assert_eq!(ids, [0x11, 9, 9, 9, 9, 9]);
}

#[test]
fn registers_that_make_no_sense() {
    let bar = |value, writable: u32| {
        let mut space = Space::new(0x1045);
        space.bar(0, value, writable);
        look(&Machine::with(space).0, PciAddress::new(0, 0, 4, 0)).0[0]
    };
    assert_eq!(bar(0, 0), None);
    assert_eq!(bar(2, 0xffff_f000), Some(Err(BarError::Type)));
    assert_eq!(bar(6, 0xffff_f000), Some(Err(BarError::Type)));
    assert_eq!(bar(0, 0xffff_f000), Some(Ok(Bar::Unassigned { bytes: 0x1000 })));
    // A hole in the address bits.
    assert_eq!(bar(0, 0xff0f_f000), Some(Err(BarError::Size)));
    assert_eq!(bar(0xc001, 0xffe0), Some(Ok(Bar::Io { port: 0xc000, ports: 32 })));
    let all = Bar::Memory { addr: 0x8000_0000, bytes: 0x8000_0000, prefetchable: false };
    assert_eq!(bar(0x8000_0000, 0x8000_0000), Some(Ok(all)));
    // A wide one without a second half.
    let mut space = Space::new(0x1045);
    space.bar(5, 4, 0xffff_f000);
    assert_eq!(
        look(&Machine::with(space).0, PciAddress::new(0, 0, 4, 0)).0[5],
        Some(Err(BarError::Type))
    );
}

#[test]
fn lists_that_make_no_sense() {
    let walk = |change: fn(&mut Space)| {
        let mut space = Space::qemu();
        change(&mut space);
        let (machine, at) = Machine::with(space);
        let mut list = capabilities(&machine, at);
        let count = list.by_ref().count();
        (count, list.is_bent())
    };
    assert_eq!(walk(|_| ()), (6, false));
    assert_eq!(walk(|space| space.set(4, 3)), (0, false));
    // Back to its own start, to itself, into the header.
    assert_eq!(walk(|space| space.bytes[0x41] = 0x98), (6, true));
    assert_eq!(walk(|space| space.bytes[0x99] = 0x98), (1, true));
    assert_eq!(walk(|space| space.bytes[0x99] = 0x10), (1, true));
    assert_eq!(walk(|space| space.bytes[0x98..].fill(0xff)), (0, true));
    // The lowest bits do not count.
    assert_eq!(walk(|space| space.bytes[0x99] = 0x87), (6, false));
}

#[test]
fn structures_out_of_place() {
    let find = |change: fn(&mut Space)| {
        let mut space = Space::qemu();
        change(&mut space);
        let (machine, at) = Machine::with(space);
        look(&machine, at).1
    };
    assert!(find(|_| ()).is_ok());
    let legacy = |space: &mut Space| space.bytes[0x34] = 0;
    assert_eq!(find(legacy), Err(NotVirtio::Legacy));
    // Their sum is small in 32 bits.
    let wraps = |space: &mut Space| space.virtio(0x40, 0, 1, 4, (0xffff_f000, 0x2000));
    assert_eq!(find(wraps), Err(NotVirtio::Misplaced(1)));
    let beyond = |space: &mut Space| space.virtio(0x70, 0x60, 2, 4, (0x3002, 0xfff));
    assert_eq!(find(beyond), Err(NotVirtio::Misplaced(2)));
    let odd = |space: &mut Space| space.virtio(0x60, 0x50, 4, 4, (0x2002, 8));
    assert_eq!(find(odd), Err(NotVirtio::Misplaced(4)));
    let small = |space: &mut Space| space.virtio(0x40, 0, 1, 4, (0, 55));
    assert_eq!(find(small), Err(NotVirtio::Misplaced(1)));
    let no_bar = |space: &mut Space| space.virtio(0x50, 0x40, 3, 7, (0, 1));
    assert_eq!(find(no_bar), Err(NotVirtio::Misplaced(3)));
    let unassigned = |space: &mut Space| space.bar(5, 0, 0xffff_ffff);
    assert_eq!(find(unassigned), Err(NotVirtio::Unassigned(4, 0x4000)));
    let missing = |space: &mut Space| space.bytes[0x51] = 0;
    assert_eq!(find(missing), Err(NotVirtio::Missing(1)));
    let broken = |space: &mut Space| space.bar(4, 0x400c, 0xffff_c000 & !0x1_0000);
    assert_eq!(find(broken), Err(NotVirtio::Bar(4, BarError::Size)));
    let unknown = |space: &mut Space| space.bytes[2] = 0x7f;
    assert_eq!(find(unknown), Err(NotVirtio::Type(0x3f)));
    assert_eq!(NotVirtio::Legacy.to_string(), Fault::Legacy.to_string());
}

#[test]
fn kept_from_memory() {
    let (machine, at) = Machine::with(Space::qemu());
    machine.0.lock().unwrap().get_mut(&at).unwrap().set(4, 0x0010_0007);
    let function = Function::at(&machine, at).unwrap();
    assert!(function.cut_off(&machine));
    let now = function.command(&machine);
    assert!(!now.contains(CommandRegister::BUS_MASTER_ENABLE));
    assert!(now.contains(CommandRegister::INTERRUPT_DISABLE | CommandRegister::MEMORY_ENABLE));
    // One that does not take it, and one that is gone.
    {
        let mut spaces = machine.0.lock().unwrap();
        let space = spaces.get_mut(&at).unwrap();
        space.set(4, 0x0010_0007);
        space.writable[4] = 0;
    }
    assert!(!function.cut_off(&machine));
    machine.0.lock().unwrap().clear();
    assert!(function.cut_off(&machine));
}

/// A machine in which every read gives what comes next, whatever was asked.
struct Liar(Mutex<(Vec<u32>, usize)>);

impl ConfigRegionAccess for Liar {
    unsafe fn read(&self, _: PciAddress, offset: u16) -> u32 {
        assert!(offset < 256 && offset % 4 == 0, "read at {offset:#x}");
        let mut words = self.0.lock().unwrap();
        words.1 += 1;
        words.0[words.1 % words.0.len()]
    }

    unsafe fn write(&self, _: PciAddress, offset: u16, _: u32) {
        assert!(offset < 256 && offset % 4 == 0, "write at {offset:#x}");
    }
}

/// That all that was found lies inside of what it lies in.
fn check(bars: &pci::Bars, layout: &Result<Layout, NotVirtio>, msix: Option<Msix>) {
    let inside = |bar: u8, offset: u64, len: u64| match bars[usize::from(bar)] {
        Some(Ok(Bar::Memory { addr, bytes, .. })) => {
            assert!(bytes.is_power_of_two() && addr % bytes == 0 && addr > 0);
            assert!(offset.checked_add(len).unwrap() <= bytes && len > 0);
        }
        other => panic!("{other:?}"),
    };
    if let Ok(layout) = layout {
        let parts = [Some(layout.common), Some(layout.notify), Some(layout.isr), layout.device];
        for part in parts.into_iter().flatten() {
            inside(part.bar, part.offset, part.bytes);
        }
        assert!(layout.common.bytes >= 56 && layout.common.offset % 4 == 0);
    }
    if let Some(msix) = msix {
        inside(msix.bar, msix.table, 16 * u64::from(msix.entries));
    }
}

/// A virtio device, some bytes of which are anything.
fn bent_spaces() -> impl Strategy<Value = Space> {
    let edits = prop::collection::vec((8..256_usize, any::<u8>(), any::<Option<u8>>()), 0..24);
    let device = prop_oneof![Just(0x1045), Just(0x1058), Just(0x1002), any::<u16>()];
    (device, edits).prop_map(|(device, edits)| {
        let mut space = Space::qemu();
        space.set(0, 0x1af4 | u32::from(device) << 16);
        for (at, byte, writable) in edits {
            space.bytes[at] = byte;
            if let Some(mask) = writable {
                space.writable[at] = mask;
            }
        }
        // An endpoint, so that there is something to see.
        space.bytes[0xe] &= 0x80;
        space
    })
}

proptest! {
    #[test]
    fn any_configuration_space(space in bent_spaces()) {
        let (machine, at) = Machine::with(space);
        let list: Vec<_> = capabilities(&machine, at).collect();
        let places: BTreeSet<u16> = list.iter().map(|it| it.offset).collect();
        prop_assert!(places.len() == list.len() && places.iter().all(|&at| at >= 0x40));
        let (bars, layout, msix) = look(&machine, at);
        check(&bars, &layout, msix);
    }

    #[test]
    fn spaces_that_change_while_they_are_read(
        words in prop::collection::vec(any::<u32>(), 1..64),
        some in prop::collection::vec(0..64_usize, 0..8),
    ) {
        let mut words = words;
        let len = words.len();
        // Now and then what keeps readers busy: a capability, an endpoint.
        for at in some {
            words[at % len] = [0x0010_0000, 0x4009, 0x0114_4009, 0, 0xffff_f000][at % 5];
        }
        let liar = Liar(Mutex::new((words, 0)));
        let at = PciAddress::new(0, 0, 1, 0);
        prop_assert!(capabilities(&liar, at).count() <= 48);
        if let Some(function) = Function::at(&liar, at)
            // SAFETY: nothing is behind it.
            && let Some(bars) = unsafe { function.bars(&liar) }
        {
            let layout = Layout::find(&liar, &function, &bars);
            check(&bars, &layout, Msix::find(&liar, &function, &bars));
        }
    }

    /// Whatever bridges say, each function is found once, and none is that is
    /// not there.
    #[test]
    fn any_bridges(
        bridges in prop::collection::vec((0..8_u8, 0..32_u8, 0..8_u8, 0..12_u8), 0..24),
    ) {
        let mut spaces = BTreeMap::new();
        for (bus, device, function, behind) in bridges {
            let mut space = Space::new(1);
            space.bytes[0xe] = 0x81;
            space.bytes[0x19] = behind;
            spaces.insert(PciAddress::new(0, bus, device, function), space);
        }
        let machine = Machine(Mutex::new(spaces.clone()));
        let mut found = BTreeSet::new();
        scan(&machine, 0, (0, 9), &mut |function| {
            assert!(found.insert(function.address), "{} twice", function.address);
            assert_eq!(function.header, HeaderType::PciPciBridge);
        }, &mut |_| ());
        prop_assert!(found.iter().all(|at| spaces.contains_key(at) && at.bus() <= 9));
        for at in spaces.keys().filter(|at| at.bus() == 0) {
            let first = PciAddress::new(0, 0, at.device(), 0);
            prop_assert_eq!(found.contains(at), spaces.contains_key(&first));
        }
    }
}

/// QEMU's expander bridges: what is behind them, no bridge leads to.
#[test]
fn other_root_buses() {
    let at = |bus, device| PciAddress::new(0, bus, device, 0);
    let host = || {
        let mut space = Space::new(8);
        space.set(8, 0x0600_0000);
        space
    };
    let port = |behind| {
        let mut space = Space::new(1);
        space.bytes[0xe] = 1;
        space.bytes[0x19] = behind;
        space
    };
    let found = |spaces: &[(PciAddress, Space)]| {
        let machine = Machine(Mutex::new(spaces.iter().cloned().collect()));
        let mut found = Vec::new();
        scan(&machine, 0, (0, 255), &mut |it| found.push(it.address), &mut |_| ());
        found
    };
    let mut spaces = vec![
        (at(0, 0), host()),
        (at(0, 2), port(1)),
        (at(1, 0), Space::qemu()),
        (at(0x80, 0), port(0x81)),
        (at(0x81, 0), Space::qemu()),
        (at(0xff, 31), Space::qemu()),
    ];
    assert_eq!(found(&spaces), [at(0, 0), at(0, 2), at(1, 0)], "one host bridge, one root");
    spaces.push((at(0, 5), host()));
    let all = [at(0, 0), at(0, 2), at(0, 5), at(1, 0), at(0x80, 0), at(0x81, 0), at(0xff, 31)];
    assert_eq!(found(&spaces), all);
}
