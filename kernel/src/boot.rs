//! The boot: its stages in order. May call everything.

use crate::arch::exit::{Verdict, exit};
use crate::arch::gdt::Ist;
use crate::arch::irq::IrqMutex;
use crate::arch::{apic, cpu, idt, percpu, pic, time};
use crate::console::Framebuffer;
use crate::crash::BUILD_ID;
use crate::memory::{InUse, memtest};
use crate::platform::Machine;
use crate::vm::stacks::{self, Stack};
use crate::vm::{self, Devices, Loader, Plan, layout};
use crate::{cmdline, console, crash, memory, ramdisk, selftests, stage};
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::{BootInfo, entry_point};
use core::fmt;
use core::ptr::NonNull;
use mm::cmdline::tokens;
use mm::early::EarlyMem;
use mm::firmware::{ZoneLayout, check_ram, report_nodes, report_zones};
use mm::options::{Accept, Options as MemoryOptions};
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::direct_map::PageSize;
use quarry_kernel::options::Options as KernelOptions;
use x86_64::VirtAddr;
use x86_64::instructions::{hlt, interrupts};

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

fn start(info: &'static mut BootInfo) -> ! {
    time::start();
    let cpu = percpu::init_boot_cpu();
    // SAFETY: the first and only time, on the CPU that owns the tables.
    unsafe { cpu.tables.load() };
    idt::load();
    stacks::set_loader_stack(info.kernel_stack_bottom, info.kernel_stack_len);
    if let Some(addr) = info.ramdisk_addr.into_option() {
        // SAFETY: the loader mapped the ramdisk there, for this address space.
        unsafe { ramdisk::set(addr as *const u8, info.ramdisk_len as usize) };
    }

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

    stage::begin("interrupt controllers and clock");
    pic::init();
    let (khz, source) = time::calibrate();
    let features = cpu::features();
    log::info!("tsc: {}.{:03} MHz ({source:?})", khz / 1000, khz % 1000);
    log::info!("cpu: {}, {} bits of physical address", cpu::brand(), features.phys_bits);
    if !features.nx {
        crash::give_up(format_args!("the processor cannot protect pages from execution (NX)"));
    }
    log::info!("NX (Execute Disable) protection: active");

    stage::begin("command line");
    let options = read_options(cmdline::get());

    // SAFETY: the loader's tables are in force, and it was asked for this entry.
    let loader = info.recursive_index.into_option().and_then(|at| unsafe { Loader::new(at) });
    let Some(mut loader) = loader else {
        crash::give_up(format_args!("the boot loader's page tables cannot be reached"));
    };

    stage::begin("memory map");
    let physical = |addr: Option<u64>, len: u64| match addr.and_then(|at| loader.translate(at)) {
        Some(start) => bytes(start, len),
        None => PfnRange::default(),
    };
    let in_use = InUse {
        kernel: bytes(info.kernel_addr, info.kernel_len),
        ramdisk: physical(info.ramdisk_addr.into_option(), info.ramdisk_len),
        framebuffer: physical(
            screen.map(|screen| screen.start.as_ptr() as u64),
            screen.map_or(0, |screen| screen.info.byte_len as u64),
        ),
    };
    let Some(firmware) = memory::early(
        &info.memory_regions,
        features.phys_bits,
        options.memory.map_edits(),
        &in_use,
    ) else {
        crash::give_up(format_args!("the memory map was read before"));
    };
    if let Err(error) = check_ram(firmware.map.ram_pages()) {
        crash::give_up(format_args!("{error}"));
    }
    let zones = ZoneLayout::new(firmware.early.ram(), options.memory.movable);
    let emit = &mut |line: fmt::Arguments<'_>| log::info!("{line}");
    report_zones(&zones, emit);
    report_nodes(&zones, firmware.early.ram(), emit);

    stage::begin("page tables");
    let (apic, local_apic) =
        if features.apic { apic::firmware_setting() } else { (apic::Access::None, None) };
    let largest = if features.gib_pages { PageSize::Huge } else { PageSize::Large };
    log::info!("direct map in pages of {}K and less", largest.order().bytes() / 1024);
    let plan = Plan {
        kernel_file: in_use.kernel,
        ramdisk: in_use.ramdisk,
        firmware: firmware.map,
        largest,
        devices: Devices { local_apic, framebuffer: in_use.framebuffer },
    };
    let mut early = firmware.early;
    let root = match vm::build(&mut loader, &mut early, &plan) {
        Ok(root) => root,
        Err(error) => crash::give_up(format_args!("{error}")),
    };
    // The loader maps the framebuffer page by page from a page's start on.
    let screen = screen.and_then(|screen| {
        let start = core::ptr::with_exposed_provenance_mut(layout::FRAMEBUFFER as usize);
        Some(Framebuffer { start: NonNull::new(start)?, info: screen.info })
    });
    // SAFETY: nothing to promise about none.
    unsafe { console::move_screen(None) };
    *HANDOVER.lock() = Some(Handover {
        screen,
        early,
        zones,
        options,
        apic,
        ramdisk: (in_use.ramdisk.start, info.ramdisk_len),
    });
    // SAFETY: these tables map image, RAM and stack as needed; all that the new
    // stack needs from the old one is in the handover.
    unsafe { vm::activate(root, Stack::Boot.top(), on_own_tables) }
}

