//! The interrupt descriptor table: all 256 vectors lead to `trap`. Calls
//! `gdt` for the numbers of exception stacks.

use crate::arch::gdt::Ist;
use crate::arch::trap;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::idt::{Entry, EntryOptions, InterruptDescriptorTable};

static IDT: Once<InterruptDescriptorTable> = Once::new();

/// Builds the table (once) and makes it this CPU's.
pub(crate) fn load() {
    IDT.call_once(build).load();
}

/// Resets the processor by an exception for which there is no handler, nor one
/// for that.
pub(crate) fn triple_fault() -> ! {
    let none = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: the next exception ends all; that is what it is for.
    unsafe {
        lidt(&none);
        core::arch::asm!("ud2", options(noreturn));
    }
}

fn set<F>(entry: &mut Entry<F>, vector: u8) -> &mut EntryOptions {
    // SAFETY: the stub of each vector builds the frame that this vector needs.
    unsafe { entry.set_handler_addr(VirtAddr::new(trap::stub(vector))) }
}

fn build() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    set(&mut idt.divide_error, 0);
    set(&mut idt.debug, 1);
    let nmi = set(&mut idt.non_maskable_interrupt, 2);
    // SAFETY: the stack is used for this exception alone.
    unsafe { nmi.set_stack_index(Ist::Nmi as u16) };
    set(&mut idt.breakpoint, 3);
    set(&mut idt.overflow, 4);
    set(&mut idt.bound_range_exceeded, 5);
    set(&mut idt.invalid_opcode, 6);
    set(&mut idt.device_not_available, 7);
    let double_fault = set(&mut idt.double_fault, 8);
    // SAFETY: the stack is used for this exception alone.
    unsafe { double_fault.set_stack_index(Ist::DoubleFault as u16) };
    set(&mut idt.invalid_tss, 10);
    set(&mut idt.segment_not_present, 11);
    set(&mut idt.stack_segment_fault, 12);
    set(&mut idt.general_protection_fault, 13);
    set(&mut idt.page_fault, 14);
    set(&mut idt.x87_floating_point, 16);
    set(&mut idt.alignment_check, 17);
    let machine_check = set(&mut idt.machine_check, 18);
    // SAFETY: the stack is used for this exception alone.
    unsafe { machine_check.set_stack_index(Ist::MachineCheck as u16) };
    set(&mut idt.simd_floating_point, 19);
    set(&mut idt.virtualization, 20);
    set(&mut idt.cp_protection_exception, 21);
    set(&mut idt.hv_injection_exception, 28);
    set(&mut idt.vmm_communication_exception, 29);
    set(&mut idt.security_exception, 30);
    for vector in 32..=255 {
        set(&mut idt[vector], vector);
    }
    idt
}
