//! What needs more than one crate of keyward to be tested.

#[cfg(doctest)]
mod docs;

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod allocations;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod browser;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod charging;
#[cfg(test)]
mod composition;
#[cfg(test)]
mod contracts;
#[cfg(test)]
mod cors;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod environments;
#[cfg(test)]
mod events;
#[cfg(all(test, unix))]
mod freeze;
#[cfg(test)]
mod front_page;
#[cfg(test)]
mod import;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod later_charges;
#[cfg(test)]
mod leak;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod nginx;
#[cfg(test)]
mod no_timer;
#[cfg(test)]
mod outbox;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod placement;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod redis_limits;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod secret_text;
#[cfg(test)]
mod self_revoke;
#[cfg(test)]
mod service;
#[cfg(test)]
mod slow_bodies;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod stacks;
#[cfg(test)]
mod starvation;
#[cfg(test)]
mod streams;
// Only Linux has all of 127.0.0.0/8.
#[cfg(all(test, target_os = "linux"))]
mod throttle;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod written_by_0_1_0;
