//! The boot: its stages in order. May call everything.

use crate::arch::exit::{Verdict, exit};
use crate::arch::gdt::Ist;
use crate::arch::irq::IrqMutex;
use crate::arch::{apic, cpu, idt, percpu, pic, time};
use crate::crash::BUILD_ID;
use crate::vm::stacks::{self, Stack};
use crate::vm::{self, Devices, Loader, Plan, layout};
use crate::{cmdline, console, crash, memory, ramdisk, selftests, stage};
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::{BootInfo, entry_point};
use mm::early::EarlyMem;
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::direct_map::PageSize;
use quarry_kernel::options::{Options, Verdict as Applied};
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

    let serial = console::init();
    log::info!("Quarry {} ({BUILD_ID})", env!("CARGO_PKG_VERSION"));
    if !serial {
        log::warn!("no serial port answers");
    }

    stage::begin("interrupt controllers and clock");
    pic::init();
    let (khz, source) = time::calibrate();
    let features = cpu::features();
    log::info!("tsc: {}.{:03} MHz ({source:?})", khz / 1000, khz % 1000);
    log::info!("cpu: {}, {features:?}", cpu::brand());

    stage::begin("command line");
    let options = read_options(cmdline::get());

    stage::begin("memory map");
    let Some(early) = memory::early(&info.memory_regions) else {
        crash::give_up(format_args!("early memory is taken already"));
    };

    stage::begin("page tables");
    // SAFETY: the loader's tables are in force, and it was asked for this entry.
    let loader = info.recursive_index.into_option().and_then(|at| unsafe { Loader::new(at) });
    let Some(mut loader) = loader else {
        crash::give_up(format_args!("the boot loader's page tables cannot be reached"));
    };
    let ramdisk = info.ramdisk_addr.into_option().and_then(|addr| loader.translate(addr));
    let (apic, local_apic) =
        if features.apic { apic::firmware_setting() } else { (apic::Access::None, None) };
    let plan = Plan {
        kernel_file: bytes(info.kernel_addr, info.kernel_len),
        firmware: &[],
        largest: if features.gib_pages { PageSize::Huge } else { PageSize::Large },
        devices: Devices { local_apic },
    };
    let mut early = early;
    let root = match vm::build(&mut loader, &mut early, &plan) {
        Ok(root) => root,
        Err(error) => crash::give_up(format_args!("{error}")),
    };
    *HANDOVER.lock() = Some(Handover {
        early,
        options,
        apic,
        ramdisk: ramdisk.map(|start| (start, info.ramdisk_len)),
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
    early: EarlyMem<'static>,
    options: Options<'static>,
    apic: apic::Access,
    ramdisk: Option<(u64, u64)>,
}

static HANDOVER: IrqMutex<Option<Handover>> = IrqMutex::new(None);

/// The boot goes on with page tables and stacks of the kernel's own.
extern "C" fn on_own_tables() -> ! {
    stacks::set_own();
    let Some(handover) = HANDOVER.lock().take() else {
        crash::give_up(format_args!("the boot has no handover"));
    };
    match handover.ramdisk {
        // SAFETY: the ramdisk is RAM that nobody manages, thus mapped for good.
        Some((start, len)) => unsafe {
            ramdisk::set(vm::frame_ptr(Pfn::containing(start)), len as usize);
        },
        // SAFETY: nothing to promise about no bytes.
        None => unsafe { ramdisk::set(core::ptr::null(), 0) },
    }
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

    stage::begin("self-tests");
    let counts = selftests::run(&handover.options);
    if handover.options.exit {
        // What kunit.py looks for at the end of a log.
        log::info!("reboot: System halted");
        exit(if counts.fail == 0 { Verdict::Passed } else { Verdict::Failed });
    }
    stage::begin("idle");
    loop {
        hlt();
    }
}

/// Reads the kernel's options; what it cannot read it quotes in a warning.
fn read_options(line: &str) -> Options<'_> {
    log::info!("Command line: {line}");
    let mut options = Options::default();
    for word in line.split_ascii_whitespace() {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        match options.apply(key, value) {
            Applied::Taken => {}
            Applied::Unknown => log::warn!("unknown option {word:?}"),
            Applied::Malformed => log::warn!("malformed option {word:?}"),
        }
    }
    options
}
