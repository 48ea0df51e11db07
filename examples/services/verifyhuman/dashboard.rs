//! What VerifyHuman's customers do on its dashboard.

use std::sync::Arc;
use std::time::Duration;

use crate::{Answer, Answered, Call, Person, key_id, revealed, shown, usage};
use keyward::admin::{AdminError, KeyView};
use keyward::credits::Credits;
use keyward::record::{AdminErrorKind, Metadata};
use keyward::{Actor, Environment, Grace, KeyKind, NewKey, OriginPolicy, Permission, Scopes};
use keyward_webhooks::send::{EndpointId, EndpointUrl};
use serde_json::{Value, json};

use super::{VerifyHuman, rules};

/// A key, with all that was chosen for it.
pub(crate) fn show(service: &VerifyHuman, view: &KeyView) -> Result<Value, Answer> {
    let (mut key, record) = (shown(view), &view.record);
    key["scope"] = json!(record.scopes.iter().collect::<Vec<_>>().join(" "));
    key["kind"] = json!(record.kind.as_str());
    key["allowed_domains"] = record.origins.patterns().collect();
    key["badge"] = json!(service.badge(record)?);
    Ok(key)
}

pub(crate) async fn create_key(service: Arc<VerifyHuman>, person: Person, call: Call) -> Answered {
    let sent = call.json();
    let text = |name: &str| sent[name].as_str().unwrap_or_default().to_owned();
    let environment = environment(&sent)?;
    let mut new = NewKey::new(person.account.clone(), environment, &text("name"))
        .scopes(Scopes::parse(text("scope").split_whitespace())?);
    if flag(&sent, "publishable")? == Some(true) {
        new = new.kind(KeyKind::Publishable);
    }
    match &sent["allowed_domains"] {
        Value::Null => {}
        Value::Array(domains) => {
            let domains = domains.iter();
            let domains = domains.map(|domain| domain.as_str().unwrap_or_default());
            if domains.len() > rules::MAX_DOMAINS {
                let error = format!("a key may have {} allowed domains", rules::MAX_DOMAINS);
                return Err(Answer::new(422, json!({ "error": error })));
            }
            new = new.origins(OriginPolicy::listed(domains)?);
        }
        _ => {
            let error = "allowed_domains is a list";
            return Err(Answer::new(422, json!({ "error": error })));
        }
    }
    if let Some(powered_by) = flag(&sent, "powered_by")? {
        if !service.may_hide_badge(&person.account)? {
            let error = "the badge can be switched on Pro and Enterprise";
            return Err(Answer::new(403, json!({ "error": error })));
        }
        let own = json!({ "powered_by": powered_by }).to_string();
        new = new.metadata(Metadata::parse(&own)?);
    }
    let created = service.admin.create(&person.actor(), new).await;
    let created = service.named(created, &person).await?;
    Ok(Answer::new(201, revealed(&created)))
}

/// The successor of a key, which lives on for as long as its owner says.
pub(crate) async fn rotate_key(service: Arc<VerifyHuman>, person: Person, call: Call) -> Answered {
    let sent = call.json();
    let grace = match (&sent["overlap_seconds"], sent["overlap_seconds"].as_u64()) {
        (Value::Null, _) => Grace::None,
        (_, Some(seconds)) => Grace::For(Duration::from_secs(seconds)),
        _ => {
            let error = "overlap_seconds is a number";
            return Err(Answer::new(422, json!({ "error": error })));
        }
    };
    let (actor, id) = (person.actor(), key_id(&call)?);
    let created = service.admin.rotate(&actor, id, grace).await;
    let created = service.named(created, &person).await?;
    Ok(Answer::new(201, revealed(&created)))
}

pub(crate) async fn enable_key(service: Arc<VerifyHuman>, person: Person, call: Call) -> Answered {
    let view = service
        .admin
        .enable(&person.actor(), key_id(&call)?)
        .await?;
    Ok(Answer::ok(show(&service, &view)?))
}

pub(crate) async fn analytics(service: Arc<VerifyHuman>, person: Person, _: Call) -> Answered {
    Ok(Answer::ok(usage(&service.admin, &person).await?))
}

pub(crate) async fn show_ledger(service: Arc<VerifyHuman>, person: Person, _: Call) -> Answered {
    let charges = service.ledger.all(person.account.as_str(), "charge")?;
    Ok(Answer::ok(json!({ "charges": charges })))
}

