//! Helios Health, an API for a clinic's laboratory; on axum or actix-web, and `SQLite`.
//!
//! ```text
//! cargo run --example helios-health -- --stack actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/helios.db cargo run --example helios-health
//! ```
//!
//! What stands under `/clinic` is no part of Helios: it is the clinic's own server, which is told of
//! results.

mod rules;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use crate::{Answer, Answered, Call, Opened, People, Person, Records, Routes, Setting, Webhooks};
use crate::{error_message_json, line, make, open_account, revealed, shown, text};
use keyward::admin::{AdminError, KeyView};
use keyward::clock::Clock;
use keyward::gate::PerEnvironment;
use keyward::{AccountId, Actor, Environment, Grace, KeyAdmin, NewKey, Permission, Principal};
use keyward_webhooks::WebhookVerifier;
use keyward_webhooks::sealing::SealedSecret;
use keyward_webhooks::send::WebhookEndpoint;
use keyward_webhooks::signature::WebhookSecret;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// What to try, each with the status it gets.
const LINES: &[&str] = &[
    "curl -i {at}/api/v1/agent -H 'x-api-key: {production}' -d '{\"question\":\"Is an HbA1c of 7 high?\"}'  # 201",
    "curl -i {at}/api/v1/agent/1 -H 'x-api-key: {production}'  # 200",
    "curl -i {at}/api/v1/lab-results -H 'x-api-key: {production}' -d '{\"patient\":\"p-17\",\"results\":{\"HbA1c\":5.4}}'  # 201",
    "curl -i {at}/api/v1/lab-results/2 -H 'x-api-key: {production}'  # 200",
    "curl -i {at}/api/v1/agent -X POST  # 401 no key",
    "curl -i {at}/api/v1/agent -X POST -H 'x-api-key: {production}x'  # 401 mistyped",
    "curl -i {at}/api/v1/lab-results/2 -H 'x-api-key: {foreign}'  # 401 another clinic's",
    "curl -i {at}/api/v1/agent -H 'x-api-key: {foreign}' -d '{\"question\":\"Is it high?\"}'  # 201 their own",
    "curl -i {at}/dashboard/keys -u ann:open-sesame  # 200 created, last used",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"Staging API\",\"environment\":\"staging\"}'  # 201 shown once",
    "curl -i {at}/dashboard/usage/production -u ann:open-sesame  # 200",
    "curl -i -X PUT {at}/dashboard/webhooks/production -u ann:open-sesame -d '{\"url\":\"http://{at}/clinic/hook\"}'  # 200",
    "curl -i -X POST {at}/dashboard/webhook-secret/regenerate -u ann:open-sesame  # 201 shown once",
    "curl -i -X DELETE {at}/dashboard/keys/{production.id} -u ann:open-sesame  # 200",
    "curl -i {at}/api/v1/agent -X POST -H 'x-api-key: {production}'  # 401 revoked",
    "curl -i -X DELETE {at}/dashboard/keys -u ann:open-sesame  # 200 all of them",
    "curl -i {at}/api/v1/agent -X POST -H 'x-api-key: {development}'  # 401 revoked",
];

/// Serves it as the command line says.
#[must_use]
pub fn main() -> ExitCode {
    crate::run("helios-health", open, LINES)
}

/// Helios, and the clinic's own server.
struct Helios {
    admin: KeyAdmin,
    /// The secret of an account, and what the clinic keeps.
    records: Arc<Records>,
    patients: PerEnvironment<Arc<Records>>,
    webhooks: Webhooks,
    /// Held by whoever changes a secret or where it is used.
    secrets: Mutex<()>,
    clock: Arc<dyn Clock>,
}

