//! All there is about HeliosSend's keys.

use std::error::Error;

use keyward::denial::ErrorCode;
use keyward::key::Alphabet;
use keyward::reply::DetailJson;
use keyward::{Gate, KeyAdmin, KeyFormat, KeyLocation, KeyScheme, Replies, Store};

/// `cs_` and 64 characters, alone in `Authorization`.
pub(crate) fn rules(store: &(impl Store + Clone)) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let scheme = KeyScheme::new(
        KeyFormat::new("cs_")?
            .alphabet(Alphabet::Base64Url)
            .length(64)?
            .without_checksum(),
    );
    let replies = Replies::new(DetailJson)
        .text(ErrorCode::MissingApiKey, "Invalid user credentials")
        .text(ErrorCode::InvalidApiKey, "Invalid user credentials")
        .text(ErrorCode::AccountInactive, "Account not active");
    let gate = Gate::builder(store, &scheme)
        .location(KeyLocation::raw_authorization())
        .replies(replies)
        .build()?;
    Ok((gate, KeyAdmin::new(store, &scheme)))
}
