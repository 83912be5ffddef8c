//! What the driver does with devices that refuse, change their mind, or lie.

use crate::device::{Answer, Simulated};
use crate::memory::Use;
use crate::{Bench, GIB, MIB};
use drivers::virtio_mem::{
    BadResponse, BlockState, ConfigError, MemFault, Next, RETRY_MAX_MS, RETRY_MIN_MS, Request,
    Response,
};
use std::cell::Cell;
use std::rc::Rc;

/// Refuses all but questions while the cell says so.
fn refusing(answer: Response) -> (Simulated, Rc<Cell<bool>>) {
    let on = Rc::new(Cell::new(true));
    let is_on = on.clone();
    let device = Simulated::common().with_trick(move |_, request| {
        let refuse = is_on.get() && !matches!(request, Request::State(_));
        refuse.then_some(Ok(answer))
    });
    (device, on)
}

#[test]
fn a_refusal_changes_nothing_and_is_tried_again() {
    for answer in [Response::Busy, Response::Nack, Response::Error] {
        let (device, on) = refusing(answer);
        let mut bench = Bench::new(device);
        assert_eq!(bench.request(GIB), Next::Within(RETRY_MIN_MS));
        assert_eq!(bench.device.asked.len(), 1, "no hammering");
        for n in 1..10 {
            let ms = (RETRY_MIN_MS << n).min(RETRY_MAX_MS);
            assert_eq!(bench.round(), Ok(Next::Within(ms)));
        }
        assert_eq!(bench.device.logged("PLUG"), 1, "{:?}", bench.device.log);
        assert_eq!(bench.memory.added.borrow().len(), 0);
        on.set(false);
        assert_eq!(bench.round(), Ok(Next::OnChange));
        assert_eq!(bench.memory.provided_bytes(), GIB);
        // The same on the way back: what is not unplugged is in use again.
        on.set(true);
        assert_eq!(bench.request(512 * MIB), Next::Within(RETRY_MIN_MS));
        assert_eq!(bench.memory.provided_bytes(), GIB);
        assert_eq!(bench.driver.status().withheld, 0);
        assert_eq!(bench.round(), Ok(Next::Within(2 * RETRY_MIN_MS)));
        on.set(false);
        assert_eq!(bench.round(), Ok(Next::OnChange));
        assert_eq!(bench.memory.provided_bytes(), 512 * MIB);
    }
}

#[test]
fn unplugging_all_waits_for_a_busy_device() {
    let (mut device, on) = refusing(Response::Busy);
    device.plugged.borrow_mut().insert(4 * GIB);
    device.config.plugged_size = 2 * MIB;
    device.config.requested_size = 4 * MIB;
    let mut bench = Bench::new(device);
    for ms in [RETRY_MIN_MS, 2 * RETRY_MIN_MS] {
        assert_eq!(bench.driver.round(&mut bench.device), Ok(Next::Within(ms)));
    }
    assert!(bench.device.asked.iter().all(|request| *request == Request::UnplugAll));
    on.set(false);
    assert_eq!(bench.round(), Ok(Next::OnChange));
    assert_eq!(bench.memory.provided_bytes(), 4 * MIB);
}

#[test]
fn a_smaller_request_stops_plugging() {
    let device = Simulated::common().with_trick(|device, _| {
        if device.asked.len() == 3 {
            device.request(256 * MIB);
        }
        None
    });
    let mut bench = Bench::new(device);
    assert_eq!(bench.request(2 * GIB), Next::OnChange);
    assert_eq!(bench.memory.provided_bytes(), 256 * MIB);
    let plugs = |request: &&Request| matches!(request, Request::Plug(_));
    // The third was refused: it would have gone beyond the new request.
    assert_eq!(bench.device.asked.iter().filter(plugs).count(), 3);
}

#[test]
fn a_larger_request_stops_unplugging() {
    let mut bench = Bench::new(Simulated::common());
    bench.request(2 * GIB);
    let asked = bench.device.asked.len();
    bench.device.trick = Some(Box::new(move |device, _| {
        if device.asked.len() == asked + 2 {
            device.request(3 * GIB);
        }
        None
    }));
    assert_eq!(bench.request(0), Next::OnChange);
    assert_eq!(bench.memory.provided_bytes(), 3 * GIB);
    assert_eq!(bench.device.asked.len(), asked + 2 + 2 + 8);
}

#[test]
fn answers_that_there_are_not_end_the_driver() {
    for bad in [BadResponse::Type(7), BadResponse::Short(1), BadResponse::Short(11)] {
        let device = Simulated::common().with_trick(move |_, _| Some(Err(bad)));
        let mut bench = Bench::new(device);
        bench.device.request(GIB);
        assert!(matches!(bench.round(), Err(MemFault::Response(Request::Plug(_), b)) if b == bad));
        assert_eq!(bench.memory.provided_bytes(), 0);
    }
}