/// Opens Helios for two clinics: one has a key for production and one for development.
///
/// # Errors
/// If the store fails, or the operating system returns no random bytes.
pub async fn open(setting: Setting) -> Result<Opened, Box<dyn Error>> {
    let (gate, admin) = rules::rules(&setting.store)?;
    let clinic = AccountId::parse("st-mary")?;
    let other = AccountId::parse("st-john")?;
    open_account(&admin, &clinic).await?;
    open_account(&admin, &other).await?;
    let new =
        |account: &AccountId, environment, name| NewKey::new(account.clone(), environment, name);
    let production = new(&clinic, Environment::LIVE, "Production API");
    let (production, production_id) = make(&admin, &clinic, production).await?;
    let development = new(&clinic, Environment::TEST, "Development API");
    let (development, development_id) = make(&admin, &clinic, development).await?;
    let (foreign, _) = make(
        &admin,
        &other,
        new(&other, Environment::LIVE, "Production API"),
    )
    .await?;

    let webhooks = Webhooks::new(&setting.store, admin.scheme())?;
    let sending = Some(webhooks.sending());
    let patients = |table| setting.records(table);
    let helios = Helios {
        admin: admin.clone(),
        records: setting.records("helios")?,
        patients: PerEnvironment::new(patients("production")?, patients("development")?)
            .and(environment("staging")?, patients("staging")?),
        webhooks,
        secrets: Mutex::default(),
        clock: setting.clock,
    };
    let endpoint = rules::endpoint;
    let routes = Routes::new(helios, People::new(&clinic, &other), error_message_json)
        .key_page(&admin, show)
        .revoke_key(&admin, show)
        .key("POST /api/v1/agent", &gate, endpoint(), ask_agent)
        .key("GET /api/v1/agent/{id}", &gate, endpoint(), asked)
        .key("POST /api/v1/lab-results", &gate, endpoint(), add_results)
        .key("GET /api/v1/lab-results/{id}", &gate, endpoint(), results)
        .dashboard("POST /dashboard/keys", create_key)
        .dashboard("DELETE /dashboard/keys", revoke_all)
        .dashboard("GET /dashboard/usage/{environment}", show_usage)
        .dashboard("PUT /dashboard/webhooks/{environment}", set_url)
        .dashboard("GET /dashboard/webhooks/{environment}", view_url)
        .dashboard("POST /dashboard/webhook-secret", generate_secret)
        .dashboard(
            "POST /dashboard/webhook-secret/regenerate",
            regenerate_secret,
        )
        .dashboard("GET /dashboard/webhook-secret", view_secret)
        .open("PUT /clinic/secret", learn_secret)
        .open("POST /clinic/hook", be_told)
        .open("GET /clinic/told", told);
    Ok(Opened {
        routes: routes.all(),
        names: vec![
            ("production", production),
            ("production.id", production_id),
            ("development", development),
            ("development.id", development_id),
            ("foreign", foreign),
        ],
        sending,
    })
}

/// The environment that customers call so.
fn environment(name: &str) -> Result<Environment, keyward::error::ParseError> {
    match name {
        "production" => Ok(Environment::LIVE),
        "development" => Ok(Environment::TEST),
        own => Environment::parse(own),
    }
}

/// What customers call an environment.
fn named(environment: Environment) -> String {
    match environment {
        Environment::LIVE => "production".to_owned(),
        Environment::TEST => "development".to_owned(),
        own => own.to_string(),
    }
}

/// A key, of the environment that was chosen for it.
#[expect(clippy::unnecessary_wraps, reason = "others may fail to show a key")]
fn show(_: &Helios, view: &KeyView) -> Result<Value, Answer> {
    let mut key = shown(view);
    key["environment"] = json!(named(view.record.environment));
    Ok(key)
}

fn asked_for(name: &str) -> Result<Environment, Answer> {
    if !matches!(name, "production" | "staging" | "development") {
        let error = "environment is development, staging or production";
        return Err(Answer::new(422, json!({ "error": error })));
    }
    Ok(environment(name)?)
}

/// Answers a question, always alike.
async fn ask_agent(helios: Arc<Helios>, who: Principal, call: Call) -> Answered {
    let Some(question) = text(&call.json()["question"]).map(str::to_owned) else {
        return Err(bad("Send a question as JSON"));
    };
    let line = json!({ "question": question, "answer": "Ask your doctor." });
    let patients = helios.patients(&who)?;
    Ok(Answer::new(
        201,
        patients.add(who.account().as_str(), "question", line)?,
    ))
}

async fn asked(helios: Arc<Helios>, who: Principal, call: Call) -> Answered {
    helios.find(&who, "question", call.param("id"))
}

