//! The boot: its stages in order. May call everything.

use crate::arch::exit::{Verdict, exit};
use crate::arch::{cpu, idt, percpu, pic, time};
use crate::crash::BUILD_ID;
use crate::vm::{layout, stacks};
use crate::{cmdline, console, ramdisk, selftests, stage};
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::{BootInfo, entry_point};
use quarry_kernel::options::{Options, Verdict as Applied};
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

    stage::begin("self-tests");
    let counts = selftests::run(&options);
    if options.exit {
        // What kunit.py looks for at the end of a log.
        log::info!("reboot: System halted");
        exit(if counts.fail == 0 { Verdict::Passed } else { Verdict::Failed });
    }
    stage::begin("idle");
    interrupts::enable();
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
