//! The ACPI tables that a described machine's firmware would have: who belongs
//! to which node, and how far nodes are from each other. Calls `acpi_tables`.

use super::describe::Description;
use acpi_tables::Aml;
use acpi_tables::sdt::Sdt;
use acpi_tables::srat::MemoryAffinity;

/// System Resource Affinity Table; None for a machine that says nothing of
/// nodes. A node's number is its proximity domain.
pub(super) fn srat(description: &Description) -> Option<Vec<u8>> {
    if description.nodes().is_empty() {
        return None;
    }
    let mut table = Sdt::new(*b"SRAT", 36, 3, *b"QUARRY", *b"LAB     ", 1);
    table.append(1u32);
    table.append(0u64);
    for cpu in 0..description.cpus() {
        // As an x2APIC, for the numbers of others end at 254.
        table.append_slice(&[2, 24, 0, 0]);
        for word in [description.node_of_cpu(cpu), u32::from(cpu), 1, 0, 0] {
            table.append(word);
        }
    }
    for node in description.nodes() {
        // Firmware lists a node without memory as one that may get some.
        if node.memory.is_empty() {
            append(&mut table, &MemoryAffinity::new(node.number, 0, 0).enabled());
        }
        for &(start, end) in &node.memory {
            append(&mut table, &MemoryAffinity::new(node.number, start, end - start).enabled());
        }
    }
    Some(bytes(&table))
}

/// System Locality Distance Information Table; None if no distance is given.
pub(super) fn slit(description: &Description) -> Option<Vec<u8>> {
    if description.distances().is_empty() {
        return None;
    }
    let width = description.nodes().iter().map(|n| n.number + 1).max().unwrap_or(1) as usize;
    let mut square = vec![20u8; width * width];
    (0..width).for_each(|i| square[i * width + i] = 10);
    for &(from, to, distance) in description.distances() {
        if let Some(slot) = square.get_mut(from as usize * width + to as usize) {
            *slot = distance;
        }
    }
    let mut table = Sdt::new(*b"SLIT", 36, 1, *b"QUARRY", *b"LAB     ", 1);
    table.append(width as u64);
    table.append_slice(&square);
    Some(bytes(&table))
}

fn append(table: &mut Sdt, entry: &dyn Aml) {
    let mut bytes = Vec::new();
    entry.to_aml_bytes(&mut bytes);
    table.append_slice(&bytes);
}

fn bytes(table: &Sdt) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