/// Stores results, and tells the clinic.
async fn add_results(helios: Arc<Helios>, who: Principal, call: Call) -> Answered {
    let sent = call.json();
    let results = sent["results"]
        .as_object()
        .filter(|results| !results.is_empty());
    let (Some(patient), Some(results)) = (line(&sent["patient"]), results) else {
        return Err(bad("Send a patient and results as JSON"));
    };
    let line = json!({ "patient": patient, "results": results });
    let account = who.account().as_str();
    let line = helios.patients(&who)?.add(account, "results", line)?;
    let environment = who.environment();
    let event =
        json!({ "type": "results.stored", "id": line["id"], "environment": named(environment) });
    helios
        .webhooks
        .tell(who.account(), environment, &event)
        .await?;
    Ok(Answer::new(201, line))
}

async fn results(helios: Arc<Helios>, who: Principal, call: Call) -> Answered {
    helios.find(&who, "results", call.param("id"))
}

async fn create_key(helios: Arc<Helios>, person: Person, call: Call) -> Answered {
    let sent = call.json();
    let environment = match &sent["environment"] {
        Value::Null => Environment::LIVE,
        name => asked_for(name.as_str().unwrap_or_default())?,
    };
    let name = sent["name"].as_str().unwrap_or_default();
    let new = NewKey::new(person.account.clone(), environment, name);
    let created = helios.admin.create(&person.actor(), new).await?;
    Ok(Answer::new(201, revealed(&created)))
}

async fn revoke_all(helios: Arc<Helios>, person: Person, _: Call) -> Answered {
    let (actor, account) = (person.actor(), &person.account);
    helios
        .admin
        .revoke_all(&actor, account, None, "emergency")
        .await?;
    Ok(Answer::ok(json!({ "revoked": "all" })))
}

async fn show_usage(helios: Arc<Helios>, person: Person, call: Call) -> Answered {
    let environment = asked_for(call.param("environment"))?;
    let ever = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + helios.clock.unix();
    let (actor, account) = (person.actor(), &person.account);
    let hours = helios
        .admin
        .usage(&actor, account, Some(environment), ever)
        .await?;
    let requests: u64 = hours.iter().map(|hour| hour.counts.admitted).sum();
    Ok(Answer::ok(json!({ "requests": requests })))
}

/// Results of this environment are told there, signed with the one secret of the account.
async fn set_url(helios: Arc<Helios>, person: Person, call: Call) -> Answered {
    let environment = asked_for(call.param("environment"))?;
    let sent = call.json();
    let url = sent["url"].as_str().unwrap_or_default();
    let _changing = helios.secrets.lock().await;
    let (actor, account) = (person.actor(), &person.account);
    let webhooks = &helios.webhooks;
    let (endpoint, own) = webhooks.set_url(&actor, account, environment, url).await?;
    if own.is_some()
        && let Some(secret) = helios.secret(account.as_str())?
    {
        helios.use_secret(&endpoint, &secret).await?;
    }
    Ok(Answer::ok(json!({ "url": endpoint.url.as_str() })))
}

async fn view_url(helios: Arc<Helios>, person: Person, call: Call) -> Answered {
    let environment = asked_for(call.param("environment"))?;
    let (webhooks, actor) = (&helios.webhooks, person.actor());
    let found = webhooks.endpoint(&actor, &person.account, environment);
    let missing = Answer::new(404, json!({ "error": "no such webhook" }));
    let endpoint = found.await?.ok_or(missing)?;
    let attempts = webhooks.attempts(&actor, endpoint.id()).await?;
    let url = endpoint.url.as_str();
    Ok(Answer::ok(json!({ "url": url, "attempts": attempts })))
}

async fn generate_secret(helios: Arc<Helios>, person: Person, _: Call) -> Answered {
    person.must_have(Permission::ManageWebhooks)?;
    let _changing = helios.secrets.lock().await;
    if helios.secret(person.account.as_str())?.is_some() {
        let error = "there is a secret: regenerate it";
        return Err(Answer::new(409, json!({ "error": error })));
    }
    helios.new_secret(&person).await
}

/// The old one is void at once.
async fn regenerate_secret(helios: Arc<Helios>, person: Person, _: Call) -> Answered {
    person.must_have(Permission::ManageWebhooks)?;
    let _changing = helios.secrets.lock().await;
    helios.new_secret(&person).await
}

