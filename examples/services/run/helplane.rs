//! Runs `helplane/mod.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    services::helplane::main()
}
