//! What needs more than one crate of keyward to be tested.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(test)]
mod allocations;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod placement;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod service;
#[cfg(test)]
mod stacks;
