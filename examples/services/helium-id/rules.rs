//! All there is about Helium Id's keys, and about those with which its webhooks come.

use std::error::Error;
use std::sync::Arc;

use keyward::clock::Clock;
use keyward::reply::ErrorJson;
use keyward::{
    Environment, Gate, KeyAdmin, KeyFormat, KeyLocation, KeyScheme, RateLimit, Replies, Requirement,
};
use keyward_webhooks::admin::RequireWorkingEndpoint;
use keyward_webhooks::{WebhookReceiver, WebhookStore, WebhookVerifier};

/// Test keys, which are not for stress tests, and live keys, which require a working webhook.
pub(crate) fn rules(store: Arc<dyn WebhookStore>) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("hid_{env}_")?);
    let gate = Gate::builder(&store, &scheme)
        .location(KeyLocation::x_api_key())
        .replies(Replies::new(ErrorJson))
        .rate_ceiling(Environment::TEST, RateLimit::per_minute(60).burst(20))
        .build()?;
    let admin = KeyAdmin::new(&store, &scheme);
    Ok((
        gate,
        admin.create_policy(RequireWorkingEndpoint::new(store)),
    ))
}

/// A session can be of either sort, and is of the sort of its key.
pub(crate) fn session() -> Requirement {
    Requirement::new().environments([Environment::LIVE, Environment::TEST])
}

/// What a customer's server believes: an API key and a signature, both.
pub(crate) fn receiver(
    key: &str,
    [test, live]: [&str; 2],
    clock: Arc<dyn Clock>,
) -> Result<WebhookReceiver, Box<dyn Error>> {
    let verifier = WebhookVerifier::standard(test)?.or(live)?;
    let receiver = WebhookReceiver::builder(verifier);
    let receiver = receiver.api_key(KeyLocation::x_api_key(), key)?;
    Ok(receiver.clock(clock).build()?)
}
