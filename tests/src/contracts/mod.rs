//! The five services, sentence by sentence: `tests/contracts/`, on both stacks.

mod at_once;
mod contract;
mod kill;
mod lines;
mod pattern;
mod runner;

#[expect(dead_code, reason = "a program, whose `main` is not called here")]
#[path = "../../../examples/services/helios-health/main.rs"]
mod helios_health;
#[expect(dead_code, reason = "as above")]
#[path = "../../../examples/services/heliossend/main.rs"]
mod heliossend;
#[expect(dead_code, reason = "as above")]
#[path = "../../../examples/services/helium-id/main.rs"]
mod helium_id;
#[expect(dead_code, reason = "as above")]
#[path = "../../../examples/services/helplane/main.rs"]
mod helplane;
#[expect(dead_code, reason = "as above")]
#[path = "../../../examples/services/verifyhuman/main.rs"]
mod verifyhuman;

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
