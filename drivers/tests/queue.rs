//! Queues and devices that lie: each kind of nonsense ends in one line and a
//! device that is shut off.

use drivers::model::{self, Board, Handle, HostEnv, HostLink, HostMemory, Script, dma_pages};
use drivers::{Buffer, Coherent, Device, DeviceType, Error, Fault, Queue};

type Host = Device<HostLink, HostEnv>;

/// A script from a function.
struct Does<F>(F);

impl<F: FnMut(&mut Board) + Send> Script for Does<F> {
    fn work(&mut self, board: &mut Board) {
        (self.0)(board);
    }
}

fn honest(board: &mut Board) {
    while let Some(chain) = board.next(0) {
        let len = chain.read(board).len() as u32;
        let written = chain.write(board, &len.to_le_bytes());
        board.push_used(0, chain.id(), written);
    }
}

fn start(script: impl FnMut(&mut Board) + Send + 'static) -> (Host, Queue<HostMemory, 16>, Handle) {
    let (link, env, handle) = model::device(DeviceType::Memory, &[64], Does(script));
    let mut device = Device::new(3, link, env, 0).unwrap();
    let queue = device.queue(0).unwrap();
    device.start().unwrap();
    (device, queue, handle)
}

/// One request to a device that does `script`; its fault.
fn fault_of(script: impl FnMut(&mut Board) + Send + 'static) -> Fault {
    let (device, mut queue, handle) = start(script);
    let mut request = Coherent::new(1).unwrap();
    let mut answer = Coherent::new(1).unwrap();
    let result = queue.exchange(&device, (&mut request, 24), (&mut answer, 8), 1000);
    let Err(Error::Broken { fault, quiet: true }) = result else { panic!("{result:?}") };
    assert_eq!(device.fault(), Some(fault));
    let log = handle.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0], format!("Error: virtio3: Memory {fault}: shut off"));
    // Nothing reaches it any more, and nothing more is said.
    let again = queue.exchange(&device, (&mut request, 24), (&mut answer, 8), 1000);
    assert_eq!(again, result);
    assert_eq!(device.config(|config| config.u32(0)), Err(Error::Broken { fault, quiet: true }));
    assert_eq!(handle.log().len(), 1);
    assert!(handle.with(|board| board.resets() == 2 && !board.has_memory()));
    queue.free(&device);
    drop((request, answer));
    assert_eq!(dma_pages(), 0);
    fault
}

#[test]
fn an_honest_device_answers() {
    let (device, mut queue, handle) = start(honest);
    let mut request = Coherent::new(1).unwrap();
    let mut answer = Coherent::new(1).unwrap();
    for round in 1..300 {
        let len = queue.exchange(&device, (&mut request, round), (&mut answer, 8), 1000);
        assert_eq!(len, Ok(4));
        assert_eq!(answer.read::<u32>(0), Some(round));
    }
    assert!(device.stop());
    assert_eq!(device.check(), Err(Error::Stopped));
    queue.free(&device);
    drop((request, answer));
    assert_eq!((dma_pages(), handle.log().len()), (0, 0));
}

#[test]
fn a_device_that_never_answers() {
    assert_eq!(fault_of(|_| ()), Fault::NoAnswer { queue: 0, ms: 1000 });
}

#[test]
fn used_index_that_runs_ahead() {
    let ahead = |board: &mut Board| {
        if board.was_rung(0) {
            board.set_used_index(0, 2);
        }
    };
    assert_eq!(fault_of(ahead), Fault::UsedAhead { queue: 0, used: 2, had: 1 });
    let back = |board: &mut Board| {
        if board.was_rung(0) {
            board.set_used_index(0, u16::MAX);
        }
    };
    assert_eq!(fault_of(back), Fault::UsedAhead { queue: 0, used: u16::MAX, had: 1 });
}

#[test]
fn used_number_that_was_not_given() {
    // The last is right in its lower half.
    for id in [5, 16, u32::MAX, 1 << 16] {
        let push = move |board: &mut Board| {
            if board.was_rung(0) {
                board.push_used(0, id, 0);
            }
        };
        assert_eq!(fault_of(push), Fault::UsedId { queue: 0, id });
    }
}

#[test]
fn used_length_beyond_the_buffer() {
    for len in [9, u32::MAX] {
        let push = move |board: &mut Board| {
            if let Some(chain) = board.next(0) {
                board.push_used(0, chain.id(), len);
            }
        };
        assert_eq!(fault_of(push), Fault::UsedLen { queue: 0, len, room: 8 });
    }
}

#[test]
fn a_device_that_fails_or_goes() {
    assert_eq!(fault_of(|board| board.needs_reset = true), Fault::NeedsReset);
    let (device, mut queue, handle) = start(|board| board.gone = true);
    let buffer = Coherent::<HostMemory>::new(1).unwrap();
    // SAFETY: the buffer lives to the end of the test.
    let result =
        unsafe { queue.transfer(&device, &[Buffer::writable(buffer.as_ptr(), 4096)], 60_000) };
    assert_eq!(result, Err(Error::Broken { fault: Fault::Gone, quiet: true }));
    assert_eq!(handle.log(), ["Error: virtio3: Memory is not there any more: shut off"]);
}

