//! The protocol by which host CPUs reach each other, alone: small enough to be
//! tried in nearly all orders there are.

use crate::run::{exhaust, explore, way};
use mm::mailbox::{Token, run_on_each};
use mm::sync::explored::{Exploring, relax};
use mm::types::CpuId;
use std::sync::Mutex;

/// Everybody asks everybody. What is asked is done once for each CPU, by one
/// thread at a time, and before the call returns.
fn circle(cpus: u16) {
    let tokens: Vec<_> = (0..cpus).map(|id| Token::new(CpuId(id))).collect();
    let inside: Vec<_> = (0..cpus).map(|_| Mutex::new(())).collect();
    let exploring = Exploring::new(way().grain);
    shuttle::thread::scope(|scope| {
        for own in (0..cpus).map(CpuId) {
            let (tokens, inside) = (&tokens, &inside);
            scope.spawn(move || {
                let token = &tokens[usize::from(own.0)];
                if way().bound {
                    while !token.try_take() {
                        relax();
                    }
                }
                let done = Mutex::new(vec![0; usize::from(cpus)]);
                let work = |cpu: CpuId| {
                    let _alone = inside[usize::from(cpu.0)].try_lock().expect("two are this CPU");
                    // Somebody else may go on.
                    shuttle::thread::sleep(core::time::Duration::ZERO);
                    done.lock().expect("no panic")[usize::from(cpu.0)] += 1;
                };
                let bound = way().bound.then_some(own);
                // SAFETY: the token was taken above, or none is held.
                unsafe { run_on_each(tokens, bound, &work, &relax) };
                assert_eq!(*done.lock().expect("no panic"), vec![1; usize::from(cpus)]);
                if way().bound {
                    // SAFETY: taken above.
                    unsafe { token.give_up() };
                }
            });
        }
    });
    drop(exploring);
    assert!(tokens.iter().all(|token| !token.has_mail() && token.try_take()), "all are idle");
}

#[test]
fn a_circle_of_two() {
    explore(|| circle(2));
    exhaust(|| circle(2));
}

#[test]
fn a_circle_of_three() {
    explore(|| circle(3));
}
