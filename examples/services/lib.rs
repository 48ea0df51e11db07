//! What the five services in this folder share: a list of routes that axum and actix-web mount alike.
//!
//! A service is a folder: `rules.rs` says all there is about its keys, `mod.rs` is its business. Each
//! runs on either stack, `--stack axum` or `--stack actix`.

#[path = "helios-health/mod.rs"]
pub mod helios_health;
pub mod heliossend;
#[path = "helium-id/mod.rs"]
pub mod helium_id;
pub mod helplane;
pub mod verifyhuman;

mod call;
mod key_page;
mod on_actix;
mod on_axum;
mod people;
mod records;
mod routes;
mod run;
mod webhooks;

pub use crate::call::{Answer, Answered, Call, email, line, text};
pub use crate::key_page::{Show, key_id, make, open_account, plain, revealed, shown, usage};
pub use crate::people::{People, Person};
pub use crate::records::{Recorded, Records};
pub use crate::routes::{Route, Routes, Shape, detail_json, error_json, error_message_json};
pub use crate::run::{Opened, Setting, Stack, check, fill_in, run, start};
pub use crate::webhooks::{Webhooks, post};
