//! Helium Id, which tells who somebody is; on axum or actix-web, and `SQLite`.
//!
//! ```text
//! cargo run --example helium-id -- --stack actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/helium-id.db cargo run --example helium-id
//! ```
//!
//! What stands under `/platform` is no part of Helium Id: it is a customer's own server, which has its
//! users verified and is told how that went.

mod hook;
mod platform;
mod rules;

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use keyward::{
    AccountId, Clock, Environment, KeyAdmin, KeyId, NewKey, PerEnvironment, Permission, Principal,
    WebhookId, WebhookSigner,
};
use serde_json::{Value, json};
use services::{
    Answer, Answered, Call, KeyPage, Opened, People, Person, Recorded, Records, Routes, Setting,
};
use services::{deliver, make, revealed, shown, start_over};

use self::hook::Hook;
use self::platform::{Platform, be_told, user, verify_user};

/// What to try, each with the status it gets.
const LINES: &[&str] = &[
    "curl -i {at}/v1/sessions -H 'X-API-Key: {test}' -d '{\"person\":\"ida\",\"callback\":\"http://{at}/platform/users/ida\"}'  # 201 a link",
    "curl -i -X POST {at}/flow/test/1  # 303 she has shown her passport",
    "curl -i {at}/v1/sessions/1 -H 'X-API-Key: {test}'  # 200 submitted, or decided before",
    "curl -i {at}/dashboard/sessions/test/1/decision -u ann:open-sesame -d '{\"decision\":\"approved\"}'  # 200 by hand",
    "curl -i {at}/platform/users/ida  # 200 she may come in",
    "curl -i {at}/v1/sessions -H 'X-API-Key: {live}' -d '{\"person\":\"ole\",\"callback\":\"http://{at}/platform/users/ole\"}'  # 201",
    "curl -i -X POST {at}/flow/live/1  # 303 decided at once",
    "curl -i {at}/platform/users/ole  # 200",
    "curl -i {at}/dashboard/sessions/live/1/decision -u ann:open-sesame -d '{\"decision\":\"declined\"}'  # 409 by Helium Id alone",
    "curl -i {at}/v1/sessions/1 -H 'X-API-Key: {live}x'  # 401",
    "curl -i {at}/dashboard/usage -u ann:open-sesame  # 200 live sessions only",
    "curl -i {at}/dashboard/integrations -u ann:open-sesame  # 200",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"Shop\",\"type\":\"live\"}'  # 201 its webhook works",
    "curl -i {at}/dashboard/keys -u eve:open-sesame -d '{\"name\":\"Shop\",\"type\":\"live\"}'  # 422 hers does not",
    "curl -i {at}/dashboard/webhook/test -u ann:open-sesame -d '{\"wrong\":\"signature\"}'  # 200 refused by the platform",
];

fn main() -> Result<(), Box<dyn Error>> {
    services::run("helium-id", open, LINES)
}

/// Helium Id, and the server of its customer.
struct HeliumId {
    admin: KeyAdmin,
    people: People,
    /// Integrations, webhook URLs, and what has been used.
    records: Records,
    sessions: PerEnvironment<Arc<Records>>,
    live: Arc<Records>,
    test: Arc<Records>,
    clock: Arc<dyn Clock>,
    address: String,
    platform: Platform,
}

