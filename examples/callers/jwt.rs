//! JWTs that the service signs itself, with HS256.

use std::error::Error;
use std::fmt;
use std::str;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use keyward::key::fill_random;
use serde::{Deserialize, Serialize};

/// The challenge of a 401 for a JWT that is not valid (RFC 6750 §3).
pub const CHALLENGE: &str = r#"Bearer realm="api", error="invalid_token""#;

/// Signs and verifies JWTs with one secret.
pub struct Jwt {
    signing: EncodingKey,
    verifying: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

impl Jwt {
    /// Creates a random secret. A real service loads one.
    ///
    /// # Errors
    /// If the operating system returns no random bytes.
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let mut secret = [0; 32];
        fill_random(&mut secret)?;
        Ok(Self {
            signing: EncodingKey::from_secret(&secret)?,
            verifying: DecodingKey::from_secret(&secret)?,
        })
    }

    /// Creates the JWT of a user, which expires at this time, in seconds since 1970.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn sign(&self, user: &str, exp: u64) -> jsonwebtoken::errors::Result<String> {
        let sub = user.to_owned();
        encode(&Header::default(), &Claims { sub, exp }, &self.signing)
    }

    /// Returns the user of a valid `Authorization: Bearer <JWT>`.
    #[must_use]
    pub fn user_of(&self, authorization: &[u8]) -> Option<String> {
        let (scheme, token) = str::from_utf8(authorization).ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // No other algorithm, above all not `none`; and the JWT must have an expiry.
        let validation = Validation::new(Algorithm::HS256);
        let decoded = decode::<Claims>(token.trim(), &self.verifying, &validation);
        decoded.ok().map(|decoded| decoded.claims.sub)
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt(..)")
    }
}
