//! A policy that requires a working endpoint for live keys.

use std::sync::Arc;

use keyward::admin::{CreatePolicy, NewKey, PolicyFuture};
use keyward::environment::Environment;
use keyward::record::{Account, AdminErrorKind};

use crate::send::WebhookEndpoint;
use crate::store::WebhookStore;

/// Allows live keys only in accounts that have a working live endpoint.
///
/// An endpoint works if it is enabled and has answered a signed challenge. For an example, see
/// [`WebhookAdmin::challenge`](crate::admin::WebhookAdmin::challenge). Without a working endpoint,
/// a live key is refused with [`NoWorkingEndpoint`](AdminErrorKind::NoWorkingEndpoint).
#[derive(Clone, Debug)]
pub struct RequireWorkingEndpoint {
    endpoints: Arc<dyn WebhookStore>,
}

impl RequireWorkingEndpoint {
    /// Creates the policy for the endpoints in this store.
    #[must_use]
    pub fn new(endpoints: Arc<dyn WebhookStore>) -> Self {
        Self { endpoints }
    }
}

impl CreatePolicy for RequireWorkingEndpoint {
    fn check<'a>(&'a self, account: &'a Account, new: &'a NewKey) -> PolicyFuture<'a> {
        Box::pin(async move {
            let live = Environment::LIVE;
            if new.environment() != live {
                return Ok(());
            }
            let endpoints = self
                .endpoints
                .endpoints(Some(account.id.clone()), Some(live));
            if endpoints.await?.iter().any(WebhookEndpoint::is_working) {
                return Ok(());
            }
            Err(AdminErrorKind::NoWorkingEndpoint.into())
        })
    }
}
