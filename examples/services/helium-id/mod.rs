//! Helium Id, which tells who somebody is; on axum or actix-web, and `SQLite`.
//!
//! ```text
//! cargo run --example helium-id -- --stack actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/helium-id.db cargo run --example helium-id
//! ```
//!
//! What stands under `/platform` is no part of Helium Id: it is a customer's own server, which has its
//! users verified and is told how that went.

mod dashboard;
mod flow;
mod hook;
mod platform;
mod rules;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use crate::{Answer, Answered, Call, Opened, People, Records, Routes, Setting, Webhooks};
use crate::{error_json, line, make, open_account, plain, revealed};
use axum::http::{HeaderValue, Uri};
use keyward::clock::Clock;
use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyScheme, NewKey, Principal};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use self::dashboard::{
    add_key, decide, integrate, integration, integrations, set_url, show_usage, test_webhook,
    view_webhook,
};
use self::platform::{Platform, be_told, register, user, verify_user};

/// What to try, each with the status it gets.
const LINES: &[&str] = &[
    "curl -i {at}/v1/sessions -H 'X-API-Key: {test}' -d '{\"person\":\"ida\",\"callback\":\"http://{at}/platform/users/ida\"}'  # 201 a link",
    "curl -i {at}/flow/test/1  # 200 a page for her browser",
    "curl -i -X POST {at}/flow/test/1  # 303 she has shown her passport",
    "curl -i {at}/v1/sessions/1 -H 'X-API-Key: {test}'  # 200 submitted, or decided before",
    "curl -i {at}/dashboard/sessions/test/1/decision -u ann:open-sesame -d '{\"decision\":\"approved\"}'  # 200 by hand",
    "curl -i {at}/platform/users/ida  # 200 she may come in",
    "curl -i {at}/v1/sessions -H 'X-API-Key: {live}' -d '{\"person\":\"ole\",\"callback\":\"http://{at}/platform/users/ole\"}'  # 201",
    "curl -i {at}/flow/live/1 -d document=blurred  # 303 decided at once: she has to try again",
    "curl -i {at}/flow/live/1 -d document=passport  # 303 approved",
    "curl -i {at}/platform/users/ole  # 200",
    "curl -i {at}/dashboard/sessions/live/1/decision -u ann:open-sesame -d '{\"decision\":\"declined\"}'  # 409 by Helium Id alone",
    "curl -i {at}/v1/sessions/1 -H 'X-API-Key: {live}x'  # 401",
    "curl -i {at}/dashboard/usage -u ann:open-sesame  # 200 live sessions only",
    "curl -i {at}/dashboard/integrations -u ann:open-sesame  # 200",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"Shop\",\"type\":\"live\"}'  # 201 its webhook works",
    "curl -i {at}/dashboard/keys -u eve:open-sesame -d '{\"name\":\"Shop\",\"type\":\"live\"}'  # 422 hers does not",
    "curl -i {at}/dashboard/webhooks/test/test -u ann:open-sesame -d '{\"wrong\":\"signature\"}'  # 200 refused by the platform",
];

/// Serves it as the command line says.
#[must_use]
pub fn main() -> ExitCode {
    crate::run("helium-id", open, LINES)
}

/// Helium Id, and the server of its customer.
struct HeliumId {
    admin: KeyAdmin,
    /// Integrations, the keys of webhooks, and what has been used.
    records: Arc<Records>,
    live_sessions: Arc<Records>,
    test_sessions: Arc<Records>,
    webhooks: Webhooks,
    /// Held by whoever signs up.
    signing_up: Mutex<()>,
    clock: Arc<dyn Clock>,
    address: String,
    platform: Platform,
}

