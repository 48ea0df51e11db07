//! VerifyHuman, an API that tells people from pictures; on axum or actix-web, and `SQLite`.
//!
//! ```text
//! cargo run --example verifyhuman -- --stack actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/verifyhuman.db cargo run --example verifyhuman
//! ```

mod dashboard;
mod rules;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use crate::{
    Answer, Answered, Call, Opened, People, Recorded, Records, Route, Routes, Setting, Webhooks,
};
use crate::{error_json, key_id, make, open_account};
use keyward::credits::Credits;
use keyward::gate::PerEnvironment;
use keyward::record::KeyRecord;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyKind, NewKey, OriginPolicy, Permission,
    Principal, Requirement, Scopes,
};
use serde_json::{Value, json};

use self::dashboard::{
    analytics, buy_credits, change_plan, create_endpoint, create_key, delete_endpoint, enable_key,
    endpoints, rotate_key, show, show_ledger,
};

/// What to try, each with the status it gets.
const LINES: &[&str] = &[
    "curl -i {at}/api/verify -H 'X-API-Key: {test}' -F file=@Cargo.toml  # 200 simulated: again, it is the same",
    "curl -i {at}/api/verify -H 'X-API-Key: {live}' -F file=@Cargo.toml  # 200 one credit less",
    "curl -i {at}/api/history -H 'X-API-Key: {test}'  # 200 what test keys did, and no other",
    "curl -i {at}/api/mobile/v1/verifyhuman/verify -H 'Authorization: ClientKey {mobile}' -F file=@Cargo.toml  # 200",
    "curl -i {at}/api/mobile/v1/verifyhuman/verify -H 'X-Client-Key: {live}' -F file=@Cargo.toml  # 403 a secret key in an app",
    "curl -i {at}/api/mobile/v1/verifyhuman/verify -H 'X-Client-Key: {widget}' -H 'Origin: https://shop.example' -F file=@Cargo.toml  # 200",
    "curl -i {at}/api/mobile/v1/verifyhuman/verify -H 'X-Client-Key: {widget}' -H 'Origin: https://other.example' -F file=@Cargo.toml  # 403 Origin not allowed for this key",
    "curl -i {at}/api/kyc -H 'X-API-Key: {live}' -F file=@Cargo.toml  # 403 Scope does not allow this product",
    "curl -i {at}/api/kyc -H 'X-API-Key: {hybrid}' -F file=@Cargo.toml  # 200 hybrid is for all",
    "curl -i {at}/api/credits -H 'X-API-Key: {test}'  # 401 Environment mismatch",
    "curl -i {at}/api/verify -X POST -H 'X-API-Key: {live}x'  # 401 Invalid API key",
    "curl -i {at}/dashboard/ledger -u ann:open-sesame  # 200 what live keys did",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"age\",\"environment\":\"test\",\"scope\":\"verifyage\"}'  # 201 shown once",
    "curl -i {at}/dashboard/keys -u ben:open-sesame -d '{\"name\":\"age\",\"environment\":\"test\",\"scope\":\"verifyage\"}'  # 403 he may only look",
    "curl -i -X DELETE {at}/dashboard/keys/{live.id} -u ann:open-sesame  # 200",
    "curl -i {at}/api/verify -X POST -H 'X-API-Key: {live}'  # 401 Invalid API key: revoked",
    "curl -i '{at}/api/history?n=[1-90]' -H 'X-API-Key: {test}'  # 429 Rate limit exceeded",
];

/// Serves it as the command line says.
#[must_use]
pub fn main() -> ExitCode {
    crate::run("verifyhuman", open, LINES)
}

/// The service.
struct VerifyHuman {
    admin: KeyAdmin,
    /// Plans.
    records: Arc<Records>,
    worlds: PerEnvironment<Arc<World>>,
    webhooks: Webhooks,
    /// What live keys owe.
    ledger: Arc<Records>,
}

/// What each environment has for itself.
struct World {
    history: Arc<Records>,
    /// Who looks at a picture.
    look: fn(&str, &[u8]) -> Value,
    /// Where charges are written; what is done in the other world costs nothing.
    ledger: Option<Arc<Records>>,
}

