//! A customer's own server, which is no part of Helium Id: it has its users verified.

use std::sync::Arc;

use crate::{Answer, Answered, Call, Recorded, Records, Webhooks, post};
use keyward::admin::AdminError;
use keyward::{AccountId, Actor, Environment, Grace};
use keyward_webhooks::receive::WebhookEvent;
use keyward_webhooks::send::EndpointId;
use keyward_webhooks::signature::WebhookSecret;
use serde_json::{Value, json};

use super::HeliumId;

/// The customer's own server: its users, and its key.
pub(crate) struct Platform {
    pub(crate) users: Arc<Records>,
    pub(crate) key: String,
}

impl Platform {
    /// The user of this name, made now if there is none.
    fn user(&self, name: &str) -> Recorded<Value> {
        let users = self.users.all("", "user")?;
        match users.into_iter().find(|user| user["name"] == name) {
            Some(user) => Ok(user),
            None => self
                .users
                .add("", "user", json!({ "name": name, "access": false })),
        }
    }

    /// The same, with this noted.
    fn change(&self, name: &str, noted: &Value) -> Recorded<Value> {
        let user = self.user(name)?;
        let changed = self
            .users
            .change("", "user", &user["id"].to_string(), |user| {
                for (name, value) in noted.as_object().into_iter().flatten() {
                    user[name] = value.clone();
                }
            })?;
        Ok(changed.unwrap_or(user))
    }
}

/// The customer's server has itself told of a sort of sessions. It keeps no secret: whenever it starts it
/// asks for a new one.
pub(crate) async fn register(
    webhooks: &Webhooks,
    account: &AccountId,
    environment: Environment,
    at: &str,
) -> Result<(EndpointId, WebhookSecret), AdminError> {
    let (operator, url) = (
        Actor::operator("start"),
        format!("http://{at}/platform/hook"),
    );
    let (endpoint, secret) = webhooks
        .set_url(&operator, account, environment, &url)
        .await?;
    let id = endpoint.id();
    if let Some(secret) = secret {
        return Ok((id, secret));
    }
    let admin = &webhooks.admin;
    let new = admin.regenerate_secret(&operator, id, Grace::None).await?;
    Ok((id, new.secret))
}

/// The customer's server is told of a decision. What is not signed, or comes without the key, the layer
/// has refused.
pub(crate) async fn be_told(helium: Arc<HeliumId>, event: WebhookEvent) -> Answered {
    let Ok(event) = event.json::<Value>() else {
        return Err(Answer::new(400, json!({ "error": "that is no JSON" })));
    };
    let state = match event["decision"].as_str() {
        Some("approved") => json!({ "access": true, "notice": "Welcome" }),
        Some("declined") => json!({ "access": false, "notice": "Your verification has failed" }),
        Some("resubmission") => json!({ "access": false, "notice": "Please try again" }),
        _ => return Ok(Answer::new(204, Value::Null)),
    };
    let name = event["person"].as_str().unwrap_or_default();
    helium.platform.change(name, &state)?;
    Ok(Answer::new(204, Value::Null))
}

/// The customer's server has a user verified: it asks Helium Id for a session, by its test key.
pub(crate) async fn verify_user(helium: Arc<HeliumId>, call: Call) -> Answered {
    let (at, name) = (&helium.address, call.param("name"));
    let callback = format!("http://{at}/platform/users/{name}");
    let session = json!({ "person": name, "callback": callback }).to_string();
    let key = [("x-api-key", helium.platform.key.clone())];
    let made = post(&format!("http://{at}/v1/sessions"), &key, &session).await;
    let Some((201, session)) = made else {
        return Err(Answer::new(
            502,
            json!({ "error": "Helium Id makes no session" }),
        ));
    };
    let session = json!({ "session": session["id"], "link": session["link"] });
    Ok(Answer::ok(helium.platform.change(name, &session)?))
}

pub(crate) async fn user(helium: Arc<HeliumId>, call: Call) -> Answered {
    Ok(Answer::ok(helium.platform.user(call.param("name"))?))
}
