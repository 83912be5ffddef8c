//! The driver over a real queue: the device sees bytes, and may write any.

use crate::memory::Blocks;
use crate::{GIB, MIB};
use drivers::model::{self, Board, Handle, HostEnv, HostLink, HostMemory, Script, dma_pages};
use drivers::virtio_mem::{Group, MemFault, MemPort, Next, RESPONSE_BYTES, VirtioMem};
use drivers::{DeviceType, Error, Fault};
use mm::types::NodeId;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

type Port = MemPort<HostLink, HostEnv, HostMemory>;

/// Grants all that it is asked for, or answers with some bytes instead.
struct Grants {
    instead: Option<(Vec<u8>, u32)>,
    seen: Vec<Vec<u8>>,
}

impl Script for Grants {
    fn work(&mut self, board: &mut Board) {
        while let Some(chain) = board.next(0) {
            self.seen.push(chain.read(board));
            let (bytes, len) = self.instead.clone().unwrap_or((vec![0; RESPONSE_BYTES], 10));
            chain.write(board, &bytes);
            board.push_used(0, chain.id(), len);
        }
    }
}

fn config(requested: u64) -> Vec<u8> {
    let fields = [2 * MIB, 0, 4 * GIB, GIB, GIB, 0, requested];
    fields.iter().flat_map(|field: &u64| field.to_le_bytes()).collect()
}

fn open(instead: Option<(Vec<u8>, u32)>) -> (Port, Handle) {
    let script = Grants { instead, seen: Vec::new() };
    let (link, env, handle) = model::device(DeviceType::Memory, &[128], script);
    handle.with(|board| board.set_config(&config(0)));
    (Port::open(5, link, env).unwrap(), handle)
}

/// A driver over the port that asks for a gibibyte; its memory manager takes the
/// device's word for everything.
fn plug(port: &mut Port, handle: &Handle) -> Result<Next, MemFault> {
    let all: BTreeSet<u64> = (4 * GIB..5 * GIB).step_by(2 << 20).collect();
    let memory = Box::leak(Box::new(Blocks::new(Rc::new(RefCell::new(all)))));
    let first = port.first_config()?;
    let storage = vec![Group::EMPTY; VirtioMem::storage(&first, memory)];
    let mut driver = VirtioMem::new(first, memory, NodeId(0), storage.leak());
    driver.introduce(port);
    handle.with(|board| board.set_config(&config(GIB)));
    let next = driver.round(port);
    if next == Ok(Next::OnChange) {
        assert_eq!(memory.provided_bytes(), GIB);
    }
    next
}

#[test]
fn an_honest_device_over_its_queue() {
    let (mut port, handle) = open(None);
    assert_eq!(plug(&mut port, &handle), Ok(Next::OnChange));
    let log = handle.log();
    for line in [
        "Info: virtio_mem virtio5: start address: 0x100000000",
        "Info: virtio_mem virtio5: region size: 0x40000000",
        "Info: virtio_mem virtio5: device block size: 0x200000",
        "Info: virtio_mem virtio5: memory block size: 0x8000000",
        "Info: virtio_mem virtio5: subblock size: 0x200000",
        "Info: virtio_mem virtio5: requested size: 0x40000000",
    ] {
        assert!(log.iter().any(|has| has == line), "{line} in {log:#?}");
    }
    // It waits for as long as it is told, and not once the host has a new wish.
    port.wait(Next::Within(5000));
    assert!(handle.with(|board| board.now_ms()) >= 5000);
    handle.with(|board| board.set_config(&config(0)));
    port.wait(Next::OnChange);
    port.close();
    assert_eq!(dma_pages(), 0);
}

#[test]
fn nonsense_shuts_the_device_off_with_one_error() {
    let (mut port, handle) = open(Some((vec![9, 0], 2)));
    let fault = plug(&mut port, &handle).unwrap_err();
    port.give_up(&fault);
    let log = handle.log();
    let faults: Vec<&String> = log.iter().filter(|line| line.starts_with("Error")).collect();
    let expected = "Error: virtio5: Memory gave an answer that there is not: shut off";
    assert_eq!(faults, [expected], "{log:#?}");
    assert_eq!(dma_pages(), 0);
}

#[test]
fn a_configuration_that_flaps_or_ends_early() {
    let (mut port, handle) = open(None);
    handle.with(|board| board.config_flaps = true);
    let broken = |fault| Err(MemFault::Device(Error::Broken { fault, quiet: true }));
    assert_eq!(port.first_config(), broken(Fault::ConfigUnstable));
    port.close();
    let (mut port, handle) = open(None);
    handle.with(|board| board.config.truncate(50));
    assert!(port.first_config().is_err());
    port.close();
    assert_eq!(dma_pages(), 0);
}

#[test]
fn a_device_without_a_queue_or_with_an_old_interface() {
    let script = || Grants { instead: None, seen: Vec::new() };
    let (link, env, _) = model::device(DeviceType::Memory, &[], script());
    assert!(Port::open(0, link, env).is_err());
    let (link, env, handle) = model::device(DeviceType::Memory, &[128], script());
    handle.with(|board| board.offered = 0);
    assert!(Port::open(0, link, env).is_err());
    assert_eq!((handle.log().len(), dma_pages()), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 200 }))]

    /// Whatever bytes come back, and however many it says they are.
    #[test]
    fn any_answer(bytes in proptest::collection::vec(0u8..5, 0..12), len in 0u32..12) {
        let (mut port, handle) = open(Some((bytes, len)));
        let result = plug(&mut port, &handle);
        match result {
            Ok(_) => port.close(),
            Err(fault) => port.give_up(&fault),
        }
        let errors = handle.log().iter().filter(|line| line.starts_with("Error")).count();
        prop_assert_eq!(errors, usize::from(result.is_err()));
        prop_assert_eq!(dma_pages(), 0);
    }

    /// Whatever the configuration says, it is taken as a whole or not at all.
    #[test]
    fn any_configuration(fields in proptest::collection::vec(
        prop_oneof![Just(0u64), Just(2 * MIB), Just(4 * GIB), Just(1 << 40), any::<u64>(),
            (0u32..64).prop_map(|bit| 1 << bit)], 7))
    {
        let (mut port, handle) = open(None);
        let bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        handle.with(|board| board.set_config(&bytes));
        match port.first_config() {
            Ok(config) => {
                let memory = Blocks::new(Rc::default());
                let groups = VirtioMem::storage(&config, &memory);
                prop_assert!(groups as u64 <= config.region_size / (128 * MIB));
                port.close();
            }
            Err(fault) => port.give_up(&fault),
        }
    }
}
