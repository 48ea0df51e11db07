//! Runs `actix.rs`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    callers::actix::main()
}
