//! The self-tests' result in large letters on the screen, with all that a
//! photograph of it should tell: counts, names of what failed, build, machine.
//! Calls `console`.

use crate::arch::cpu;
use crate::crash::BUILD_ID;
use crate::platform::Machine;
use crate::selftests::Failed;
use crate::{acpi, cmdline, console, memory, numa, smp};
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use core::sync::atomic::{AtomicBool, Ordering};
use mm::Mm;
use quarry_kernel::banner::{Line, Tone};
use quarry_kernel::sdt::Maker;
use selftest::{Counts, Text};

static UEFI: AtomicBool = AtomicBool::new(false);

/// Notes which firmware there is, by the kinds of memory that it tells of.
pub(crate) fn note_firmware(regions: &[MemoryRegion]) {
    let uefi = |region: &MemoryRegion| matches!(region.kind, MemoryRegionKind::UnknownUefi(_));
    UEFI.store(regions.iter().any(uefi), Ordering::Relaxed);
}

/// A line of it, composed.
type Words = Text<120>;

/// Shows how the tests went, on a cleared screen.
pub(crate) fn show(mm: &Mm<Machine>, counts: Counts, failed: &Failed) {
    let Counts { pass, fail, skip } = counts;
    let (verdict, tone) = match fail {
        0 => ("Quarry: PASSED", Tone::Good),
        _ => ("Quarry: FAILED", Tone::Bad),
    };
    let plain = |text| Line { text, tone: Tone::Plain, headline: false };
    let bad = |text| Line { text, tone: Tone::Bad, headline: false };

    let tests = Words::format(format_args!("{pass} passed, {fail} failed, {skip} skipped"));
    let names = failed.names().map(|(suite, case)| {
        // The mark of a cut is not wanted: it may be part of the name.
        Words::format(format_args!("not ok: {suite}.{case}"))
    });
    let more = Words::format(format_args!("and {} more", failed.unnamed()));
    let build = Words::format(format_args!("build {} ({BUILD_ID})", env!("CARGO_PKG_VERSION")));
    let cpus = smp::online().len();
    let firmware = if UEFI.load(Ordering::Relaxed) { "UEFI" } else { "BIOS" };
    let maker = match acpi::machine() {
        Some(header) => Text::<40>::format(format_args!(" ({})", Maker(header))),
        None => Text::new(),
    };
    let machine = Words::format(format_args!("{firmware}{maker}, {cpus} x {}", cpu::brand()));
    let mib = memory::line(mm).present / 1024;
    let memory = Words::format(format_args!("{mib} MiB of memory, nodes: {}", numa::nodes()));
    let options = match cmdline::get() {
        "" => "none",
        line => line,
    };
    let options = Words::format(format_args!("options: {options}"));

    let mut shown = [Words::new(); Failed::MAX];
    let mut count = 0;
    for (slot, name) in shown.iter_mut().zip(names) {
        *slot = name;
        count += 1;
    }
    let lines = [Line { text: verdict, tone, headline: true }, plain(tests.as_str())]
        .into_iter()
        .chain(shown[..count].iter().map(|name| bad(name.as_str())))
        .chain((failed.unnamed() > 0).then(|| bad(more.as_str())))
        .chain([&build, &machine, &memory, &options].map(|words| plain(words.as_str())));
    console::banner(lines);
}