/// Opens the service for one customer, who has a key of each sort.
///
/// # Errors
/// If the store fails, or the operating system returns no random bytes.
pub async fn open(setting: Setting) -> Result<Opened, Box<dyn Error>> {
    let (gate, admin) = rules::rules(&setting.store)?;
    let webhooks = Webhooks::new(&setting.store, admin.scheme())?;
    let acme = AccountId::parse("acme")?;
    let other = AccountId::parse("globex")?;
    let sales = Actor::operator("sales");
    for account in [&acme, &other] {
        open_account(&admin, account).await?;
        if admin.credits(&sales, account.clone()).await?.is_none() {
            let credits = Some(Credits::new(1000));
            admin.set_credits(&sales, account.clone(), credits).await?;
        }
    }
    let mut names = make_keys(&admin, &acme).await?;
    let theirs = NewKey::new(other.clone(), Environment::LIVE, "live");
    let theirs = theirs.scopes(Scopes::parse(["hybrid"])?);
    names.push(("foreign", make(&admin, &other, theirs).await?.0));
    let ledger = setting.records("ledger")?;
    let sending = webhooks.sending();
    let service = VerifyHuman {
        admin,
        records: setting.records("verifyhuman")?,
        worlds: PerEnvironment::new(
            Arc::new(World {
                history: setting.records("live_history")?,
                look: provider,
                ledger: Some(Arc::clone(&ledger)),
            }),
            Arc::new(World {
                history: setting.records("test_history")?,
                look: simulation,
                ledger: None,
            }),
        ),
        webhooks,
        ledger,
    };
    let looks = [Permission::Read, Permission::ReadWebhooks];
    let people = People::new(&acme, &other).and("ben", &acme, &looks);
    let routes = mounted(service, people, &gate);
    let sending = Some(sending);
    Ok(Opened {
        routes,
        names,
        sending,
    })
}

/// What each route demands.
fn mounted(service: VerifyHuman, people: People, gate: &Gate) -> Vec<Route> {
    let product = rules::product;
    let check = |name, credits| move |service, who, call| check(service, who, call, name, credits);
    let admin = service.admin.clone();
    let mut routes = Routes::new(service, people, error_json);
    for (on, name, credits) in [
        ("POST /api/verify", "verifyhuman", 1),
        ("POST /api/age", "verifyage", 1),
        ("POST /api/identity", "identity", 2),
        ("POST /api/kyc", "kyc", 3),
        ("POST /api/trust", "kyc_plus", 5),
    ] {
        routes = routes.key(on, gate, product(name, credits), check(name, credits));
    }
    let in_app = product("verifyhuman", 1).kinds([KeyKind::Publishable]);
    let report_on = product("kyc_plus", 0);
    let either = Requirement::new().any_environment().credits(0);
    let live = Requirement::new().credits(0);
    let test = Requirement::new().environment(Environment::TEST);
    routes
        .key(
            "POST /api/mobile/v1/verifyhuman/verify",
            gate,
            in_app,
            check("verifyhuman", 1),
        )
        .key("GET /api/trust/{id}/report", gate, report_on, report)
        .key("GET /api/history", gate, either, history)
        .key("GET /api/credits", gate, live, credits_left)
        .key("POST /api/simulations", gate, test, simulate_once)
        .open("GET /hosted/{id}", hosted)
        .dashboard("POST /dashboard/keys", create_key)
        .dashboard("POST /dashboard/keys/{id}/rotate", rotate_key)
        .dashboard("POST /dashboard/keys/{id}/enable", enable_key)
        .dashboard("GET /dashboard/analytics", analytics)
        .dashboard("GET /dashboard/ledger", show_ledger)
        .dashboard("PUT /dashboard/credits", buy_credits)
        .dashboard("PUT /dashboard/plan", change_plan)
        .dashboard("GET /dashboard/webhooks", endpoints)
        .dashboard("POST /dashboard/webhooks", create_endpoint)
        .dashboard("DELETE /dashboard/webhooks/{id}", delete_endpoint)
        .open("POST /customer/{name}", be_told)
        .open("GET /customer/{name}", told)
        .key_page(&admin, show)
        .revoke_key(&admin, show)
        .all()
}

/// A key of each sort, and its id.
async fn make_keys(
    admin: &KeyAdmin,
    account: &AccountId,
) -> Result<Vec<(&'static str, String)>, Box<dyn Error>> {
    let mut names = Vec::new();
    let all = [
        ("live", "live.id", Environment::LIVE, "verifyhuman"),
        ("test", "test.id", Environment::TEST, "verifyhuman"),
        ("hybrid", "hybrid.id", Environment::LIVE, "hybrid"),
        ("mobile", "mobile.id", Environment::LIVE, "verifyhuman"),
        ("widget", "widget.id", Environment::LIVE, "verifyhuman"),
    ];
    for (name, id_name, environment, scope) in all {
        let mut new =
            NewKey::new(account.clone(), environment, name).scopes(Scopes::parse([scope])?);
        if matches!(name, "mobile" | "widget") {
            new = new.kind(KeyKind::Publishable);
        }
        if name == "widget" {
            new = new.origins(OriginPolicy::listed(["shop.example", "*.shop.example"])?);
        }
        let (secret, id) = make(admin, account, new).await?;
        names.extend([(name, secret), (id_name, id)]);
    }
    Ok(names)
}

/// Stands for the provider that looks at pictures for money.
fn provider(_product: &str, picture: &[u8]) -> Value {
    let result = if picture.is_empty() { "fail" } else { "pass" };
    json!({ "processed_by": "provider", "result": result })
}

/// The same for the same picture, always.
fn simulation(product: &str, picture: &[u8]) -> Value {
    let seen = product.bytes().chain(picture.iter().copied());
    let score = seen.fold(7_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 101);
    let result = if score < 20 { "fail" } else { "pass" };
    json!({ "processed_by": "simulation", "result": result, "score": score })
}

