//! All there is about VerifyHuman's keys.

use std::error::Error;

use keyward::admin::AccountChange;
use keyward::denial::ErrorCode as Code;
use keyward::reply::ErrorJson;
use keyward::{
    Cors, Environment, Gate, KeyAdmin, KeyFormat, KeyLocation, KeyScheme, RateLimit, Replies,
    Requirement, ScopeCatalog, Store,
};

/// How many active keys an organization may have, and how many domains a key.
pub(crate) const MAX_KEYS: u32 = 50;
pub(crate) const MAX_DOMAINS: usize = 25;

/// One key per integration, in one of three places, for one product; the products are apart.
pub(crate) fn rules(store: &(impl Store + Clone)) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let products = ["verifyhuman", "verifyage", "identity", "kyc", "kyc_plus"];
    let catalog = ScopeCatalog::new(products)?
        .implying("hybrid", products)?
        .secret_only("hybrid")?
        .one_per_key();
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?).catalog(catalog);
    let replies = Replies::new(ErrorJson)
        .text(Code::InvalidApiKey, "Invalid API key")
        .text(Code::EnvironmentMismatch, "Environment mismatch")
        .text(Code::InsufficientScope, "Scope does not allow this product")
        .text(Code::OriginNotAllowed, "Origin not allowed for this key")
        .text(Code::RateLimited, "Rate limit exceeded")
        .status(Code::CreditsExhausted, 402);
    let gate = Gate::builder(store, &scheme)
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::client_key())
        .location(KeyLocation::x_client_key())
        .cors(Cors::new())
        .replies(replies)
        .rate_limits(Environment::LIVE, RateLimit::per_minute(60))
        .rate_limits(Environment::TEST, RateLimit::per_minute(60))
        .refund_errors()
        .build()?;
    let admin = KeyAdmin::new(store, &scheme);
    Ok((gate, admin.max_active_keys(MAX_KEYS)))
}

/// What a product's endpoint demands: its scope, of a live key, which pays `n` credits, or a test key.
pub(crate) fn product(scope: &str, n: u32) -> Requirement {
    Requirement::new().scope(scope).credits(n).any_environment()
}

/// What a plan means for keys: Enterprise may have more of them.
pub(crate) fn plan(name: &str) -> AccountChange {
    AccountChange::new().max_active_keys((name == "enterprise").then_some(500))
}
