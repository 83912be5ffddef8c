//! The machine's memory in Linux's words, line by line.

use super::zones::node_range;
use super::{DMA_END, DMA32_END, Map, Mem, ZoneLayout};
use crate::early::RamRange;
use crate::types::{MAX_NODES, NodeId, Pfn, PfnRange, ZoneKind};
use core::fmt;

/// Receives a line without its end.
type Emit<'e> = &'e mut dyn FnMut(fmt::Arguments<'_>);

fn mem(range: PfnRange) -> Mem {
    Mem { start: range.start.addr(), end: range.end.addr() }
}

/// The ranges of RAM of a clean map: `  RAM: [mem ...]`.
pub fn report_ram(map: &Map<'_>, emit: Emit<'_>) {
    for ram in map.ram() {
        emit(format_args!("  RAM: {}", mem(ram)));
    }
}

/// `Zone ranges:` of the machine as a whole.
pub fn report_zones(layout: &ZoneLayout, emit: Emit<'_>) {
    emit(format_args!("Zone ranges:"));
    for kind in ZoneKind::ALL {
        let Some(range) = layout.range(kind) else { continue };
        if range.is_empty() {
            emit(format_args!("  {:<8} empty", kind.name()));
        } else {
            emit(format_args!("  {:<8} {}", kind.name(), mem(range)));
        }
    }
}

/// Where zone Movable begins on each node that has one, `Early memory node
/// ranges`, and what each of `nodes` nodes spans.
pub fn report_nodes(layout: &ZoneLayout, ram: &[RamRange], nodes: usize, emit: Emit<'_>) {
    emit(format_args!("Movable zone start for each node"));
    for node in (0..MAX_NODES).map(|n| NodeId(n as u8)) {
        if let Some(start) = layout.movable_start(node) {
            emit(format_args!("  Node {}: {:#018x}", node.0, start.addr()));
        }
    }
    emit(format_args!("Early memory node ranges"));
    for r in ram {
        emit(format_args!("  node {:3}: {}", r.node.0, mem(r.range)));
    }
    for node in (0..MAX_NODES).map(|n| NodeId(n as u8)) {
        match node_range(ram, node) {
            Some(range) => emit(format_args!("Initmem setup node {} {}", node.0, mem(range))),
            None if usize::from(node.0) < nodes => {
                emit(format_args!("Initmem setup node {} as memoryless", node.0));
            }
            None => {}
        }
    }
}

/// How much RAM a clean map has, before anything is taken out of it.
pub fn report_total(map: &Map<'_>, emit: Emit<'_>) {
    let total = map.ram_pages();
    let dma = map.ram_pages_in(PfnRange::new(Pfn(0), DMA_END));
    let dma32 = map.ram_pages_in(PfnRange::new(DMA_END, DMA32_END));
    let normal = total - dma - dma32;
    emit(format_args!("total: {total} pages, DMA {dma}, DMA32 {dma32}, Normal {normal}"));
}

/// What the kernel says once the manager runs; all in KiB.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MemoryLine {
    /// Free.
    pub available: u64,
    /// All RAM.
    pub present: u64,
    /// The kernel's code.
    pub code: u64,
    /// The kernel's data.
    pub rwdata: u64,
    /// The kernel's constants.
    pub rodata: u64,
    /// What the kernel needs only while it boots.
    pub init: u64,
    /// The kernel's zeroed data.
    pub bss: u64,
    /// RAM that is not managed.
    pub reserved: u64,
    /// In contiguous areas.
    pub cma: u64,
}

impl fmt::Display for MemoryLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { available, present, code, rwdata, rodata, init, bss, reserved, cma } = self;
        write!(
            f,
            "Memory: {available}K/{present}K available ({code}K kernel code, {rwdata}K rwdata, \
             {rodata}K rodata, {init}K init, {bss}K bss, {reserved}K reserved, {cma}K cma-reserved)"
        )
    }
}
