//! All there is about Helium Id's keys, and about those with which its webhooks come.

use std::error::Error;
use std::sync::Arc;

use keyward::{
    Clock, Environment, Gate, KeyAdmin, KeyFormat, KeyLocation, RateLimit, Requirement, Store,
    WebhookReceiver, WebhookVerifier,
};

/// Test keys and live keys; test keys are not for stress tests.
pub(crate) fn rules(store: Arc<dyn Store>) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let format = KeyFormat::new("hid_{env}_")?;
    let gate = Gate::builder(store.replica())
        .format(format.clone())
        .location(KeyLocation::x_api_key())
        .rate_ceiling(Environment::TEST, RateLimit::per_minute(60).burst(20))
        .build()?;
    Ok((gate, KeyAdmin::new(store, format)))
}

/// A session can be of either sort, and is of the sort of its key.
pub(crate) fn session() -> Requirement {
    Requirement::new().environments([Environment::LIVE, Environment::TEST])
}

/// What a customer's server believes: an API key and a signature, both.
pub(crate) fn receiver(
    key: &str,
    secret: &str,
    clock: Arc<dyn Clock>,
) -> Result<WebhookReceiver, Box<dyn Error>> {
    let receiver = WebhookReceiver::builder(WebhookVerifier::standard(secret)?);
    let receiver = receiver.api_key(KeyLocation::x_api_key(), key)?;
    Ok(receiver.clock(clock).build()?)
}
