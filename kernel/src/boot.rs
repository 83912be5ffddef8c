//! The boot: its stages in order, first on the boot loader's page tables, then
//! on the kernel's own. May call everything.

mod options;

use crate::arch::cpu::Features;
use crate::arch::exit::{Verdict, exit};
use crate::arch::gdt::{self, Ist};
use crate::arch::{apic, cpu, idt, ioapic, irq, pat, percpu, pic, time, wide};
use crate::console::Framebuffer;
use crate::crash::{self, BUILD_ID};
use crate::memory::{self, FirmwareMap, InUse, memtest};
use crate::platform::{Machine, counter_without_log};
use crate::shell::Shell;
use crate::task::{self, Config};
use crate::vm::kstack;
use crate::vm::stacks::{self, Stack};
use crate::vm::{self, Devices, Loader, Plan, layout};
use crate::{acpi, mce, numa, smp};
use crate::{
    benchmarks, cmdline, console, drivers, heap, ramdisk, selftests, stage, summary, workers,
};
use alloc::boxed::Box;
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::{BootInfo, entry_point};
use core::fmt;
use core::ptr::NonNull;
use mm::Mm;
use mm::early::EarlyMem;
use mm::firmware::{ZoneLayout, check_ram, report_nodes, report_zones};
use mm::options::Options as MemoryOptions;
use mm::slab::SlabDefaults;
use mm::types::{CpuId, PAGE_SIZE, Pfn, PfnRange};
use options::Options;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::direct_map::PageSize;
use quarry_kernel::lapic::Mode;
use quarry_kernel::options::Options as KernelOptions;
use quarry_kernel::sched::Name;
use selftest::Level;
use x86_64::VirtAddr;

/// What the boot loader is asked to map. No physical memory: with a reserved
/// entry at 1 TiB that would cost 4 MiB of tables. The recursive entry is
/// enough to reach the loader's own tables.
const CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = 64 * 1024;
    config.mappings.kernel_base = Mapping::FixedAddress(layout::KERNEL);
    config.mappings.page_table_recursive = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(layout::LOADER_START);
    config.mappings.dynamic_range_end = Some(layout::LOADER_LAST);
    config
};

entry_point!(start, config = &CONFIG);

/// What the boot carries from the loader's stack and tables to its own.
struct Handover {
    options: Options,
    screen: Option<Framebuffer>,
    early: EarlyMem<'static>,
    zones: ZoneLayout,
    apic: Mode,
    /// First frame, and bytes.
    ramdisk: (Pfn, u64),
}

fn start(info: &'static mut BootInfo) -> ! {
    time::start();
    let cpu = percpu::init_boot_cpu();
    // SAFETY: the first and only time, on the CPU that owns the tables.
    unsafe {
        for (ist, top) in Ist::ALL.into_iter().zip(gdt::early_stacks()) {
            cpu.tables.set_ist(ist, top);
        }
        cpu.tables.load();
    }
    idt::load();
    stacks::set_loader_stack(info.kernel_stack_bottom, info.kernel_stack_len);
    if let Some(addr) = info.ramdisk_addr.into_option() {
        // SAFETY: the loader mapped the ramdisk there, for this address space.
        unsafe { ramdisk::set(addr as *const u8, info.ramdisk_len as usize) };
    }
    let screen = open_console(info);
    heap::init();

    stage::begin("interrupt controllers and clock");
    pic::init();
    let (khz, source) = time::calibrate();
    log::info!("tsc: {}.{:03} MHz ({source:?})", khz / 1000, khz % 1000);
    let features = check_processor();

    stage::begin("command line");
    let options = options::read(cmdline::get());
    console::attach(&options.kernel.consoles, false);

    stage::begin("memory map");
    // SAFETY: the loader's tables are in force, and it was asked for this entry.
    let loader = info.recursive_index.into_option().and_then(|at| unsafe { Loader::new(at) });
    let Some(mut loader) = loader else {
        crash::give_up(format_args!("the boot loader's page tables cannot be reached"));
    };
    let in_use = find_in_use(info, &loader, screen);
    let edits = options.memory.map_edits();
    let regions = &info.memory_regions;
    summary::note_firmware(regions);
    let Some(FirmwareMap { map, mut early }) =
        memory::early(regions, features.phys_bits, edits, &in_use)
    else {
        crash::give_up(format_args!("the memory map was read before"));
    };
    if let Err(error) = check_ram(map.ram_pages()) {
        crash::give_up(format_args!("{error}"));
    }
    acpi::init(info.rsdp_addr.into_option(), &mut loader, &map, &mut early);
    console::discover();
    ioapic::discover();
    smp::discover(&features, &options.kernel, &map, &early);
    numa::discover(&mut early, options.memory.numa_off);
    let zones = ZoneLayout::new(early.ram(), options.memory.movable);
    let emit = &mut |line: fmt::Arguments<'_>| log::info!("{line}");
    report_zones(&zones, emit);
    report_nodes(&zones, early.ram(), numa::nodes(), emit);

    stage::begin("page tables");
    let x2apic = features.x2apic && !options.kernel.nox2apic;
    let (apic, local_apic) =
        if features.apic { apic::switch_on(x2apic) } else { (Mode::Off, None) };
    let mut registers = ioapic::pages().chain(console::page());
    let io_apics = ioapic::pages().map(|(_, pfn)| pfn);
    memory::iomem::note(map, &loader, local_apic, io_apics);
    let plan = Plan {
        kernel_file: in_use.kernel,
        ramdisk: in_use.ramdisk,
        firmware: map,
        largest: if features.gib_pages { PageSize::Huge } else { PageSize::Large },
        devices: Devices {
            local_apic,
            registers: core::array::from_fn(|_| registers.next()),
            framebuffer: in_use.framebuffer,
        },
    };
    log::info!("direct map in pages of {}K and less", plan.largest.order().bytes() / 1024);
    let root = match vm::build(&mut loader, &mut early, &plan) {
        Ok(root) => root,
        Err(error) => crash::give_up(format_args!("{error}")),
    };

    // The loader maps the framebuffer page by page from a page's start on, and
    // so does the kernel.
    let screen = screen.and_then(|screen| {
        let start = core::ptr::with_exposed_provenance_mut(layout::FRAMEBUFFER as usize);
        Some(Framebuffer { start: NonNull::new(start)?, info: screen.info })
    });
    // SAFETY: nothing to promise about none.
    unsafe { console::move_screen(None) };
    let ramdisk = (in_use.ramdisk.start, info.ramdisk_len);
    #[allow(clippy::disallowed_methods, reason = "in the early arena, which is large enough")]
    let handover = Box::new(Handover { options, screen, early, zones, apic, ramdisk });
    // SAFETY: these tables map image, RAM and stack as needed; all that the new
    // stack needs from the old one is in the handover, which lies in the image.
    unsafe { vm::activate(root, Stack::Boot.top(), on_own_tables, Box::into_raw(handover)) }
}

