//! HeliosSend, an API that sends mail; on axum or actix-web, and `SQLite`.
//!
//! ```text
//! cargo run --example heliossend -- --stack actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/heliossend.db cargo run --example heliossend
//! ```
//!
//! It queues what it takes, and there it stays: no mail leaves the example.

mod rules;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use crate::{Answer, Answered, Call, Opened, People, Person, Records, Routes, Setting};
use crate::{detail_json, email, key_id, make, open_account, plain, revealed, usage};
use keyward::admin::AccountChange;
use keyward::record::AccountStatus;
use keyward::{
    AccountId, Actor, Environment, Grace, KeyAdmin, NewKey, Permission, Principal, Requirement,
};
use serde_json::{Value, json};

/// What to try, each with the status it gets.
const LINES: &[&str] = &[
    "curl -i {at}/send -H 'Authorization: {production}' -d '{\"from\":\"a@example.com\",\"to\":[\"b@example.com\"],\"subject\":\"Hello\",\"html\":\"<p>Hello</p>\"}'  # 202 queued",
    "curl -i {at}/send/1 -H 'Authorization: {production}'  # 200 in the queue",
    "curl -i {at}/send -H 'Authorization: {production}' -d '{\"from\":\"a@example.com\",\"to\":[]}'  # 422 to nobody",
    "curl -i {at}/send -X POST -H 'Authorization: {production}x'  # 401 Invalid user credentials",
    "curl -i {at}/send -X POST -H 'Authorization: Bearer {production}'  # 401 no scheme, please",
    "curl -i {at}/send -X POST  # 401 no key",
    "curl -i {at}/dashboard/keys -u ann:open-sesame  # 200",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"newsletter\"}'  # 201 shown once",
    "curl -i {at}/dashboard/usage -u ann:open-sesame  # 200",
    "curl -i -X POST {at}/dashboard/keys/{production.id}/regenerate -u ann:open-sesame  # 201 another",
    "curl -i {at}/send/1 -H 'Authorization: {production}'  # 401 replaced",
    "curl -i -X PUT {at}/dashboard/account -u ann:open-sesame -d '{\"active\":false}'  # 200",
    "curl -i {at}/send/1 -H 'Authorization: {development}'  # 403 Account not active",
    "curl -i -X PUT {at}/dashboard/account -u ann:open-sesame -d '{\"active\":true}'  # 200",
    "curl -i {at}/send/1 -H 'Authorization: {development}'  # 200",
];

/// Serves it as the command line says.
#[must_use]
pub fn main() -> ExitCode {
    crate::run("heliossend", open, LINES)
}

/// The mail service.
struct HeliosSend {
    admin: KeyAdmin,
    records: Arc<Records>,
}

/// Opens the service for one customer, who has two keys.
///
/// # Errors
/// If the store fails, or the operating system returns no random bytes.
pub async fn open(setting: Setting) -> Result<Opened, Box<dyn Error>> {
    let (gate, admin) = rules::rules(&setting.store)?;
    let acme = AccountId::parse("acme")?;
    let other = AccountId::parse("globex")?;
    open_account(&admin, &acme).await?;
    open_account(&admin, &other).await?;
    let new = |account: &AccountId, name| NewKey::new(account.clone(), Environment::LIVE, name);
    let (production, production_id) = make(&admin, &acme, new(&acme, "production")).await?;
    let (development, _) = make(&admin, &acme, new(&acme, "development")).await?;
    let (foreign, _) = make(&admin, &other, new(&other, "production")).await?;

    let service = HeliosSend {
        admin: admin.clone(),
        records: setting.records("heliossend")?,
    };
    let key = Requirement::new;
    let routes = Routes::new(service, People::new(&acme, &other), detail_json)
        .key_page(&admin, plain)
        .revoke_key(&admin, plain)
        .key("POST /send", &gate, key(), send)
        .key("GET /send/{id}", &gate, key(), sent)
        .dashboard("POST /dashboard/keys", create_key)
        .dashboard("POST /dashboard/keys/{id}/regenerate", regenerate_key)
        .dashboard("GET /dashboard/usage", show_usage)
        .dashboard("PUT /dashboard/account", change_account);
    Ok(Opened {
        routes: routes.all(),
        names: vec![
            ("production", production),
            ("production.id", production_id),
            ("development", development),
            ("foreign", foreign),
        ],
        sending: None,
    })
}

