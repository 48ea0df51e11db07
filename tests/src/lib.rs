//! What needs more than one crate of keyward to be tested.

#![cfg(test)]

mod allocations;
mod parity;
mod placement;
mod readiness;
mod secrecy;
mod service;
mod stacks;