/// The boot goes on with page tables and stacks of the kernel's own.
extern "C" fn on_own_tables(handover: *mut Handover) -> ! {
    stacks::set_own();
    // SAFETY: `start` made it of a box and gave it away.
    let mut handover = unsafe { Box::from_raw(handover) };
    adopt(&handover);
    console::attach(&handover.options.kernel.consoles, true);

    stage::begin("timer and interrupts");
    // SAFETY: the registers are mapped if they are in memory; all vectors have
    // handlers.
    match unsafe { apic::init(handover.apic, smp::nmi_pin(CpuId(0))) } {
        Some(khz) => log::info!("apic: {:?}, timer at {khz} kHz", handover.apic),
        None => log::warn!("no local APIC timer: hanging tests are not ended"),
    }
    // SAFETY: mapped by these tables.
    unsafe { ioapic::mask_all() };
    pic::start_watchdog_timer();
    mce::init();
    irq::enable();
    console::listen();

    let patterns = handover.options.memory.memtest;
    if patterns > 0 {
        stage::begin("memory test");
        memtest(&mut handover.early, patterns);
    }

    stage::begin("memory manager");
    let early = core::mem::replace(&mut handover.early, EarlyMem::new(&mut [], &mut []));
    let options = handover.options.clone();
    let mm = start_memory(early, &handover.zones, &options);
    // It goes back to the early arena, though the slab layer is up by now.
    drop(handover);

    stage::begin("secondary CPUs");
    if let Err(error) = kstack::prepare(mm) {
        crash::give_up(format_args!("{error}"));
    }
    smp::bring_up(mm);
    numa::log_nodes(mm);

    stage::begin("threads");
    task::init(mm);
    if let Err(error) = workers::start(mm).and_then(|()| mce::start(mm)) {
        crash::give_up(format_args!("{error}"));
    }
    // On one CPU, for the tests count what each CPU keeps.
    let main = Config {
        stack: kstack::LARGEST,
        cpus: CpuSet::one(percpu::cpu_id()),
        ..Config::new(Name::new("main"))
    };
    if let Err(error) = task::spawn(&main, move || run(mm, &options.kernel)) {
        crash::give_up(format_args!("{error}"));
    }
    task::enter_idle()
}

/// The boot's last stages, in a thread.
fn run(mm: &'static Mm<Machine>, options: &KernelOptions<'static>) {
    stage::begin("devices");
    drivers::start(mm);
    stage::begin("self-tests");
    let (counts, failed) = selftests::run(mm, options, false);
    if mm.page_owner().is_on() {
        mm.log_holdings();
    }
    let measured = options.bench.is_none_or(|glob| {
        stage::begin("benchmarks");
        let _quiet = workers::quiet();
        benchmarks::run(mm, glob)
    });
    if options.selftest != Level::Off {
        summary::show(mm, counts, &failed);
    }
    let scripts = Shell::open(mm, options).map(|mut shell| {
        let ok = shell.scripts(options.lab);
        (shell, ok)
    });
    if options.exit {
        // What kunit.py looks for at the end of a log.
        log::info!("reboot: System halted");
        let lab = scripts.is_some_and(|(_, ok)| ok);
        let good = counts.fail == 0 && measured && lab;
        exit(if good { Verdict::Passed } else { Verdict::Failed });
    }
    stage::begin("prompt");
    if let Some((shell, _)) = scripts {
        shell.prompt();
    }
    stage::begin("idle");
}