/// The frames that hold `len` bytes from `start` on.
fn bytes(start: u64, len: u64) -> PfnRange {
    let end = start.saturating_add(len).saturating_add(PAGE_SIZE as u64 - 1);
    PfnRange::new(Pfn::containing(start), Pfn::containing(end))
}

/// What the boot carries from the loader's stack and tables to its own.
struct Handover {
    screen: Option<Framebuffer>,
    early: EarlyMem<'static>,
    options: Options,
    apic: apic::Access,
    zones: ZoneLayout,
    /// First frame, and bytes.
    ramdisk: (Pfn, u64),
}

static HANDOVER: IrqMutex<Option<Handover>> = IrqMutex::new(None);

/// The boot goes on with page tables and stacks of the kernel's own.
extern "C" fn on_own_tables() -> ! {
    stacks::set_own();
    let Some(handover) = HANDOVER.lock().take() else {
        crash::give_up(format_args!("the boot has no handover"));
    };
    // SAFETY: these tables map the framebuffer there for good.
    unsafe { console::move_screen(handover.screen) };
    let (start, len) = handover.ramdisk;
    // SAFETY: the ramdisk is RAM that nobody manages, thus mapped for good.
    unsafe { ramdisk::set(vm::frame_ptr(start), len as usize) };
    let cpu = percpu::boot_cpu();
    for (ist, stack) in [
        (Ist::DoubleFault, Stack::DoubleFault),
        (Ist::Nmi, Stack::Nmi),
        (Ist::MachineCheck, Stack::MachineCheck),
    ] {
        // SAFETY: the stack is mapped for good and for this exception only.
        unsafe { cpu.tables.set_ist(ist, VirtAddr::new(stack.top())) };
    }

    stage::begin("timer and interrupts");
    // SAFETY: the registers are mapped if they are in memory; all vectors have
    // handlers.
    match unsafe { apic::init(handover.apic) } {
        Some(khz) => log::info!("apic: {:?}, timer at {khz} kHz", handover.apic),
        None => log::warn!("no local APIC timer: hanging tests are not ended"),
    }
    pic::start_watchdog_timer();
    interrupts::enable();

    let mut early = handover.early;
    let options = handover.options;
    if options.memory.memtest > 0 {
        stage::begin("memory test");
        memtest(&mut early, options.memory.memtest);
    }

    stage::begin("memory manager");
    let config = options.memory.config(&handover.zones);
    // SAFETY: the kernel's tables are in force and the CPU has its area.
    let machine = unsafe { Machine::new() };
    let mm = match memory::start(machine, early, &config) {
        Ok(mm) => mm,
        Err(error) => crash::give_up(format_args!("{error}")),
    };
    log::info!("{}", memory::line(mm));

    stage::begin("self-tests");
    let counts = selftests::run(mm, &options.kernel);
    if options.kernel.exit {
        // What kunit.py looks for at the end of a log.
        log::info!("reboot: System halted");
        exit(if counts.fail == 0 { Verdict::Passed } else { Verdict::Failed });
    }
    stage::begin("idle");
    loop {
        hlt();
    }
}

/// All that the command line says.
#[derive(Clone)]
struct Options {
    kernel: KernelOptions<'static>,
    memory: MemoryOptions<'static>,
}

/// Reads the command line; what makes no sense it quotes in a warning.
fn read_options(line: &'static str) -> Options {
    log::info!("Command line: {line}");
    let mut options =
        Options { kernel: KernelOptions::default(), memory: MemoryOptions::default() };
    for token in tokens(line) {
        let accepted = token.map(|token| {
            let accepted = match options.kernel.accept(&token) {
                Accept::Unknown => options.memory.accept(&token),
                accepted => accepted,
            };
            (token.text, accepted)
        });
        match accepted {
            Ok((_, Accept::Known)) => {}
            Ok((text, Accept::Unknown)) => {
                log::warn!("unknown option \"{}\"", text.escape_debug());
            }
            Ok((_, Accept::Malformed(malformed))) | Err(malformed) => {
                log::warn!("malformed option {malformed}");
            }
        }
    }
    options
}
