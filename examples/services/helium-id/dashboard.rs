//! What Helium Id's customers do in their workspace and in the portal.

use std::sync::Arc;
use std::time::SystemTime;

use crate::{Answer, Answered, Call, Person, Recorded, Records, revealed, shown};
use keyward::{Environment, KeyId, NewKey, Permission};
use keyward_webhooks::send::WebhookEndpoint;
use serde_json::json;

use super::{HeliumId, hook, of_type};

/// Why a webhook does not work.
const UNANSWERED: &str = "it has not answered its challenge: answer a signed \
    {\"type\":\"keyward.challenge\",\"challenge\":\"chl_…\"} within 5 seconds with 200 and the text of \
    the challenge alone, then set the URL again";

/// A key of an integration; that of a new name is made with it.
pub(crate) async fn add_key(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let sent = call.json();
    let environment = of_type(sent["type"].as_str().unwrap_or_default())?;
    let name = sent["name"].as_str().unwrap_or_default();
    let new = NewKey::new(person.account.clone(), environment, name);
    let created = helium.admin.create(&person.actor(), new).await?;
    let (account, id) = (person.account.as_str(), created.record.id.to_string());
    integrate(&helium.records, account, name, environment.as_str(), &id)?;
    Ok(Answer::new(201, revealed(&created)))
}

/// Notes a key with its integration, which is made with the first.
pub(crate) fn integrate(
    records: &Records,
    account: &str,
    name: &str,
    of_type: &str,
    key: &str,
) -> Recorded<()> {
    let all = records.all(account, "integration")?;
    let same = all
        .iter()
        .find(|own| own["name"] == name && own["type"] == of_type);
    let Some(same) = same else {
        let own = json!({ "name": name, "type": of_type, "keys": [key] });
        return records.add(account, "integration", own).map(drop);
    };
    let id = same["id"].to_string();
    let noted = records.change(account, "integration", &id, |own| {
        if let Some(keys) = own["keys"].as_array_mut() {
            keys.push(json!(key));
        }
    });
    noted.map(drop)
}

pub(crate) async fn integrations(helium: Arc<HeliumId>, person: Person, _: Call) -> Answered {
    let all = helium.records.all(person.account.as_str(), "integration")?;
    Ok(Answer::ok(json!({ "integrations": all })))
}

/// Its details, and its keys.
pub(crate) async fn integration(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let (account, id) = (person.account.as_str(), call.param("id"));
    let found = helium.records.one(account, "integration", id)?;
    let mut own = found.ok_or(Answer::new(404, json!({ "error": "no such integration" })))?;
    for key in own["keys"].as_array_mut().into_iter().flatten() {
        let id = KeyId::parse(key.as_str().unwrap_or_default())?;
        *key = shown(&helium.admin.key(&person.actor(), id).await?);
    }
    Ok(Answer::ok(own))
}

/// Where a customer is told of the sessions of this type. What is sent there comes with a key and a
/// signature; its secret is shown once.
pub(crate) async fn set_url(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let environment = of_type(call.param("type"))?;
    let sent = call.json();
    let url = sent["url"].as_str().unwrap_or_default();
    let (webhooks, actor) = (&helium.webhooks, person.actor());
    let (endpoint, secret) = webhooks
        .set_url(&actor, &person.account, environment, url)
        .await?;
    let mut answer = json!({ "url": endpoint.url.as_str() });
    if let Some(secret) = secret {
        let key = hook::key_of(&person.account, &helium.records, &webhooks.sealing)?;
        answer["key"] = json!(key.expose_secret());
        answer["secret"] = json!(secret.expose_secret());
    }
    let works = webhooks.works(&actor, endpoint.id()).await?;
    answer["works"] = json!(works);
    if !works {
        answer["why"] = json!(UNANSWERED);
    }
    Ok(Answer::ok(answer))
}

pub(crate) async fn view_webhook(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let endpoint = helium.endpoint(&person, &call).await?;
    let actor = person.actor();
    let attempts = helium.webhooks.attempts(&actor, endpoint.id()).await?;
    let (url, works) = (endpoint.url.as_str(), endpoint.is_working());
    let mut answer = json!({ "url": url, "works": works, "attempts": attempts });
    if !works {
        answer["why"] = json!(UNANSWERED);
    }
    Ok(Answer::ok(answer))
}

/// Sends a webhook with something wrong about it, and says what the customer's server makes of it.
pub(crate) async fn test_webhook(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    person.must_have(Permission::ManageWebhooks)?;
    let endpoint = helium.endpoint(&person, &call).await?;
    let sent = call.json();
    let wrong = sent["wrong"].as_str().unwrap_or("nothing");
    if !matches!(wrong, "key" | "signature" | "json" | "nothing") {
        let error = "wrong is key, signature, json or nothing";
        return Err(Answer::new(422, json!({ "error": error })));
    }
    let (sealing, now) = (
        &helium.webhooks.sealing,
        SystemTime::UNIX_EPOCH + helium.clock.unix(),
    );
    let signer = endpoint.signer(sealing, now)?;
    let key = hook::key_of(&person.account, &helium.records, sealing)?;
    let status = hook::test(&endpoint, &signer, &key, wrong, now).await?;
    let passed = status.is_some_and(|status| hook::is_right(wrong, status));
    let result = if passed { "passed" } else { "failed" };
    Ok(Answer::ok(
        json!({ "wrong": wrong, "answered": status, "result": result }),
    ))
}

/// A decision by hand: in a test integration nobody else makes one.
pub(crate) async fn decide(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    person.must_have(Permission::Update)?;
    if call.param("type") != "test" {
        let error = "live sessions are decided by Helium Id";
        return Err(Answer::new(409, json!({ "error": error })));
    }
    let sent = call.json();
    let decision = sent["decision"].as_str().unwrap_or_default();
    if !matches!(decision, "approved" | "declined" | "resubmission") {
        let error = "decision is approved, declined or resubmission";
        return Err(Answer::new(422, json!({ "error": error })));
    }
    let (account, id) = (&person.account, call.param("id"));
    let session = helium.conclude(account, Environment::TEST, id, decision);
    Ok(Answer::ok(session.await?))
}

pub(crate) async fn show_usage(helium: Arc<HeliumId>, person: Person, _: Call) -> Answered {
    let used = helium.records.all(person.account.as_str(), "used")?;
    Ok(Answer::ok(json!({ "paid_sessions": used.len() })))
}

impl HeliumId {
    /// The webhook that a path means.
    async fn endpoint(&self, person: &Person, call: &Call) -> Result<WebhookEndpoint, Answer> {
        let environment = of_type(call.param("type"))?;
        let (actor, account) = (person.actor(), &person.account);
        let found = self.webhooks.endpoint(&actor, account, environment).await?;
        found.ok_or(Answer::new(404, json!({ "error": "no such webhook" })))
    }
}
