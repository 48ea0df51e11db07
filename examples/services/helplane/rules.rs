//! All there is about Helplane's keys.

use std::error::Error;

use keyward::admin::AccountChange;
use keyward::reply::ErrorMessageJson;
use keyward::{
    Environment, Gate, KeyAdmin, KeyFormat, KeyLocation, KeyScheme, RateLimit, Replies, Store,
};

/// Keys in `X-API-Key`; each for 100 requests a minute, with bursts of up to 200.
pub(crate) fn rules(store: &(impl Store + Clone)) -> Result<(Gate, KeyAdmin), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("hpl_")?);
    let gate = Gate::builder(store, &scheme)
        .location(KeyLocation::x_api_key())
        .rate_limits(Environment::LIVE, RateLimit::per_minute(100).burst(200))
        .replies(Replies::new(ErrorMessageJson))
        .build()?;
    Ok((gate, KeyAdmin::new(store, &scheme)))
}

/// What a plan means for keys, also for those that are there: they work on Growth and above.
pub(crate) fn plan(name: &str) -> Option<AccountChange> {
    let plans = [("starter", false), ("growth", true), ("scale", true)];
    let (_, api) = plans.into_iter().find(|(own, _)| *own == name)?;
    Some(AccountChange::new().api_access(api))
}