/// Looks at a picture, in the world of the key.
async fn check(
    service: Arc<VerifyHuman>,
    who: Principal,
    call: Call,
    product: &'static str,
    credits: u32,
) -> Answered {
    let world = service.world(&who)?;
    let Some(picture) = file(&call) else {
        return Err(Answer::new(400, json!({ "error": "Send a file" })));
    };
    let mut found = (world.look)(product, picture);
    found["product"] = json!(product);
    let account = who.account().as_str();
    let found = world.history.add(account, "check", found)?;
    if let Some(ledger) = &world.ledger {
        let charge = json!({ "check": found["id"], "product": product, "credits": credits });
        ledger.add(account, "charge", charge)?;
    }
    let event = json!({ "type": "checked", "check": found["id"], "result": found["result"] });
    let environment = who.environment();
    service
        .webhooks
        .tell(who.account(), environment, &event)
        .await?;
    Ok(Answer::ok(found))
}

/// The file of a form (RFC 7578), as `curl -F file=@…` sends it.
fn file(call: &Call) -> Option<&[u8]> {
    let find = |bytes: &[u8], text: &str| {
        let mut windows = bytes.windows(text.len());
        windows.position(|window| window == text.as_bytes())
    };
    let (form, boundary) = call.field("content-type").split_once("boundary=")?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    let named = find(&call.body, "name=\"file\"").filter(|_| form.starts_with("multipart/"))?;
    let rest = call.body.get(named..)?;
    let content = rest.get(find(rest, "\r\n\r\n")? + 4..)?;
    content.get(..find(content, &format!("\r\n--{boundary}"))?)
}

/// A report on what VerifyTrust has found.
async fn report(service: Arc<VerifyHuman>, who: Principal, call: Call) -> Answered {
    let history = &service.world(&who)?.history;
    let found = history.one(who.account().as_str(), "check", call.param("id"))?;
    match found.filter(|found| found["product"] == "kyc_plus") {
        Some(found) => Ok(Answer::ok(
            json!({ "report": found["result"], "on": found["id"] }),
        )),
        None => Err(Answer::new(404, json!({ "error": "No such verification" }))),
    }
}

async fn history(service: Arc<VerifyHuman>, who: Principal, _: Call) -> Answered {
    let all = service
        .world(&who)?
        .history
        .all(who.account().as_str(), "check")?;
    let environment = who.environment().as_str().to_owned();
    Ok(Answer::ok(
        json!({ "environment": environment, "history": all }),
    ))
}

/// For live keys: test keys have no credits.
async fn credits_left(service: Arc<VerifyHuman>, who: Principal, _: Call) -> Answered {
    let operator = Actor::operator("credits");
    let credits = service
        .admin
        .credits(&operator, who.account().clone())
        .await?;
    Ok(Answer::ok(
        json!({ "left": credits.map(|credits| credits.left) }),
    ))
}

/// For test keys: what a picture would give, without a line in the history.
async fn simulate_once(_: Arc<VerifyHuman>, _: Principal, call: Call) -> Answered {
    Ok(Answer::ok(simulation(
        "verifyhuman",
        file(&call).unwrap_or_default(),
    )))
}

/// The page of a hosted flow, with the badge or without.
async fn hosted(service: Arc<VerifyHuman>, call: Call) -> Answered {
    let operator = Actor::operator("hosted flow");
    let key = service.admin.key(&operator, key_id(&call)?).await?.record;
    Ok(Answer::ok(json!({ "badge": service.badge(&key)? })))
}

/// Customers' own servers, no part of `VerifyHuman`: each notes what it is told.
async fn be_told(service: Arc<VerifyHuman>, call: Call) -> Answered {
    service
        .records
        .add(call.param("name"), "told", call.json())?;
    Ok(Answer::new(204, Value::Null))
}

async fn told(service: Arc<VerifyHuman>, call: Call) -> Answered {
    let told = service.records.all(call.param("name"), "told")?;
    Ok(Answer::ok(json!({ "told": told })))
}

impl VerifyHuman {
    /// What the key's environment has. None for any other than those two.
    fn world(&self, who: &Principal) -> Result<&World, Answer> {
        let own = self.worlds.of(who).map(|world| &**world);
        own.ok_or(Answer::new(500, json!({ "error": "no such environment" })))
    }

    /// What hosted flows of a key show: nothing where its owner wants that, and may.
    fn badge(&self, key: &KeyRecord) -> Recorded<Option<&'static str>> {
        let own: Value = serde_json::from_str(key.metadata.as_str()).unwrap_or_default();
        let shows = own["powered_by"] != false || !self.may_hide_badge(&key.account)?;
        Ok(shows.then_some("Powered by VerifyHuman"))
    }

    /// Whether the plan that was bought last allows it.
    fn may_hide_badge(&self, account: &AccountId) -> Recorded<bool> {
        let plans = self.records.all(account.as_str(), "plan")?;
        let last = plans.last().and_then(|plan| plan["plan"].as_str());
        Ok(matches!(last, Some("pro" | "enterprise")))
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