#[test]
fn a_configuration_that_cannot_be_ends_the_driver() {
    type Change = fn(&mut Simulated);
    let shrank = ConfigError::UsableShrank { from: GIB + 256 * MIB, to: GIB };
    let beyond = ConfigError::Beyond { field: "requested size", value: 4 * GIB, limit: 3 * GIB };
    let claims = ConfigError::Beyond { field: "plugged size", value: 4 * GIB, limit: 3 * GIB };
    let changes: [(Change, ConfigError); 6] = [
        (|d| d.config.block_size = 4 * MIB, ConfigError::Changed("block size")),
        (|d| d.config.addr = 8 * GIB, ConfigError::Changed("region address")),
        (|d| d.config.usable_region_size = GIB, shrank),
        (|d| d.config.requested_size = 4 * GIB, beyond),
        (|d| d.config.requested_size = 3 * MIB, ConfigError::Unaligned("requested size", 3 * MIB)),
        (|d| d.claims = Some(4 * GIB), claims),
    ];
    for (change, error) in changes {
        let mut bench = Bench::new(Simulated::common());
        bench.request(GIB);
        change(&mut bench.device);
        let result = bench.driver.round(&mut bench.device);
        assert_eq!(result, Err(MemFault::Config(error)));
        assert_eq!(bench.memory.provided_bytes(), GIB, "what is plugged stays");
    }
}

#[test]
fn a_configuration_that_changes_for_ever_is_left_alone() {
    let device = Simulated::common().with_trick(|device, request| {
        device.changed = true;
        matches!(request, Request::Plug(_)).then_some(Ok(Response::Nack))
    });
    let mut bench = Bench::new(device);
    let changed = Rc::new(Cell::new(0));
    let count = changed.clone();
    bench.device.trick = Some(Box::new(move |device, _| {
        // What is requested changes as soon as anything is asked for.
        count.set(count.get() + 1);
        let size = if device.config.requested_size == GIB { 2 * GIB } else { GIB };
        device.request(size);
        Some(Ok(Response::Nack))
    }));
    assert!(matches!(bench.request(GIB), Next::Within(_)));
    assert!(changed.get() < 100, "{}", changed.get());
    assert_eq!(bench.memory.added.borrow().len(), 0);
}

#[test]
fn a_wrong_plugged_size_is_noticed_and_never_leads_beyond_the_request() {
    let mut bench = Bench::new(Simulated::common());
    bench.device.claims = Some(768 * MIB);
    assert_eq!(bench.request(GIB), Next::OnChange);
    assert_eq!(bench.memory.provided_bytes(), 256 * MIB);
    assert_eq!(bench.device.logged("the device counts 0x30000000 bytes"), 1);
    bench.device.claims = Some(0);
    assert_eq!(bench.request(512 * MIB), Next::OnChange);
    assert_eq!(bench.memory.provided_bytes(), 512 * MIB);
    assert_eq!(bench.device.logged("the device counts"), 1);
}

#[test]
fn what_is_partly_there_is_not_touched() {
    let mut bench = Bench::new(Simulated::new(MIB, 4 * GIB, GIB));
    bench.request(256 * MIB);
    bench.device.trick = Some(Box::new(|device, request| -> Option<Answer> {
        // It gives back half of what it was asked to, and denies it.
        if let Request::Unplug(blocks) = request {
            let half = device.addresses(blocks).step_by(2);
            half.for_each(|block| assert!(device.plugged.borrow_mut().remove(&block)));
            return Some(Ok(Response::Error));
        }
        None
    }));
    bench.device.request(254 * MIB);
    assert_eq!(bench.driver.round(&mut bench.device), Ok(Next::Within(RETRY_MIN_MS)));
    assert_eq!(bench.driver.status().withheld, 2 * MIB);
    assert_eq!(bench.memory.provided_bytes(), 254 * MIB);
    // The rest of the device is of use still.
    bench.device.trick = None;
    bench.device.claims = Some(256 * MIB);
    bench.device.request(512 * MIB);
    let next = bench.driver.round(&mut bench.device);
    assert_eq!(next, Ok(Next::Within(RETRY_MIN_MS)));
    assert_eq!(bench.memory.provided_bytes(), 510 * MIB);
}

#[test]
fn the_device_is_asked_about_what_it_denies() {
    let mut bench = Bench::new(Simulated::common());
    bench.request(256 * MIB);
    bench.device.trick = Some(Box::new(|device, request| {
        // It does as it is told, and says that it has not.
        let Request::Unplug(blocks) = request else { return None };
        let all = device.addresses(blocks);
        all.for_each(|block| assert!(device.plugged.borrow_mut().remove(&block)));
        Some(Ok(Response::Nack))
    }));
    bench.device.request(128 * MIB);
    bench.round().expect("believed");
    assert_eq!(bench.memory.provided_bytes(), 128 * MIB);
    // A state that it does not give is not made up.
    bench.device.trick = Some(Box::new(|_, request| match request {
        Request::State(_) => Some(Ok(Response::Ack(Some(BlockState::Mixed)))),
        _ => Some(Ok(Response::Nack)),
    }));
    bench.memory.set(4 * GIB, Use::Fixed);
    bench.device.request(126 * MIB);
    assert_eq!(bench.round(), Ok(Next::Within(RETRY_MIN_MS)));
    assert_eq!(bench.driver.status().withheld, 2 * MIB);
    bench.device.trick = None;
    bench.device.request(128 * MIB);
    assert_eq!(bench.round(), Ok(Next::OnChange));
    assert_eq!(bench.driver.status().withheld, 0);
}
