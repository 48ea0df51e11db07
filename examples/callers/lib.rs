//! Routes that an API key, a JWT or a session opens, on axum and on actix-web.

pub mod actix;
pub mod axum;
pub mod jwt;

/// Returns the lines to try in a shell.
fn usage(at: &str, key: &str, jwt: &str) -> String {
    format!(
        "curl -i {at}/key-or-jwt -H 'X-API-Key: {key}'
curl -i {at}/key-or-jwt -H 'Authorization: Bearer {key}'
curl -i {at}/key-or-jwt -H 'Authorization: Bearer {jwt}'
curl -i {at}/key-or-jwt  # 401
curl -i {at}/key-or-jwt -H 'X-API-Key: {key}' -H 'Authorization: Bearer {jwt}'  # 400
curl -c session -X POST {at}/login
curl -i {at}/key-or-session -b session
curl -i {at}/any -b session -H 'Authorization: Bearer x.y.z'  # 401
"
    )
}