/// Opens Helium Id for one customer, who has a test and a live integration, and one who has no webhook.
pub(crate) async fn open(setting: Setting) -> Result<Opened, Box<dyn Error>> {
    let (gate, admin) = rules::rules(setting.store()?)?;
    let acme = AccountId::parse("acme")?;
    let other = AccountId::parse("globex")?;
    start_over(&admin, &acme).await?;
    start_over(&admin, &other).await?;
    let path = &setting.database;
    let records = Records::open(path, "helium_id")?;
    let new = |environment, name| NewKey::new(acme.clone(), environment, name);
    let (test, test_id) = make(&admin, new(Environment::TEST, "Test integration")).await?;
    let (live, live_id) = make(&admin, new(Environment::LIVE, "Production")).await?;
    integrate(&records, "acme", "Test integration", "test", &test_id)?;
    integrate(&records, "acme", "Production", "live", &live_id)?;
    let theirs = NewKey::new(other.clone(), Environment::TEST, "Test integration");
    let (_, theirs) = make(&admin, theirs).await?;
    integrate(&records, "globex", "Test integration", "test", &theirs)?;
    let address = setting.address.to_string();
    let url = json!({ "url": format!("http://{address}/platform/hook") });
    records.add("acme", "url", url)?;

    let hook = Hook::of(&records, "acme")?;
    let (key, secret) = (hook.key.expose_secret(), hook.secret.expose_secret());
    let receiver = rules::receiver(key, secret, Arc::clone(&setting.clock))?;
    let [live_sessions, test_sessions] =
        ["live_sessions", "test_sessions"].map(|table| Records::open(path, table).map(Arc::new));
    let (live_sessions, test_sessions) = (live_sessions?, test_sessions?);
    let helium = HeliumId {
        admin,
        people: People::default().and("ann", &acme, &Permission::ALL).and(
            "eve",
            &other,
            &Permission::ALL,
        ),
        records,
        sessions: PerEnvironment::new(Arc::clone(&live_sessions), Arc::clone(&test_sessions)),
        live: live_sessions,
        test: test_sessions,
        clock: setting.clock,
        address,
        platform: Platform {
            users: Records::open(path, "platform")?,
            key: test.clone(),
        },
    };
    let routes = Routes::new(helium)
        .key("POST /v1/sessions", &gate, rules::session(), create_session)
        .key("GET /v1/sessions/{id}", &gate, rules::session(), session)
        .open("POST /flow/{environment}/{id}", complete)
        .open("POST /sign-up", sign_up)
        .dashboard("POST /dashboard/keys", add_key)
        .dashboard("GET /dashboard/integrations", integrations)
        .dashboard("GET /dashboard/integrations/{id}", integration)
        .dashboard("PUT /dashboard/webhook", set_url)
        .dashboard("POST /dashboard/webhook/test", test_webhook)
        .dashboard(
            "POST /dashboard/sessions/{environment}/{id}/decision",
            decide,
        )
        .dashboard("GET /dashboard/usage", show_usage)
        .webhook("POST /platform/hook", receiver, be_told)
        .open("POST /platform/users/{name}", verify_user)
        .open("GET /platform/users/{name}", user);
    Ok(Opened {
        routes: HeliumId::key_page(routes).all(),
        names: vec![
            ("test", test),
            ("test.id", test_id),
            ("live", live),
            ("live.id", live_id),
        ],
    })
}

/// Notes an integration with its key, in the place of the one that had the name.
fn integrate(
    records: &Records,
    account: &str,
    name: &str,
    of_type: &str,
    key: &str,
) -> Recorded<Value> {
    let all = records.all(account, "integration")?;
    let same = all
        .into_iter()
        .find(|own| own["name"] == name && own["type"] == of_type);
    let Some(mut same) = same else {
        let own = json!({ "name": name, "type": of_type, "key": key });
        return records.add(account, "integration", own);
    };
    same["key"] = json!(key);
    records.replace(account, "integration", &same)?;
    Ok(same)
}

async fn create_session(helium: Arc<HeliumId>, who: Principal, call: Call) -> Answered {
    let sent = call.json();
    let (Some(person), Some(callback)) = (sent["person"].as_str(), sent["callback"].as_str())
    else {
        return Err(Answer::new(
            422,
            json!({ "error": "a session has a person and a callback" }),
        ));
    };
    let sessions = helium.sessions(&who)?;
    let session = json!({ "person": person, "callback": callback, "status": "created" });
    let mut session = sessions.add(who.account().as_str(), "session", session)?;
    let (at, environment) = (&helium.address, who.environment());
    session["link"] = json!(format!("http://{at}/flow/{environment}/{}", session["id"]));
    sessions.replace(who.account().as_str(), "session", &session)?;
    Ok(Answer::new(201, session))
}

async fn session(helium: Arc<HeliumId>, who: Principal, call: Call) -> Answered {
    let account = who.account().as_str();
    let found = helium
        .sessions(&who)?
        .one(account, "session", call.param("id"))?;
    Ok(Answer::ok(found.ok_or(Answer::new(
        404,
        json!({ "error": "no such session" }),
    ))?))
}

