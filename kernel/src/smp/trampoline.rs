//! Where a started CPU begins: in real mode, below 1 MiB, from there to 64 bits
//! and the kernel's page tables. Calls `vm`.
//!
//! The code runs in a frame of low memory, with page tables of its own: the
//! kernel's upper half, and that one frame where it lies physically. Nothing of
//! it is writable and executable at once.

use crate::vm::{self, frame_ptr};
use core::arch::global_asm;
use core::mem::offset_of;
use mm::early::EarlyMem;
use mm::firmware::{Map, RegionKind};
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use spin::Once;
use x86_64::registers::control::{Cr0, Efer};
use x86_64::structures::paging::PageTableFlags;

/// Frames: the code's, and one for each level of page tables.
const FRAMES: u64 = 5;

/// Where the code may lie: what a start-up command can address, without the
/// first page, which is the BIOS's.
const WHERE: PfnRange = PfnRange::new(Pfn(1), Pfn(0xa0));

/// What the code needs to know, at its end.
#[repr(C)]
struct Parameters {
    /// The code's own descriptor table: limit and address.
    gdt: (u16, u16, u32),
    /// Far pointers: the parts with 32 and with 64 bits.
    to_32: (u32, u32),
    to_64: (u32, u32),
    /// Contents of control registers.
    cr3: u32,
    efer: u32,
    cr0: u32,
    _unused: u32,
    /// Where it goes on, in the kernel.
    entry: u64,
}

// Real mode first: the code segment begins at the frame. `.code16` and `.code32`
// need the other syntax, whose operands say how wide they are.
global_asm!(
    ".pushsection .rodata.trampoline, \"a\", @progbits",
    ".balign 16",
    "trampoline_start:",
    ".code16",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "movzwl %ax, %ebx",
    "shll $4, %ebx",
    "lgdtl trampoline_parameters + {gdt} - trampoline_start",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl *(trampoline_parameters + {to_32} - trampoline_start)",
    ".code32",
    "trampoline_32:",
    "movw $0x18, %ax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    // Physical address extension, without which there are no 64 bits.
    "movl $0x20, %eax",
    "movl %eax, %cr4",
    "movl trampoline_parameters + {cr3} - trampoline_start(%ebx), %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "movl trampoline_parameters + {efer} - trampoline_start(%ebx), %eax",
    "xorl %edx, %edx",
    "wrmsr",
    "movl trampoline_parameters + {cr0} - trampoline_start(%ebx), %eax",
    "movl %eax, %cr0",
    "ljmpl *(trampoline_parameters + {to_64} - trampoline_start)(%ebx)",
    ".code64",
    "trampoline_64:",
    "movq trampoline_parameters + {entry} - trampoline_start(%rbx), %rax",
    "jmpq *%rax",
    // Flat segments: 64-bit code, 32-bit code, data.
    ".balign 8",
    "trampoline_gdt:",
    ".quad 0, 0x00af9a000000ffff, 0x00cf9a000000ffff, 0x00cf92000000ffff",
    "trampoline_parameters:",
    ".skip {parameters}",
    "trampoline_end:",
    ".popsection",
    gdt = const offset_of!(Parameters, gdt) + 2,
    to_32 = const offset_of!(Parameters, to_32),
    to_64 = const offset_of!(Parameters, to_64),
    cr3 = const offset_of!(Parameters, cr3),
    efer = const offset_of!(Parameters, efer),
    cr0 = const offset_of!(Parameters, cr0),
    entry = const offset_of!(Parameters, entry),
    parameters = const size_of::<Parameters>(),
    options(att_syntax),
);

unsafe extern "C" {
    safe static trampoline_start: u8;
    safe static trampoline_32: u8;
    safe static trampoline_64: u8;
    safe static trampoline_gdt: u8;
    safe static trampoline_parameters: u8;
    safe static trampoline_end: u8;
}

/// Segments of the code's descriptor table.
const CODE_64: u32 = 0x08;
const CODE_32: u32 = 0x10;
const GDT_LIMIT: u16 = 4 * 8 - 1;

static PLACE: Once<Pfn> = Once::new();

/// Finds frames of low memory for the trampoline; early memory gives none of
/// those to anybody. Once, before there is a memory manager.
pub(super) fn choose_place(map: &Map<'_>, early: &EarlyMem<'_>) {
    let usable = map.of_kind(RegionKind::Usable).filter_map(|region| {
        let range = region.frames().intersect(WHERE);
        let is_ram = |ram: PfnRange| ram.intersect(range) == range;
        let fits = range.pages() >= FRAMES && early.ram().iter().any(|ram| is_ram(ram.range));
        // From the top: firmware likes the bottom.
        fits.then(|| Pfn(range.end.0 - FRAMES))
    });
    if let Some(place) = usable.last() {
        PLACE.call_once(|| place);
    }
}

/// Where in the copy `symbol` is.
fn offset(symbol: &u8) -> u32 {
    ((&raw const *symbol).addr() - (&raw const trampoline_start).addr()) as u32
}

/// Puts code and page tables in place, to go on at `entry` with the upper half
/// of the page tables in force, as they are now. Returns the page that a
/// start-up command names, or None if low memory has no room.
///
/// # Safety
///
/// No CPU may be on its way through the trampoline.
pub(super) unsafe fn prepare(entry: u64) -> Option<u8> {
    let place = *PLACE.get()?;
    let base = place.addr() as u32;
    let tables: [Pfn; 4] = core::array::from_fn(|level| place.add(1 + level as u64));
    let len = offset(&trampoline_end) as usize;
    let code = frame_ptr(place);
    let efer = Efer::read_raw() as u32;
    let parameters = Parameters {
        gdt: (0, GDT_LIMIT, base + offset(&trampoline_gdt)),
        to_32: (base + offset(&trampoline_32), CODE_32),
        to_64: (base + offset(&trampoline_64), CODE_64),
        cr3: tables[0].addr() as u32,
        // The processor sets LMA (bit 10) itself.
        efer: efer & !(1 << 10),
        cr0: Cr0::read_raw() as u32,
        _unused: 0,
        entry,
    };
    // SAFETY: the frames were set aside and lie in the direct map, and nobody
    // uses them; code and parameters fit into one.
    unsafe {
        code.copy_from_nonoverlapping(&raw const trampoline_start, len);
        let at = code.add(offset(&trampoline_parameters) as usize);
        at.cast::<Parameters>().write_unaligned(parameters);
        let level = |level: usize| frame_ptr(tables[level]).cast::<u64>();
        for table in 0..4 {
            level(table).write_bytes(0, PAGE_SIZE / 8);
        }
        let down = (PageTableFlags::PRESENT | PageTableFlags::WRITABLE).bits();
        for upper in 0..3 {
            level(upper).write(tables[upper + 1].addr() | down);
        }
        level(3).add(place.0 as usize).write(place.addr() | PageTableFlags::PRESENT.bits());
        let kernel: *const u64 = frame_ptr(vm::root()?).cast();
        level(0).add(256).copy_from_nonoverlapping(kernel.add(256), 256);
    }
    Some(place.0 as u8)
}
