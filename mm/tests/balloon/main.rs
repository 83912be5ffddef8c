//! The balloon: lent, wanted back, moved, against hosts that are honest, fail or
//! cannot be shut off; and what becomes of requests when memory is out.
#![cfg(feature = "host")]

mod hosts;
mod moving;
mod need;
mod random;
mod stand;
