//! Runs `heliossend/mod.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    services::heliossend::main()
}