/// From here on there is somebody to tell.
fn open_console(info: &mut BootInfo) -> Option<Framebuffer> {
    let screen = info.framebuffer.as_mut().and_then(|framebuffer| {
        let info = framebuffer.info();
        Some(Framebuffer { start: NonNull::new(framebuffer.buffer_mut().as_mut_ptr())?, info })
    });
    // SAFETY: the loader mapped the framebuffer, for this address space.
    let found = unsafe { console::init(screen) };
    log::info!("Quarry {} ({BUILD_ID})", env!("CARGO_PKG_VERSION"));
    if !found.serial {
        log::warn!("no serial port answers");
    }
    if !found.screen {
        log::warn!("no framebuffer to write on");
    }
    screen
}

/// What the processor can do; ends the boot if that is not enough.
fn check_processor() -> Features {
    pat::init();
    wide::init();
    let features = cpu::features();
    log::info!("cpu: {}, {} bits of physical address", cpu::brand(), features.phys_bits);
    if !features.nx {
        crash::give_up(format_args!("the processor cannot protect pages from execution (NX)"));
    }
    log::info!("NX (Execute Disable) protection: active");
    features
}

/// The frames that hold `len` bytes from `start` on.
fn frames_of(start: u64, len: u64) -> PfnRange {
    let end = start.saturating_add(len).saturating_add(PAGE_SIZE as u64 - 1);
    PfnRange::new(Pfn::containing(start), Pfn::containing(end))
}

/// What the loader has put into memory, as far as it tells.
fn find_in_use(info: &BootInfo, loader: &Loader, screen: Option<Framebuffer>) -> InUse {
    let physical = |addr: Option<u64>, len: u64| match addr.and_then(|at| loader.translate(at)) {
        Some(start) => frames_of(start, len),
        None => PfnRange::default(),
    };
    InUse {
        kernel: frames_of(info.kernel_addr, info.kernel_len),
        ramdisk: physical(info.ramdisk_addr.into_option(), info.ramdisk_len),
        framebuffer: physical(
            screen.map(|screen| screen.start.as_ptr() as u64),
            screen.map_or(0, |screen| screen.info.byte_len as u64),
        ),
    }
}

/// Takes over what is mapped elsewhere now, and gives the worst exceptions
/// their guarded stacks.
fn adopt(handover: &Handover) {
    // SAFETY: these tables map the framebuffer there for good.
    unsafe { console::move_screen(handover.screen) };
    let (start, len) = handover.ramdisk;
    // SAFETY: these tables map the ramdisk for good, and nobody manages it.
    unsafe { ramdisk::set(vm::frame_ptr(start), len as usize) };
    for (ist, stack) in [
        (Ist::DoubleFault, Stack::DoubleFault),
        (Ist::Nmi, Stack::Nmi),
        (Ist::MachineCheck, Stack::MachineCheck),
    ] {
        // SAFETY: the stack is mapped for good and for this exception only.
        unsafe { percpu::this().tables.set_ist(ist, VirtAddr::new(stack.top())) };
    }
}

/// What memory map and free lists have cost, in counts of the time stamp
/// counter, which are instructions under QEMU's `-icount shift=0,sleep=off`.
fn log_cost(counts: u64, pages: u64) {
    let hundredths = counts.saturating_mul(100) / pages.max(1);
    log::info!(
        "memory map and free lists: {counts} tsc counts, {}.{:02} per page",
        hundredths / 100,
        hundredths % 100
    );
}

/// Builds the memory manager and makes it the kernel's allocator.
fn start_memory(
    early: EarlyMem<'_>,
    zones: &ZoneLayout,
    options: &Options,
) -> &'static Mm<Machine> {
    // SAFETY: the kernel's tables are in force and the CPU has its area.
    let machine = unsafe { Machine::new() };
    let mut config = options.memory.config(zones, early.present_pages());
    // All that the processor has addresses for; the manager takes what it can.
    config.hotplug_end = Pfn::containing(1 << cpu::features().phys_bits.min(52));
    numa::configure(&mut config);
    let (before, pages) = (counter_without_log(), early.present_pages());
    let mm = match memory::start(machine, early, &config) {
        Ok(mm) => mm,
        Err(error) => crash::give_up(format_args!("{error}")),
    };
    let cost = counter_without_log().wrapping_sub(before);
    log_cost(cost, pages);
    benchmarks::set_boot(cost, pages);
    if let Some(factor) = options.memory.watermark_scale_factor {
        mm.set_watermark_scale_factor(factor);
    }
    log::info!("{}", memory::line(mm));
    let MemoryOptions { slab_debug, slab_nomerge, .. } = options.memory;
    mm.set_slab_defaults(SlabDefaults { debug: slab_debug, no_merge: slab_nomerge });
    if let Err(error) = mm.slab_init() {
        crash::give_up(format_args!("no slab layer: {error}"));
    }
    heap::hand_over(mm);
    mm
}
