//! From a machine's description to a manager, by the steps of the kernel's boot:
//! the map cleaned, nodes from the firmware's tables, options from the command
//! line, early memory with what a kernel has taken, the manager, its slab layer.
//! May call: `mm`, the rest of `machine`.

use super::affinity;
use super::describe::Description;
use super::host::Host;
use super::lent::Lent;
use super::plug::Plug;
use super::ram::{self, Ram};
use crate::output::Output;
use mm::arena::MovableArena;
use mm::balloon::{Balloon, Terms};
use mm::block::SwapOnBlock;
use mm::cache::PageCache;
use mm::cmdline::tokens;
use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::numa::{CpuAffinity, MemoryAffinity, NumaNote, NumaTables, Topology};
use mm::firmware::{
    Map, RawMap, RawRegion, Region, ZoneLayout, apply_edits, check_ram, populate, sanitize,
};
use mm::host::Machine;
use mm::host::disk::RamDisk;
use mm::options::{Accept, Options};
use mm::platform::{LogLevel, Platform};
use mm::proc::{IoRange, write_iomem};
use mm::slab::SlabDefaults;
use mm::swap::SwapDevice;
use mm::types::{CpuId, PAGE_SIZE, Pfn, PfnRange};
use mm::{Mm, SetupError};
use shell::{Errno, Error, Plugged};
use std::fmt;
use zram::{Zram, ZramSwap};

/// Entries of a firmware's map that are kept, and what else the kernel's tables
/// have room for.
const ENTRIES: usize = 512;

/// Bits of a physical address, as QEMU's processors have by default; more where
/// the machine has RAM further up.
const PHYS_BITS: u32 = 40;

/// What a kernel on such a machine has taken before there is a manager: the
/// first MiB, which firmware does not keep its hands off, and where the boot
/// loader puts kernel, page tables and ramdisk.
const TAKEN: [(PfnRange, &str); 2] =
    [(PfnRange::new(Pfn(0), Pfn(0x100)), "low memory"), (KERNEL, "kernel")];
const KERNEL: PfnRange = PfnRange::new(Pfn(0x1000), Pfn(0x1200));

/// A machine that runs.
///
/// What it lends must not be used any more when it is dropped: it is for
/// [`HostWorld`](crate::HostWorld) alone, which sees to that.
#[derive(Debug)]
pub struct Simulated {
    // In the order in which they go: each is used by those before it.
    plug: Plug,
    mm: Lent<Mm<Host>>,
    arena: Lent<MovableArena<Host>>,
    balloon: Lent<Balloon<Host>>,
    zram: Lent<Zram<Host>>,
    zram_swap: Lent<ZramSwap<Host>>,
    disks: Vec<Lent<Disk>>,
    /// The command line, which the slab layer keeps words of.
    cmdline: Lent<str>,
    /// The firmware's map, cleaned.
    map: Vec<Region>,
    /// RAM that is less than a page.
    scraps: Vec<Region>,
}

/// A disk, and what swap sees of it.
#[derive(Debug)]
struct Disk {
    swap: SwapOnBlock,
    cache: Lent<PageCache>,
    // It is what the former refers to.
    _disk: Lent<RamDisk>,
}

impl Disk {
    /// # Safety
    /// As for [`Lent::new`].
    unsafe fn new(number: usize, blocks: u64) -> Self {
        let letter = char::from(b'a' + number as u8);
        let disk = RamDisk::new(&format!("/dev/vd{letter}"), blocks).discarding();
        // SAFETY: passed on to the caller.
        let disk = unsafe { Lent::new(Box::new(disk)) };
        // SAFETY: as the disk, which it refers to and goes before.
        let cache = unsafe { Lent::new(Box::new(PageCache::new(disk.get()))) };
        Self { swap: SwapOnBlock::new(disk.get()), cache, _disk: disk }
    }
}

/// Room for what a boot writes down.
struct Tables {
    raw: Vec<RawRegion>,
    clean: Vec<Region>,
    ram: Vec<RamRange>,
    reserved: Vec<Reservation>,
    affinity: Vec<MemoryAffinity>,
    processors: Vec<CpuAffinity>,
}

impl Tables {
    fn new() -> Self {
        Self {
            raw: vec![RawRegion::EMPTY; ENTRIES],
            clean: vec![Region::EMPTY; 2 * ENTRIES],
            ram: vec![RamRange::EMPTY; ENTRIES],
            reserved: vec![Reservation::EMPTY; ENTRIES],
            affinity: vec![MemoryAffinity::EMPTY; ENTRIES],
            processors: vec![CpuAffinity::EMPTY; ENTRIES],
        }
    }
}

impl Simulated {
    /// Boots the machine that `description` describes. Its log goes to `output`,
    /// at first only what is wrong.
    ///
    /// # Errors
    /// EINVAL for a description that makes no sense, ENOMEM for a machine with
    /// too little RAM, or too much for this host.
    ///
    /// # Safety
    /// Nothing that the result lends may be used once it has been dropped.
    pub(crate) unsafe fn boot(description: &Description, output: &Output) -> Result<Self, Error> {
        let description = &description.clone().completed()?;
        output.set_level(LogLevel::Warn);
        // SAFETY: passed on to the caller.
        let result = unsafe { boot(description, output) };
        output.set_level(LogLevel::Info);
        result
    }

