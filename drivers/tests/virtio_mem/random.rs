//! Any order of requests, uses and refusals.

use crate::device::Simulated;
use crate::memory::Use;
use crate::{Bench, GIB, MIB};
use drivers::virtio_mem::{Next, Response};
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Clone, Debug)]
enum Op {
    Request(u64),
    Round,
    /// The n-th of what is provided is used so.
    Use(usize, u8),
    /// So many of the next answers are refusals of that kind.
    Refuse(u8, u8),
    /// The request changes when so many more were asked.
    ChangeSoon(u8, u64),
    /// Memory for so many groups, and provisions.
    Scarce(u64, u64),
    Plenty,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..=512).prop_map(Op::Request),
        4 => Just(Op::Round),
        6 => (any::<usize>(), 0u8..4).prop_map(|(n, how)| Op::Use(n, how)),
        2 => (1u8..6, 0u8..3).prop_map(|(n, how)| Op::Refuse(n, how)),
        2 => (1u8..6, 0u64..=512).prop_map(|(n, units)| Op::ChangeSoon(n, units)),
        1 => (0u64..3, 0u64..6).prop_map(|(adds, provides)| Op::Scarce(adds, provides)),
        1 => Just(Op::Plenty),
    ]
}

#[derive(Default)]
struct Plan {
    refuse: (u8, u8),
    change: (u8, u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 300 }))]

    #[test]
    fn nothing_is_lost_or_touched(
        shift in 0u32..9,
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let block = MIB << shift;
        let unit = block.max(2 * MIB);
        let plan = Rc::new(RefCell::new(Plan::default()));
        let his = plan.clone();
        let device = Simulated::new(block, 4 * GIB, GIB).with_trick(move |device, _| {
            let mut plan = his.borrow_mut();
            if plan.change.0 > 0 {
                plan.change.0 -= 1;
                if plan.change.0 == 0 {
                    device.request(plan.change.1 * 2 * MIB / block * block);
                }
            }
            if plan.refuse.0 == 0 {
                return None;
            }
            plan.refuse.0 -= 1;
            Some(Ok([Response::Busy, Response::Nack, Response::Error][usize::from(plan.refuse.1)]))
        });
        let mut bench = Bench::new(device);
        for op in ops {
            match op {
                Op::Request(units) => bench.device.request(units * 2 * MIB / block * block),
                Op::Round => drop(bench.round().expect("no nonsense")),
                Op::Use(n, how) => {
                    let keys: Vec<u64> = bench.memory.provided.borrow().keys().copied().collect();
                    if let Some(addr) = keys.get(n % keys.len().max(1)) {
                        let to = [Use::Offline, Use::Free, Use::Movable, Use::Fixed];
                        bench.memory.set(*addr, to[usize::from(how)]);
                    }
                }
                Op::Refuse(n, how) => plan.borrow_mut().refuse = (n, how),
                Op::ChangeSoon(n, units) => plan.borrow_mut().change = (n, units),
                Op::Scarce(adds, provides) => {
                    bench.memory.adds.set(adds);
                    bench.memory.provides.set(provides);
                }
                Op::Plenty => {
                    bench.memory.adds.set(u64::MAX);
                    bench.memory.provides.set(u64::MAX);
                }
            }
        }
        // When all are willing again, what is requested comes about.
        *plan.borrow_mut() = Plan::default();
        bench.memory.adds.set(u64::MAX);
        bench.memory.provides.set(u64::MAX);
        bench.memory.provided.borrow_mut().values_mut().for_each(|is| *is = Use::Free);
        prop_assert_eq!(bench.round(), Ok(Next::OnChange));
        let wanted = bench.device.config.requested_size / unit * unit;
        prop_assert_eq!(bench.memory.provided_bytes(), wanted);
        prop_assert_eq!(bench.driver.status().withheld, 0);
        bench.request(0);
        prop_assert_eq!(bench.memory.added.borrow().len(), 0);
    }
}