/// The end-user is done, and goes back to where she came from.
async fn complete(helium: Arc<HeliumId>, call: Call) -> Answered {
    let (environment, id) = (call.param("environment"), call.param("id"));
    let unknown = || Answer::new(404, json!({ "error": "no such session" }));
    let sessions = helium.sessions_of(environment)?;
    let account = sessions.owner("session", id)?.ok_or_else(unknown)?;
    let mut session = sessions.one(&account, "session", id)?.ok_or_else(unknown)?;
    if session["status"] == "created" {
        session["status"] = json!("submitted");
        sessions.replace(&account, "session", &session)?;
        if environment == "live" {
            let used = json!({ "session": session["id"] });
            helium.records.add(&account, "used", used)?;
            // Everybody who comes this far is approved: the example looks at no passport.
            helium
                .conclude(&account, environment, session.clone(), "approved")
                .await?;
        }
    }
    let callback = session["callback"].as_str().unwrap_or_default();
    Ok(Answer::new(303, Value::Null).field("location", callback))
}

/// An account, and the test integration that every account has.
async fn sign_up(helium: Arc<HeliumId>, call: Call) -> Answered {
    let account = AccountId::parse(call.json()["account"].as_str().unwrap_or_default())?;
    let integrations = helium.records.all(account.as_str(), "integration")?;
    if !integrations.is_empty() {
        return Err(Answer::new(
            409,
            json!({ "error": "there is such an account" }),
        ));
    }
    start_over(&helium.admin, &account).await?;
    let new = NewKey::new(account.clone(), Environment::TEST, "Test integration");
    let (key, id) = make(&helium.admin, new).await?;
    let mut own = integrate(
        &helium.records,
        account.as_str(),
        "Test integration",
        "test",
        &id,
    )?;
    own["key"] = json!(key); // this once, and what its webhooks will come with
    let hook = helium.hook(account.as_str())?;
    let (key, secret) = (hook.key.expose_secret(), hook.secret.expose_secret());
    own["webhooks"] = json!({ "key": key, "secret": secret });
    Ok(Answer::new(201, own))
}

/// A key, with an integration of its own.
async fn add_key(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let sent = call.json();
    let account = person.account.as_str();
    let environment = match sent["type"].as_str() {
        Some("test") => Environment::TEST,
        Some("live") => {
            if !helium.webhook_works(account).await? {
                let error = "a live key requires a working webhook URL";
                return Err(Answer::new(422, json!({ "error": error })));
            }
            Environment::LIVE
        }
        _ => return Err(Answer::new(422, json!({ "error": "type is test or live" }))),
    };
    let name = sent["name"].as_str().unwrap_or_default();
    let new = NewKey::new(person.account.clone(), environment, name);
    let created = helium.admin.create(&person.actor(), new).await?;
    let id = created.record.id.to_string();
    integrate(&helium.records, account, name, environment.as_str(), &id)?;
    Ok(Answer::new(201, revealed(&created)))
}

async fn integrations(helium: Arc<HeliumId>, person: Person, _: Call) -> Answered {
    let all = helium.records.all(person.account.as_str(), "integration")?;
    Ok(Answer::ok(json!({ "integrations": all })))
}

/// Its details, and its key.
async fn integration(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let account = person.account.as_str();
    let found = helium
        .records
        .one(account, "integration", call.param("id"))?;
    let mut own = found.ok_or(Answer::new(404, json!({ "error": "no such integration" })))?;
    let key = KeyId::parse(own["key"].as_str().unwrap_or_default())?;
    own["key"] = shown(&helium.admin.key(&person.actor(), key).await?);
    Ok(Answer::ok(own))
}

async fn set_url(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let url = call.json()["url"].as_str().unwrap_or_default().to_owned();
    let line = json!({ "url": url });
    helium.records.add(person.account.as_str(), "url", line)?;
    let works = helium.webhook_works(person.account.as_str()).await?;
    Ok(Answer::ok(json!({ "url": url, "works": works })))
}

/// Sends a webhook with something wrong about it, and says what the customer's server makes of it.
async fn test_webhook(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let wrong = call.json()["wrong"]
        .as_str()
        .unwrap_or("nothing")
        .to_owned();
    let event = if wrong == "json" {
        "{\"type\":"
    } else {
        "{\"type\":\"ping\"}"
    };
    let status = helium.send(person.account.as_str(), event, &wrong).await?;
    Ok(Answer::ok(json!({ "wrong": wrong, "answered": status })))
}