/// Opens Helium Id for one customer, who has a test and a live integration, and one who has no webhook.
///
/// # Errors
/// If the store fails, or the operating system returns no random bytes.
pub async fn open(setting: Setting) -> Result<Opened, Box<dyn Error>> {
    let (gate, admin) = rules::rules(setting.store.clone())?;
    let acme = AccountId::parse("acme")?;
    let other = AccountId::parse("globex")?;
    open_account(&admin, &acme).await?;
    open_account(&admin, &other).await?;
    let records = setting.records("helium_id")?;
    let webhooks = webhooks(&setting, admin.scheme(), &records)?;
    let sending = Some(webhooks.sending());

    let address = setting.address.to_string();
    let (_, test_secret) = register(&webhooks, &acme, Environment::TEST, &address).await?;
    let (live_hook, live_secret) = register(&webhooks, &acme, Environment::LIVE, &address).await?;
    let hook_key = hook::key_of(&acme, &records, &webhooks.sealing)?;
    let receiver = rules::receiver(
        hook_key.expose_secret(),
        [test_secret.expose_secret(), live_secret.expose_secret()],
        Arc::clone(&setting.clock),
    )?;

    let new = |environment, name| NewKey::new(acme.clone(), environment, name);
    let (test, test_id) = make(&admin, &acme, new(Environment::TEST, "Test integration")).await?;
    integrate(&records, "acme", "Test integration", "test", &test_id)?;
    let helium = HeliumId {
        admin: admin.clone(),
        records: Arc::clone(&records),
        live_sessions: setting.records("live_sessions")?,
        test_sessions: setting.records("test_sessions")?,
        webhooks: webhooks.clone(),
        signing_up: Mutex::default(),
        clock: setting.clock.clone(),
        address,
        platform: Platform {
            users: setting.records("platform")?,
            key: test.clone(),
        },
    };
    let routes = Routes::new(helium, People::new(&acme, &other), error_json)
        .key_page(&admin, plain)
        .revoke_key(&admin, plain)
        .key("POST /v1/sessions", &gate, rules::session(), create_session)
        .key("GET /v1/sessions/{id}", &gate, rules::session(), session)
        .open("GET /flow/{type}/{id}", show_flow)
        .open("POST /flow/{type}/{id}", complete)
        .open("POST /sign-up", sign_up)
        .dashboard("POST /dashboard/keys", add_key)
        .dashboard("GET /dashboard/integrations", integrations)
        .dashboard("GET /dashboard/integrations/{id}", integration)
        .dashboard("PUT /dashboard/webhooks/{type}", set_url)
        .dashboard("GET /dashboard/webhooks/{type}", view_webhook)
        .dashboard("POST /dashboard/webhooks/{type}/test", test_webhook)
        .dashboard("POST /dashboard/sessions/{type}/{id}/decision", decide)
        .dashboard("GET /dashboard/usage", show_usage)
        .webhook("POST /platform/hook", receiver, be_told)
        .open("POST /platform/users/{name}", verify_user)
        .open("GET /platform/users/{name}", user)
        .all();

    let operator = Actor::operator("start");
    webhooks.works_in(&routes, &operator, live_hook).await?;
    let (live, live_id) = make(&admin, &acme, new(Environment::LIVE, "Production")).await?;
    integrate(&records, "acme", "Production", "live", &live_id)?;
    let theirs = NewKey::new(other.clone(), Environment::TEST, "Test integration");
    let (foreign, theirs) = make(&admin, &other, theirs).await?;
    integrate(&records, "globex", "Test integration", "test", &theirs)?;
    Ok(Opened {
        routes,
        names: vec![
            ("test", test),
            ("test.id", test_id),
            ("live", live),
            ("live.id", live_id),
            ("foreign", foreign),
        ],
        sending,
    })
}

/// Webhooks that come with their account's key.
fn webhooks(
    setting: &Setting,
    scheme: &KeyScheme,
    records: &Arc<Records>,
) -> Result<Webhooks, Box<dyn Error>> {
    let webhooks = Webhooks::new(&setting.store, scheme)?;
    let (records, sealing) = (Arc::clone(records), webhooks.sealing.clone());
    Ok(webhooks.with_key(move |account| {
        let key = hook::key_of(account, &records, &sealing).ok()?;
        let mut key = HeaderValue::from_str(key.expose_secret()).ok()?;
        key.set_sensitive(true);
        Some(key)
    }))
}

/// The environment of a sort of keys.
fn of_type(name: &str) -> Result<Environment, Answer> {
    match name {
        "live" => Ok(Environment::LIVE),
        "test" => Ok(Environment::TEST),
        _ => Err(Answer::new(422, json!({ "error": "type is test or live" }))),
    }
}

fn no_session() -> Answer {
    Answer::new(404, json!({ "error": "no such session" }))
}

async fn create_session(helium: Arc<HeliumId>, who: Principal, call: Call) -> Answered {
    let sent = call.json();
    let person = line(&sent["person"]).filter(|person| person.len() <= 100);
    // It becomes a field: ASCII, as URLs are.
    let callback = line(&sent["callback"]).filter(|callback| {
        let url = callback.parse::<Uri>().unwrap_or_default();
        callback.is_ascii() && matches!(url.scheme_str(), Some("http" | "https"))
    });
    let (Some(person), Some(callback)) = (person, callback) else {
        let error = "a session has a person and a callback, which is a URL";
        return Err(Answer::new(422, json!({ "error": error })));
    };
    helium.must_tell(who.account(), who.environment()).await?;
    let (account, sessions) = (who.account().as_str(), helium.sessions(who.environment()));
    let session = json!({ "person": person, "callback": callback, "status": "created" });
    let session = sessions.add(account, "session", session)?;
    Ok(Answer::new(201, helium.linked(session, who.environment())))
}

async fn session(helium: Arc<HeliumId>, who: Principal, call: Call) -> Answered {
    let (account, sessions) = (who.account().as_str(), helium.sessions(who.environment()));
    let found = sessions.one(account, "session", call.param("id"))?;
    let session = found.ok_or_else(no_session)?;
    Ok(Answer::ok(helium.linked(session, who.environment())))
}