/// Queues a mail.
async fn send(service: Arc<HeliosSend>, who: Principal, call: Call) -> Answered {
    let mut mail = call.json();
    if let Err(detail) = check(&mail) {
        return Err(Answer::new(422, json!({ "detail": detail })));
    }
    mail["status"] = json!("queued");
    let mail = service.records.add(who.account().as_str(), "mail", mail)?;
    Ok(Answer::new(
        202,
        json!({ "id": mail["id"], "status": "queued" }),
    ))
}

/// What is wrong with a mail.
fn check(mail: &Value) -> Result<(), &'static str> {
    let is_address = |value| email(value).is_some();
    let known = ["from", "to", "subject", "html"];
    let Some(members) = mail.as_object() else {
        return Err("The body is not a JSON object");
    };
    if members.keys().any(|name| !known.contains(&&**name)) {
        return Err("A mail has from, to, subject and html");
    }
    if !is_address(&mail["from"]) {
        return Err("from is not an email address");
    }
    let to = mail["to"].as_array();
    if !to.is_some_and(|to| !to.is_empty() && to.iter().all(is_address)) {
        return Err("to is not a list of email addresses");
    }
    if !mail["subject"].is_string() || !mail["html"].is_string() {
        return Err("subject and html are texts");
    }
    // It becomes a field of the mail: a line break would begin another.
    if mail["subject"]
        .as_str()
        .is_some_and(|text| text.contains(char::is_control))
    {
        return Err("subject is one line");
    }
    Ok(())
}

/// A mail as it stands in the queue.
async fn sent(service: Arc<HeliosSend>, who: Principal, call: Call) -> Answered {
    let account = who.account().as_str();
    let mail = service.records.one(account, "mail", call.param("id"))?;
    let missing = Answer::new(404, json!({ "detail": "No such mail" }));
    Ok(Answer::ok(mail.ok_or(missing)?))
}

async fn create_key(service: Arc<HeliosSend>, person: Person, call: Call) -> Answered {
    let sent = call.json();
    let name = sent["name"].as_str().unwrap_or_default();
    let new = NewKey::new(person.account.clone(), Environment::LIVE, name);
    let created = service.admin.create(&person.actor(), new).await?;
    Ok(Answer::new(201, revealed(&created)))
}

/// Another key in the place of one that may have been exposed, which is dead at once.
async fn regenerate_key(service: Arc<HeliosSend>, person: Person, call: Call) -> Answered {
    let (actor, id) = (person.actor(), key_id(&call)?);
    let created = service.admin.rotate(&actor, id, Grace::None).await?;
    Ok(Answer::new(201, revealed(&created)))
}

async fn show_usage(service: Arc<HeliosSend>, person: Person, _: Call) -> Answered {
    Ok(Answer::ok(usage(&service.admin, &person).await?))
}

/// A customer pauses. It is the service that acts on it, no person.
async fn change_account(service: Arc<HeliosSend>, person: Person, call: Call) -> Answered {
    person.must_have(Permission::Update)?;
    let status = match call.json()["active"].as_bool() {
        Some(true) => AccountStatus::Active,
        Some(false) => AccountStatus::Suspended,
        None => {
            return Err(Answer::new(
                422,
                json!({ "error": "active is true or false" }),
            ));
        }
    };
    let (operator, change) = (Actor::operator("accounts"), AccountChange::new());
    let change = change.status(status);
    let account = service
        .admin
        .update_account(&operator, &person.account, change)
        .await?;
    Ok(Answer::ok(json!({ "status": account.status.as_str() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printed_line_gets_the_status_it_says_and_again_after_a_restart() {
        crate::check(open, LINES);
    }
}
