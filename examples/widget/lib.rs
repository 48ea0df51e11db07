//! Publishable keys in a browser, on axum and on actix-web.

pub mod actix;
pub mod axum;
