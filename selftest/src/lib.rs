//! Self-tests: suites of plain functions and the runner that reports them as
//! KTAP version 1. The kernel runs them at every boot, the host as tests; both
//! run the same functions. May call everything public in `mm`; allocates
//! nothing of its own.
//!
//! A case is a function from a [`Test`] to a [`CaseResult`]: it returns early
//! with the place and the reason when something is wrong ([`check!`],
//! [`check_eq!`], [`check_ok!`]) or cannot be tried here ([`skip!`]).
#![no_std]
#[cfg(test)]
extern crate std;

mod case;
mod crew;
mod exchange;
mod filter;
mod herd;
mod hold;
mod objects;
mod report;
mod rng;
mod runner;
pub mod suites;
mod text;

pub use case::{Case, CaseResult, Level, Outcome, Stop, Subject, Suite, Test};
pub use crew::{Alone, Crew};
pub use filter::Filter;
pub use report::{Counts, Harness};
pub use rng::Rng;
pub use runner::{Config, run};
pub use text::Text;