/// A decision by hand: in a test integration nobody else makes one.
async fn decide(helium: Arc<HeliumId>, person: Person, call: Call) -> Answered {
    let environment = call.param("environment");
    if environment != "test" {
        let error = "live sessions are decided by Helium Id";
        return Err(Answer::new(409, json!({ "error": error })));
    }
    let decision = call.json()["decision"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if !matches!(&*decision, "approved" | "declined" | "resubmission") {
        let error = "decision is approved, declined or resubmission";
        return Err(Answer::new(422, json!({ "error": error })));
    }
    let account = person.account.as_str();
    let found = helium.test.one(account, "session", call.param("id"))?;
    let session = found.ok_or(Answer::new(404, json!({ "error": "no such session" })))?;
    Ok(Answer::ok(
        helium.conclude(account, "test", session, &decision).await?,
    ))
}

async fn show_usage(helium: Arc<HeliumId>, person: Person, _: Call) -> Answered {
    let used = helium.records.all(person.account.as_str(), "used")?;
    Ok(Answer::ok(json!({ "paid_sessions": used.len() })))
}

impl HeliumId {
    /// The sessions of the key's sort.
    fn sessions(&self, who: &Principal) -> Result<&Records, Answer> {
        let own = self.sessions.of(who).map(|sessions| &**sessions);
        own.ok_or(Answer::new(500, json!({ "error": "no such environment" })))
    }

    /// Those of the sort that a link names.
    fn sessions_of(&self, environment: &str) -> Result<&Records, Answer> {
        match environment {
            "live" => Ok(&self.live),
            "test" => Ok(&self.test),
            _ => Err(Answer::new(404, json!({ "error": "no such session" }))),
        }
    }

    /// With what a customer's webhooks come.
    fn hook(&self, account: &str) -> Result<Hook, Answer> {
        Hook::of(&self.records, account).map_err(|error| {
            eprintln!("no webhook for {account}: {error}");
            Answer::new(503, json!({ "error": "try again" }))
        })
    }

    /// Writes a decision down, and tells the customer.
    async fn conclude(
        &self,
        account: &str,
        environment: &str,
        mut session: Value,
        decision: &str,
    ) -> Result<Value, Answer> {
        session["status"] = json!(decision);
        self.sessions_of(environment)?
            .replace(account, "session", &session)?;
        let event = json!({
            "type": "decision",
            "session": session["id"],
            "person": session["person"],
            "decision": decision,
        });
        session["told"] = json!(self.send(account, &event.to_string(), "nothing").await?);
        Ok(session)
    }

    /// Whether the customer's server answers a webhook as it should.
    async fn webhook_works(&self, account: &str) -> Result<bool, Answer> {
        let status = self.send(account, "{\"type\":\"ping\"}", "nothing").await?;
        Ok(status.is_some_and(|status| (200..300).contains(&status)))
    }

    /// Sends a webhook with key and signature: the status it gets, if anybody is there.
    async fn send(&self, account: &str, event: &str, wrong: &str) -> Result<Option<u16>, Answer> {
        let urls = self.records.all(account, "url")?;
        let Some(url) = urls.last().and_then(|line| line["url"].as_str()) else {
            return Ok(None);
        };
        let failed = |_| Answer::new(503, json!({ "error": "try again" }));
        let (id, now) = (
            WebhookId::random().map_err(failed)?,
            SystemTime::UNIX_EPOCH + self.clock.unix(),
        );
        let bytes = if wrong == "signature" { "{}" } else { event };
        let hook = self.hook(account)?;
        let signer = WebhookSigner::new(&hook.secret);
        let mut fields = signer.fields(&id, now, bytes.as_bytes()).to_vec();
        let mut key = hook.key.expose_secret().to_owned();
        if wrong == "key" {
            key = key.chars().rev().collect();
        }
        fields.push(("x-api-key", key));
        Ok(deliver(url, &fields, event)
            .await
            .ok()
            .map(|(status, _)| status))
    }
}

impl KeyPage for HeliumId {}

impl AsRef<People> for HeliumId {
    fn as_ref(&self) -> &People {
        &self.people
    }
}

impl AsRef<KeyAdmin> for HeliumId {
    fn as_ref(&self) -> &KeyAdmin {
        &self.admin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printed_line_gets_the_status_it_says_and_again_after_a_restart() {
        services::check(open, LINES);
    }
}
