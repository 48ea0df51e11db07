//! The five services, sentence by sentence: `tests/contracts/`, on both stacks.

mod at_once;
mod contract;
mod kill;
mod lines;
mod pattern;
mod runner;

use services::{helios_health, heliossend, helium_id, helplane, verifyhuman};

use self::runner::keep;

#[test]
fn helplane_does_what_its_documentation_says() {
    keep(helplane::open, "helplane");
}

#[test]
fn heliossend_does_what_its_documentation_says() {
    keep(heliossend::open, "heliossend");
}

#[test]
fn verifyhuman_does_what_its_documentation_says() {
    keep(verifyhuman::open, "verifyhuman");
}

#[test]
fn helios_health_does_what_its_documentation_says() {
    keep(helios_health::open, "helios-health");
}

#[test]
fn helium_id_does_what_its_documentation_says() {
    keep(helium_id::open, "helium-id");
}