/// Somebody buys credits. It is the service that acts on it, no person.
pub(crate) async fn buy_credits(service: Arc<VerifyHuman>, person: Person, call: Call) -> Answered {
    person.must_have(Permission::Update)?;
    let Some(credits) = call.json()["credits"].as_u64() else {
        return Err(Answer::new(422, json!({ "error": "credits is a number" })));
    };
    let (sales, account) = (Actor::operator("sales"), person.account.clone());
    let balance = Some(Credits::new(credits));
    service.admin.set_credits(&sales, account, balance).await?;
    Ok(Answer::ok(json!({ "credits": credits })))
}

pub(crate) async fn change_plan(service: Arc<VerifyHuman>, person: Person, call: Call) -> Answered {
    person.must_have(Permission::Update)?;
    let plan = call.json()["plan"].as_str().unwrap_or_default().to_owned();
    if !matches!(&*plan, "starter" | "pro" | "enterprise") {
        let error = "plan is starter, pro or enterprise";
        return Err(Answer::new(422, json!({ "error": error })));
    }
    let (sales, change) = (Actor::operator("sales"), rules::plan(&plan));
    service
        .admin
        .update_account(&sales, &person.account, change)
        .await?;
    let bought = json!({ "plan": plan });
    service
        .records
        .add(person.account.as_str(), "plan", bought)?;
    Ok(Answer::ok(json!({ "plan": plan })))
}

/// Where a customer is to be told of what test keys do, or of what live keys do.
pub(crate) async fn create_endpoint(
    service: Arc<VerifyHuman>,
    person: Person,
    call: Call,
) -> Answered {
    let sent = call.json();
    let environment = environment(&sent)?;
    let url = EndpointUrl::parse(sent["url"].as_str().unwrap_or_default())?;
    let (webhooks, actor) = (&service.webhooks.admin, person.actor());
    let created = webhooks
        .create_endpoint(&actor, &person.account, environment, url)
        .await?;
    let (id, secret) = (created.endpoint.id().to_string(), created.secret);
    Ok(Answer::new(
        201,
        json!({ "id": id, "secret": secret.expose_secret() }),
    ))
}

pub(crate) async fn endpoints(service: Arc<VerifyHuman>, person: Person, _: Call) -> Answered {
    let (webhooks, actor) = (&service.webhooks.admin, person.actor());
    let mut shown = Vec::new();
    for endpoint in webhooks.endpoints(&actor, &person.account, None).await? {
        let attempts = service.webhooks.attempts(&actor, endpoint.id()).await?;
        shown.push(json!({
            "id": endpoint.id().to_string(),
            "environment": endpoint.environment().as_str(),
            "url": endpoint.url.as_str(),
            "attempts": attempts,
        }));
    }
    Ok(Answer::ok(json!({ "webhooks": shown })))
}

/// What waits for it is not sent any more.
pub(crate) async fn delete_endpoint(
    service: Arc<VerifyHuman>,
    person: Person,
    call: Call,
) -> Answered {
    let id = EndpointId::parse(call.param("id"))?;
    let webhooks = &service.webhooks.admin;
    webhooks.delete_endpoint(&person.actor(), id).await?;
    Ok(Answer::new(204, Value::Null))
}

impl VerifyHuman {
    /// What came of making a key: where there are too many, how many there may be.
    async fn named<T>(&self, made: Result<T, AdminError>, person: &Person) -> Result<T, Answer> {
        match made {
            Err(error) if error.kind() == AdminErrorKind::TooManyKeys => {
                let sales = Actor::operator("sales");
                let account = self.admin.open_account(&sales, &person.account).await?;
                let bound = account.max_active_keys.unwrap_or(rules::MAX_KEYS);
                let error = format!("an organization may have {bound} active keys");
                Err(Answer::new(409, json!({ "error": error })))
            }
            made => Ok(made?),
        }
    }
}

/// What was chosen, if anything was.
fn flag(sent: &Value, name: &str) -> Result<Option<bool>, Answer> {
    match &sent[name] {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        _ => {
            let error = format!("{name} is true or false");
            Err(Answer::new(422, json!({ "error": error })))
        }
    }
}

fn environment(sent: &Value) -> Result<Environment, Answer> {
    match sent["environment"].as_str() {
        Some("live") => Ok(Environment::LIVE),
        Some("test") => Ok(Environment::TEST),
        _ => Err(Answer::new(
            422,
            json!({ "error": "environment is test or live" }),
        )),
    }
}
