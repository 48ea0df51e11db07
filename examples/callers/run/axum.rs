//! Runs `axum.rs`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    callers::axum::main()
}
