//! Tells customers' servers, through the outbox that lies beside the keys.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioExecutor;
use keyward::{
    AccountId, Actor, EndpointRules, Environment, KeyFormat, SealingKey, SealingKeys, WebhookAdmin,
    WebhookId, WebhookMessage,
};
use keyward_sqlite::SqliteStore;
use keyward_tower::{PublicAddresses, WebhookSender};
use serde_json::Value;
use tokio::time::Sleep;

use crate::Answer;

type Connector = HttpConnector<PublicAddresses<GaiResolver>>;

/// Endpoints of customers, and what brings them their events.
pub struct Webhooks {
    pub admin: WebhookAdmin,
    sender: WebhookSender<Client<Connector, Body>, fn(Duration) -> Sleep>,
}

impl Webhooks {
    /// Those of a service whose keys look so.
    ///
    /// # Errors
    /// When the key that seals their secrets is none.
    pub fn new(store: &Arc<SqliteStore>, format: KeyFormat) -> Result<Self, Box<dyn Error>> {
        // A real service reads this key from where it keeps its secrets: not from its code. And it
        // leaves the rules as they are, while here all is on one machine, without TLS.
        let sealing = SealingKeys::new(SealingKey::new("example", &[7; 32])?);
        let rules = EndpointRules::new()
            .insecure_http_for_live()
            .insecure_private_host("127.0.0.1");
        let resolver = PublicAddresses::new(GaiResolver::new(), rules.clone());
        let connector = HttpConnector::new_with_resolver(resolver);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let sleep: fn(Duration) -> Sleep = tokio::time::sleep;
        let store = Arc::clone(store);
        let sender = WebhookSender::new(client, store.clone(), sealing.clone(), sleep);
        Ok(Self {
            admin: WebhookAdmin::new(store, format, sealing).rules(rules.clone()),
            sender: sender.rules(rules),
        })
    }

    /// Accepts an event, and delivers what is due.
    ///
    /// A real service has [`WebhookSender::run`] deliver, in a task of its own. Here what comes of it can
    /// be looked at as soon as the request that has caused it is answered.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tell(
        &self,
        account: &AccountId,
        environment: Environment,
        event: &Value,
    ) -> Result<(), Answer> {
        let failed = |_| Answer::new(503, serde_json::json!({ "error": "try again" }));
        let id = WebhookId::random().map_err(failed)?;
        let message = WebhookMessage::new(account.clone(), environment, id, event.to_string())?;
        self.admin
            .publish(&Actor::operator("webhooks"), message)
            .await?;
        if let Err(error) = self.sender.deliver_due().await {
            eprintln!("nothing was delivered: {error}");
        }
        Ok(())
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhooks(..)")
    }
}