async fn view_secret(helios: Arc<Helios>, person: Person, _: Call) -> Answered {
    let set = helios.secret(person.account.as_str())?.is_some();
    Ok(Answer::ok(json!({ "set": set })))
}

/// The clinic writes down what Helios has shown it.
async fn learn_secret(helios: Arc<Helios>, call: Call) -> Answered {
    let secret = json!({ "secret": call.json()["secret"] });
    helios.records.add("", "learned", secret)?;
    Ok(Answer::new(204, Value::Null))
}

/// The clinic believes what is signed, and nothing else.
async fn be_told(helios: Arc<Helios>, call: Call) -> Answered {
    let learned = helios.records.all("", "learned")?;
    let secret = learned.last().and_then(|line| line["secret"].as_str());
    let now = SystemTime::UNIX_EPOCH + helios.clock.unix();
    let verifier = WebhookVerifier::standard(secret.unwrap_or_default());
    if !verifier.is_ok_and(|own| own.verify(&call, &call.body, now).is_ok()) {
        return Err(Answer::new(401, json!({ "error": "not from Helios" })));
    }
    helios
        .records
        .add("", "told", json!({ "event": call.json() }))?;
    Ok(Answer::new(204, Value::Null))
}

async fn told(helios: Arc<Helios>, _: Call) -> Answered {
    let told = helios.records.all("", "told")?.into_iter();
    let told: Value = told.map(|mut line| line["event"].take()).collect();
    Ok(Answer::ok(json!({ "told": told })))
}

/// What a key gets from a different account than the data's: the same as one that is not valid.
fn foreign() -> Answer {
    let challenge = r#"ApiKey realm="api", error="invalid_token""#;
    Answer::new(401, error_message_json("Unauthorized", rules::REFUSED))
        .field("www-authenticate", challenge)
        .unkept()
}

fn bad(message: &str) -> Answer {
    Answer::new(400, error_message_json("Bad Request", message))
}

impl Helios {
    fn patients(&self, who: &Principal) -> Result<&Records, Answer> {
        let own = self.patients.of(who).map(|records| &**records);
        own.ok_or(Answer::new(500, json!({ "error": "no such environment" })))
    }

    fn find(&self, who: &Principal, kind: &str, id: &str) -> Answered {
        let patients = self.patients(who)?;
        match patients.owner(kind, id)? {
            Some(owner) if owner != who.account().as_str() => Err(foreign()),
            _ => {
                let found = patients.one(who.account().as_str(), kind, id)?;
                let error = error_message_json("Not Found", "There is no such thing");
                Ok(Answer::ok(found.ok_or(Answer::new(404, error))?))
            }
        }
    }

    /// The secret of an account: the last that was made.
    fn secret(&self, account: &str) -> Result<Option<WebhookSecret>, Answer> {
        let all = self.records.all(account, "secret")?;
        let Some(sealed) = all.last().and_then(|line| line["sealed"].as_str()) else {
            return Ok(None);
        };
        let sealed = SealedSecret::parse(sealed)?;
        Ok(Some(self.webhooks.sealing.open(&sealed, account)?))
    }

    /// Signs with a new secret in all environments.
    async fn new_secret(&self, person: &Person) -> Answered {
        let (actor, account) = (person.actor(), person.account.as_str());
        let secret = WebhookSecret::random()?;
        let admin = &self.webhooks.admin;
        for endpoint in admin.endpoints(&actor, &person.account, None).await? {
            self.use_secret(&endpoint, &secret).await?;
        }
        let sealed = self.webhooks.sealing.seal(&secret, account)?;
        let line = json!({ "sealed": sealed.to_string() });
        self.records.add(account, "secret", line)?;
        let secret = secret.expose_secret();
        Ok(Answer::new(201, json!({ "secret": secret })))
    }

    async fn use_secret(
        &self,
        endpoint: &WebhookEndpoint,
        secret: &WebhookSecret,
    ) -> Result<(), AdminError> {
        let (admin, helios) = (&self.webhooks.admin, Actor::operator("webhooks"));
        let used = admin.import_secret(&helios, endpoint.id(), secret, Grace::None);
        used.await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printed_line_gets_the_status_it_says_and_again_after_a_restart() {
        crate::check(open, LINES);
    }
}