/// Where the link of a session leads: the end-user shows a document, in her browser.
async fn show_flow(helium: Arc<HeliumId>, call: Call) -> Answered {
    let (environment, id) = (of_type(call.param("type"))?, call.param("id"));
    let sessions = helium.sessions(environment);
    let account = sessions.owner("session", id)?.ok_or_else(no_session)?;
    let session = sessions.one(&account, "session", id)?;
    Ok(Answer::page(flow::page(&session.ok_or_else(no_session)?)))
}

/// The end-user is done, and goes back to where she came from. Whoever knows the link can say so: that of
/// a real service holds more than a number.
async fn complete(helium: Arc<HeliumId>, call: Call) -> Answered {
    let id = call.param("id");
    let environment = of_type(call.param("type"))?;
    let decision = flow::decision(&call)?;
    let sessions = helium.sessions(environment);
    let account = sessions.owner("session", id)?.ok_or_else(no_session)?;
    let account = AccountId::parse(&account)?;
    helium.must_tell(&account, environment).await?;
    let (mut is_first, mut is_open) = (false, false);
    let session = sessions.change(account.as_str(), "session", id, |session| {
        is_first = session["status"] == "created";
        is_open = flow::is_open(session);
        if is_open {
            session["status"] = match environment {
                Environment::LIVE => json!(decision),
                _ => json!("submitted"),
            };
        }
    })?;
    let session = session.unwrap_or_default();
    // Of several forms that come at once, one is decided.
    if environment == Environment::LIVE && is_open {
        // A session is paid for once, however often she has to try.
        if is_first {
            let used = json!({ "session": id });
            helium.records.add(account.as_str(), "used", used)?;
        }
        helium.tell(&account, environment, &session).await?;
    }
    let callback = session["callback"].as_str().unwrap_or_default();
    Ok(Answer::new(303, Value::Null).field("location", callback))
}

/// An account, and the test integration that every account has. Whoever is called like it signs in to it.
async fn sign_up(helium: Arc<HeliumId>, call: Call) -> Answered {
    let account = AccountId::parse(call.json()["account"].as_str().unwrap_or_default())?;
    let _alone = helium.signing_up.lock().await;
    let integrations = helium.records.all(account.as_str(), "integration")?;
    if !integrations.is_empty() {
        let error = "there is such an account";
        return Err(Answer::new(409, json!({ "error": error })));
    }
    let operator = Actor::operator("sign-up");
    helium.admin.open_account(&operator, &account).await?;
    let name = "Test integration";
    let new = NewKey::new(account.clone(), Environment::TEST, name);
    let created = helium.admin.create(&operator, new).await?;
    let id = created.record.id.to_string();
    integrate(&helium.records, account.as_str(), name, "test", &id)?;
    Ok(Answer::new(201, revealed(&created)).unkept())
}

impl HeliumId {
    /// The sessions of a sort of keys.
    fn sessions(&self, environment: Environment) -> &Records {
        match environment {
            Environment::LIVE => &self.live_sessions,
            _ => &self.test_sessions,
        }
    }

    /// A session, with where its person goes to be verified.
    fn linked(&self, mut session: Value, environment: Environment) -> Value {
        let (at, id) = (&self.address, session["id"].to_string());
        session["link"] = json!(format!("http://{at}/flow/{environment}/{id}"));
        session
    }

    /// Live sessions are there only while their customer can be told of them: it is asked now.
    async fn must_tell(&self, account: &AccountId, environment: Environment) -> Result<(), Answer> {
        if environment != Environment::LIVE {
            return Ok(());
        }
        let operator = Actor::operator("sessions");
        let webhooks = &self.webhooks;
        let endpoint = webhooks.endpoint(&operator, account, environment).await?;
        if let Some(endpoint) = endpoint
            && webhooks.works(&operator, endpoint.id()).await?
        {
            return Ok(());
        }
        let error = "a live session needs a webhook that works: see /dashboard/webhooks/live";
        Err(Answer::new(409, json!({ "error": error })))
    }

    /// Writes a decision down, and tells the customer.
    async fn conclude(
        &self,
        account: &AccountId,
        environment: Environment,
        id: &str,
        decision: &str,
    ) -> Result<Value, Answer> {
        let sessions = self.sessions(environment);
        let session = sessions.change(account.as_str(), "session", id, |session| {
            session["status"] = json!(decision);
        })?;
        let session = session.ok_or_else(no_session)?;
        self.tell(account, environment, &session).await?;
        Ok(self.linked(session, environment))
    }

    /// Tells the customer what was decided.
    async fn tell(
        &self,
        account: &AccountId,
        environment: Environment,
        session: &Value,
    ) -> Result<(), Answer> {
        let event = json!({
            "type": "decision",
            "session": session["id"],
            "person": session["person"],
            "decision": session["status"],
        });
        self.webhooks.tell(account, environment, &event).await
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
