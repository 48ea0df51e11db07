//! All there is about Helios Health's keys.

use std::error::Error;
use std::sync::Arc;

use keyward::{
    AccountId, ErrorCode, ErrorMessageJson, Gate, KeyAdmin, KeyFormat, KeyLocation, Replies,
    Requirement, Store,
};

/// Keys in `x-api-key`, which begin with `sk_live_` whatever they are for.
pub(crate) fn rules(store: Arc<dyn Store>) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let format = KeyFormat::new("sk_live_")?;
    let replies = Replies::new(ErrorMessageJson)
        .text(ErrorCode::MissingApiKey, "Invalid or missing API key")
        .text(ErrorCode::InvalidApiKey, "Invalid or missing API key");
    let gate = Gate::builder(store.replica())
        .format(format.clone())
        .location(KeyLocation::x_api_key())
        .replies(replies)
        .build()?;
    Ok((gate, KeyAdmin::new(store, format)))
}

/// The same key works for all endpoints, those of one clinic; each environment has its own data.
pub(crate) fn endpoint(clinic: &AccountId) -> Requirement {
    let own = Requirement::new().account(clinic.clone());
    own.any_environment()
}