    /// The manager.
    pub(crate) fn mm(&self) -> &'static Mm<Host> {
        self.mm.get()
    }

    /// The arena that is registered with it.
    pub(crate) fn arena(&self) -> &'static MovableArena<Host> {
        self.arena.get()
    }

    /// The balloon whose host this is.
    pub(crate) fn balloon(&self) -> &'static Balloon<Host> {
        self.balloon.get()
    }

    /// Its compressed memory.
    pub(crate) fn zram(&self) -> &'static Zram<Host> {
        self.zram.get()
    }

    /// The same as swap sees it.
    pub(crate) fn zram_swap(&self) -> &'static ZramSwap<Host> {
        self.zram_swap.get()
    }

    /// The disk of that path, as swap sees it.
    pub(crate) fn disk_swap(&self, path: &str) -> Option<&'static SwapOnBlock> {
        self.disks.iter().map(|disk| &disk.get().swap).find(|swap| swap.name() == path)
    }

    /// What is cached of the disk of that path.
    pub(crate) fn disk_cache(&self, path: &str) -> Option<&'static PageCache> {
        let caches = self.disks.iter().map(|disk| disk.get().cache.get());
        caches.into_iter().find(|cache| cache.device().name() == path)
    }

    /// What is plugged in.
    pub(crate) fn plugged(&self) -> Plugged {
        self.plug.status()
    }

    /// The host wants so many bytes plugged.
    ///
    /// # Errors
    /// EINVAL where that cannot be.
    pub(crate) fn request_plugged(&mut self, bytes: u64) -> Result<(), Error> {
        self.plug.request(bytes)
    }

    /// When the driver of what is plugged does its next round, in ms.
    pub(crate) fn plug_due(&self) -> Option<u64> {
        self.plug.due()
    }

    /// Has it do a round.
    pub(crate) fn plug_round(&mut self) {
        if let Err(fault) = self.plug.round() {
            self.mm().platform().log(LogLevel::Error, format_args!("virtio_mem virtio0: {fault}"));
        }
    }

    /// The command line.
    pub(crate) fn cmdline(&self) -> &str {
        self.cmdline.get()
    }

    /// Writes `/proc/iomem`.
    pub(crate) fn iomem(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let range = |range: PfnRange, name| IoRange {
            start: range.start.addr(),
            end: range.end.addr(),
            name,
        };
        let mut named = vec![range(KERNEL, "Kernel")];
        named.extend(self.mm().added_memory().map(|(added, name)| range(added, name)));
        write_iomem(&self.map, &self.scraps, &named, out)
    }
}

const fn no_memory(why: &'static str) -> Error {
    Error::new(Errno::ENOMEM, why)
}

/// Reads the command line as the kernel does; what makes no sense is told.
fn options<'l>(line: &'l str, output: &Output) -> Options<'l> {
    let warn = |text: fmt::Arguments<'_>| output.log(LogLevel::Warn, text);
    let mut options = Options::default();
    for token in tokens(line) {
        match token.map(|token| (token.text, options.accept(&token))) {
            Ok((_, Accept::Known)) => {}
            Ok((text, Accept::Unknown)) => {
                warn(format_args!("unknown option \"{}\"", text.escape_debug()));
            }
            Ok((_, Accept::Malformed(malformed))) | Err(malformed) => {
                warn(format_args!("malformed option {malformed}"));
            }
        }
    }
    options
}

/// The firmware's map as the kernel makes it of what the firmware says.
fn firmware_map<'t>(
    description: &Description,
    options: &Options<'_>,
    raw: &'t mut [RawRegion],
    clean: &'t mut [Region],
    output: &Output,
) -> Map<'t> {
    let mut raw = RawMap::new(raw);
    description.entries().iter().for_each(|&entry| raw.push(entry));
    apply_edits(&mut raw, options.map_edits());
    let warn = &mut |warning| output.log(LogLevel::Warn, format_args!("{warning}"));
    let raw = raw.finish(warn);
    let ram = raw.iter().filter(|e| e.kind.is_ram() && !e.wraps() && !e.is_empty());
    let bits = ram.map(|e| u64::BITS - (e.end - 1).leading_zeros()).max().unwrap_or(0);
    sanitize(raw, bits.clamp(PHYS_BITS, mm::firmware::MAX_PHYS_BITS), clean, warn)
}