#[test]
fn a_device_that_cannot_be_kept_from_memory() {
    let before = dma_pages();
    let (device, mut queue, handle) = start(|_| ());
    handle.with(|board| (board.obeys_reset, board.obeys_cut_off) = (false, false));
    let mut request = Coherent::new(1).unwrap();
    let result = queue.send(&device, &mut request, 24, 1000);
    let fault = Fault::NoAnswer { queue: 0, ms: 1000 };
    assert_eq!(result, Err(Error::Broken { fault, quiet: false }));
    assert!(!device.is_quiet());
    queue.free(&device);
    drop(request);
    // The request's page and two of rings.
    assert_eq!((device.leaked(), dma_pages() - before), (3, 3));
    assert_eq!(handle.log().len(), 2);
}

#[test]
fn a_config_that_changes_while_it_is_read() {
    let (device, _queue, handle) = start(|_| ());
    handle.with(|board| board.config = vec![1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(device.config(|config| config.u64(0)), Ok(0x2_0000_0001));
    // For a while is all right.
    struct Flaps(u32);
    impl Script for Flaps {
        fn work(&mut self, _: &mut Board) {}
        fn config_read(&mut self, board: &mut Board) {
            if self.0 > 0 {
                self.0 -= 1;
                let word = self.0.wrapping_mul(2).to_le_bytes();
                board.set_config(&[word, word].concat());
            }
        }
    }
    handle.set_script(Flaps(20));
    let halves = |config: &drivers::Config<'_, HostLink>| Ok((config.u32(0)?, config.u32(4)?));
    assert_eq!(device.config(halves), Ok((0, 0)));
    handle.set_script(Flaps(u32::MAX));
    let unstable = Error::Broken { fault: Fault::ConfigUnstable, quiet: true };
    assert_eq!(device.config(halves), Err(unstable));
    assert_eq!(handle.log().len(), 1);
}

#[test]
fn a_device_that_is_not_as_needed() {
    let made = |change: fn(&mut Board)| {
        let (link, env, handle) = model::device(DeviceType::Memory, &[8], Does(honest));
        handle.with(change);
        let device = Device::new(0, link, env, 0);
        let result = device.and_then(|mut device| {
            let queue = device.queue::<HostMemory, 16>(0)?;
            device.start()?;
            queue.free(&device);
            Ok(())
        });
        assert_eq!(handle.log().len(), 1);
        match result {
            Err(Error::Broken { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(made(|board| board.offered = 0), Fault::Legacy);
    assert_eq!(made(|board| board.gone = true), Fault::Gone);
    assert_eq!(made(|board| board.takes_features = false), Fault::FeaturesRefused(1 << 32));
    let small = Fault::QueueTooSmall { queue: 0, has: 8, needs: 16 };
    assert_eq!(made(|_| ()), small);
}

#[test]
fn rings_without_memory() {
    let (link, env, _handle) = model::device(DeviceType::Memory, &[16], Does(honest));
    let mut device = Device::new(0, link, env, 0).unwrap();
    let before = dma_pages();
    for left in 0..2 {
        model::fail_allocations(Some(left));
        let queue = device.queue::<HostMemory, 16>(0);
        assert!(matches!(queue, Err(Error::NoMemory)));
        assert_eq!(dma_pages(), before);
    }
    model::fail_allocations(None);
    assert!(device.queue::<HostMemory, 16>(0).is_ok());
}

#[test]
fn chains_that_no_queue_takes() {
    let (device, mut queue, _handle) = start(honest);
    let page = Coherent::<HostMemory>::new(1).unwrap();
    let read = Buffer::readable(page.as_ptr(), 8);
    let write = Buffer::writable(page.as_ptr(), 8);
    let empty = Buffer::readable(page.as_ptr(), 0);
    for chain in [&[][..], &[write, read], &[empty], &[read; 17]] {
        // SAFETY: the page lives to the end of the test.
        let result = unsafe { queue.submit(&device, chain) };
        assert_eq!(result, Err(Error::Invalid));
    }
    for _ in 0..2 {
        // SAFETY: as above.
        assert!(unsafe { queue.submit(&device, &[read; 8]) }.is_ok());
    }
    // SAFETY: as above.
    assert_eq!(unsafe { queue.submit(&device, &[read]) }, Err(Error::Full));
    queue.notify(&device);
    assert!(queue.poll(&device).unwrap().is_some());
    assert!(queue.poll(&device).unwrap().is_some());
    assert_eq!(queue.poll(&device), Ok(None));
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn threads_that_wait_while_the_device_is_shut_off() {
    for round in 0..20 {
        let nonsense = move |board: &mut Board| {
            if board.was_rung(1) && round % 2 == 0 {
                board.push_used(1, 77, 0);
            }
        };
        let (link, env, handle) = model::device(DeviceType::Memory, &[16, 16], Does(nonsense));
        let mut device = Device::new(0, link, env, 0).unwrap();
        let queues: [Queue<HostMemory, 16>; 2] = [0, 1].map(|at| device.queue(at).unwrap());
        device.start().unwrap();
        let device = &device;
        let results = std::thread::scope(|scope| {
            let threads = queues.map(|mut queue| {
                scope.spawn(move || {
                    let mut page = Coherent::<HostMemory>::new(1).unwrap();
                    let result = queue.send(device, &mut page, 8, 30_000);
                    queue.free(device);
                    result
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        // Who is first says why, and nobody comes back before it is over.
        let fault = device.fault().unwrap();
        assert_eq!(results, [Err(Error::Broken { fault, quiet: true }); 2]);
        assert!(device.is_quiet() && device.leaked() == 0);
        assert_eq!(handle.log().len(), 1);
    }
}
