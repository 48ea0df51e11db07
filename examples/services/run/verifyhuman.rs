//! Runs `verifyhuman/mod.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    services::verifyhuman::main()
}
