//! Runs `helium-id/mod.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    services::helium_id::main()
}
