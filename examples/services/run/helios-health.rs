//! Runs `helios-health/mod.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    services::helios_health::main()
}
