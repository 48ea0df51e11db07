//! All there is about Helios Health's keys.

use std::error::Error;

use keyward::denial::ErrorCode;
use keyward::reply::ErrorMessageJson;
use keyward::{Gate, KeyAdmin, KeyFormat, KeyLocation, KeyScheme, Replies, Requirement, Store};

pub(crate) const REFUSED: &str = "Invalid or missing API key";

/// Keys in `x-api-key`, which begin with `sk_live_` whatever they are for.
pub(crate) fn rules(store: &(impl Store + Clone)) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("sk_live_")?);
    let replies = Replies::new(ErrorMessageJson)
        .text(ErrorCode::MissingApiKey, REFUSED)
        .text(ErrorCode::InvalidApiKey, REFUSED);
    let gate = Gate::builder(store, &scheme)
        .location(KeyLocation::x_api_key())
        .replies(replies)
        .build()?;
    Ok((gate, KeyAdmin::new(store, &scheme)))
}

/// The same key works for all endpoints, on what is its account's; each environment has its own data.
pub(crate) fn endpoint() -> Requirement {
    Requirement::new().any_environment()
}
