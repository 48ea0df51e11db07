//! What is kept of a key. Never the secret.

use std::time::SystemTime;

use crate::{
    AccountId, Environment, Hint, KeyDigest, KeyId, OriginPolicy, ParseError, ParseErrorKind,
    Scopes,
};

/// What is kept of a key: never the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRecord {
    /// Its public name.
    pub id: KeyId,
    /// Which version this is; the store sets it. Zero: not stored yet.
    pub revision: u64,
    /// By which the key is found; it never changes.
    pub digest: KeyDigest,
    /// What may be shown of the key.
    pub hint: Hint,
    /// The owner's name for it.
    pub name: String,
    /// Who owns it.
    pub account: AccountId,
    /// The world it acts in.
    pub environment: Environment,
    /// Where it may live.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: Scopes,
    /// Which web pages may use it.
    pub origins: OriginPolicy,
    /// The account's epoch when it was made; below the account's present one it is revoked.
    pub epoch: u32,
    /// Whether it works.
    pub status: KeyStatus,
    /// When it was made.
    pub created_at: SystemTime,
    /// From this moment on it is dead. Kept in whole seconds, rounded down.
    pub expires_at: Option<SystemTime>,
}

impl KeyRecord {
    /// A secret key that works, has no scopes, no origins and no end, made in the account's first epoch.
    #[must_use]
    pub fn new(
        id: KeyId,
        digest: KeyDigest,
        hint: Hint,
        account: AccountId,
        environment: Environment,
        created_at: SystemTime,
    ) -> Self {
        Self {
            id,
            revision: 0,
            digest,
            hint,
            name: String::new(),
            account,
            environment,
            kind: KeyKind::Secret,
            scopes: Scopes::none(),
            origins: OriginPolicy::Any,
            epoch: 0,
            status: KeyStatus::Active,
            created_at,
            expires_at: None,
        }
    }
}

/// Where a key may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// On a server, and nowhere else.
    Secret,
    /// In a page or an app, where anyone can read it.
    ///
    /// Accepted only on routes that say so, and only from locations meant for it.
    Publishable,
}

impl KeyKind {
    /// Parses what [`as_str`](Self::as_str) gives.
    ///
    /// # Errors
    /// When it is neither `secret` nor `publishable`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        match text {
            "secret" => Ok(Self::Secret),
            "publishable" => Ok(Self::Publishable),
            _ => Err(ParseError::new("key kind", ParseErrorKind::Unknown)),
        }
    }

    /// `secret` or `publishable`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Publishable => "publishable",
        }
    }
}

/// Whether a key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyStatus {
    /// It works until it expires.
    Active,
    /// It is switched off and can be switched on again.
    Disabled,
    /// It is dead for good.
    Revoked,
}

impl KeyStatus {
    /// Parses what [`as_str`](Self::as_str) gives.
    ///
    /// # Errors
    /// When it is none of `active`, `disabled` and `revoked`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        match text {
            "active" => Ok(Self::Active),
            "disabled" => Ok(Self::Disabled),
            "revoked" => Ok(Self::Revoked),
            _ => Err(ParseError::new("key status", ParseErrorKind::Unknown)),
        }
    }

    /// `active`, `disabled` or `revoked`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
        }
    }
}