/// # Safety
/// As [`Simulated::boot`].
unsafe fn boot(description: &Description, output: &Output) -> Result<Simulated, Error> {
    let warn = |text: fmt::Arguments<'_>| output.log(LogLevel::Warn, text);
    // SAFETY: passed on to the caller.
    let cmdline = unsafe { Lent::new(Box::<str>::from(description.cmdline())) };
    let options = options(cmdline.get(), output);
    let mut tables = Tables::new();
    let Tables { raw, clean, ram, reserved, affinity, processors } = &mut tables;

    let map = firmware_map(description, &options, raw, clean, output);
    let mut early = EarlyMem::new(ram, reserved);
    let too_high = populate(&map, &mut early);
    if too_high > 0 {
        warn(format_args!("{too_high} pages of RAM lie too high to be managed"));
    }
    check_ram(map.ram_pages()).map_err(|_| no_memory("too little RAM to boot, 16M are needed"))?;
    TAKEN.into_iter().for_each(|(range, name)| early.reserve(range, name));

    let tell = &mut |note: NumaNote| {
        let level = if note.is_warning() { LogLevel::Warn } else { LogLevel::Info };
        output.log(level, format_args!("{note}"));
    };
    let (srat, slit) = (affinity::srat(description), affinity::slit(description));
    let topology = if options.numa_off {
        Topology::off(early.ram(), tell)
    } else {
        let tables = NumaTables { srat: srat.as_deref(), slit: slit.as_deref() };
        Topology::read(tables, early.ram(), affinity, processors, tell)
    };
    topology.apply(&mut early);

    let zones = ZoneLayout::new(early.ram(), options.movable);
    let mut config = options.config(&zones, early.present_pages());
    let plug_window = ram::plug_window(early.ram());
    config.hotplug_end = ram::window(early.ram()).end;
    config.nodes = topology.nodes();
    config.distances = *topology.distances();

    let too_large = no_memory("this host has no addresses for so much RAM");
    let frames = Ram::new(early.ram()).ok_or(too_large)?;
    let mut machine =
        Machine::new(Pfn(0), Pfn(1), description.cpus()).ok_or(no_memory("no memory"))?;
    for cpu in 0..description.cpus() {
        machine.set_node_of_cpu(CpuId(cpu), topology.node_of_apic(u32::from(cpu)));
    }
    let host = Host::new(machine, frames, output.clone());
    let mm = Mm::new(host, early, &config).map_err(|error| match error {
        SetupError::NoRam => no_memory("there is no RAM at all"),
        SetupError::TooLittleRam => no_memory("too little RAM for the memory map"),
        SetupError::NoSpace => too_large,
    })?;
    // SAFETY: passed on to the caller; the arena's manager goes before it does.
    let arena = unsafe { Lent::new(Box::new(MovableArena::new())) };
    // SAFETY: passed on to the caller.
    let mm = unsafe { Lent::new(Box::new(mm)) };
    // SAFETY: as the arena.
    let balloon = unsafe { Lent::new(Box::new(Balloon::new())) };
    // SAFETY: as the arena.
    let zram = unsafe { Lent::new(Box::new(Zram::new("/dev/zram0"))) };
    // SAFETY: as the arena.
    let zram_swap = unsafe { Lent::new(Box::new(ZramSwap::new(mm.get(), zram.get()))) };
    // SAFETY: as the arena.
    let disk = |(number, &blocks)| unsafe { Lent::new(Box::new(Disk::new(number, blocks))) };
    let disks = description.disks().iter().enumerate().map(disk).collect();
    // SAFETY: it goes before the manager.
    let plug = unsafe { Plug::new(mm.get(), plug_window) };
    let simulated = Simulated {
        plug,
        mm,
        arena,
        balloon,
        zram,
        zram_swap,
        disks,
        cmdline,
        map: map.regions().to_vec(),
        scraps: map.scraps().to_vec(),
    };
    start(&simulated, &options)?;
    if description.has_reporting()
        && let Err(why) = simulated.mm().report_register(simulated.mm().platform(), None)
    {
        warn(format_args!("free page reporting: {why}"));
    }
    Ok(simulated)
}

/// What comes after the manager has been made.
fn start(machine: &Simulated, options: &Options<'static>) -> Result<(), Error> {
    let mm = machine.mm();
    if let Some(factor) = options.watermark_scale_factor {
        mm.set_watermark_scale_factor(factor);
    }
    let Options { slab_debug, slab_nomerge, .. } = *options;
    mm.set_slab_defaults(SlabDefaults { debug: slab_debug, no_merge: slab_nomerge });
    mm.slab_init().map_err(|_| no_memory("too little RAM for the slab layer"))?;
    machine.arena().register(mm).map_err(|_| no_memory("no room for the lab's arena"))?;
    let terms = Terms { deflate_on_oom: true };
    let attached = machine.balloon().attach(mm, mm.platform(), terms);
    attached.map_err(|_| no_memory("no room for the balloon"))
}

/// What was made of a description, in a line.
impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mm = self.mm();
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let (cpus, nodes) = (usize::from(Platform::cpus(mm.platform())), mm.nodes());
        let present: u64 = mm.zones().iter().map(mm::zone::Zone::present).sum();
        write!(
            f,
            "machine: {cpus} CPU{}, {nodes} node{}, {present} pages ({} MiB), {} managed",
            plural(cpus),
            plural(nodes),
            (present * PAGE_SIZE as u64) >> 20,
            mm.managed_pages()
        )
    }
}
