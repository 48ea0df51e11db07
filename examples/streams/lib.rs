//! Responses that end when their key is revoked, on axum and on actix-web.

pub mod actix;
pub mod axum;
