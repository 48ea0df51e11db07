//! Helplane, a help desk with an API; on axum or actix-web, and `SQLite`.
//!
//! ```text
//! cargo run --example helplane -- --stack actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/helplane.db cargo run --example helplane
//! ```

mod rules;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use crate::{Answer, Answered, Call, Opened, People, Person, Recorded, Records, Routes, Setting};
use crate::{
    email, error_message_json, key_id, line, make, open_account, plain, revealed, shown, text,
};
use keyward::{
    AccountId, Actor, Environment, KeyAdmin, NewKey, Permission, Principal, Requirement,
};
use serde_json::{Value, json};

/// What to try, each with the status it gets.
const LINES: &[&str] = &[
    "curl -i {at}/v1/conversations -H 'X-API-Key: {production}'  # 200",
    "curl -i {at}/v1/conversations/1 -H 'X-API-Key: {production}'  # 200",
    "curl -i {at}/v1/conversations/99 -H 'X-API-Key: {production}'  # 404",
    "curl -i {at}/v1/contacts -H 'X-API-Key: {production}' -d '{\"name\":\"Ida\",\"email\":\"ida@example.com\"}'  # 201",
    "curl -i {at}/v1/contacts -H 'X-API-Key: {production}'  # 200 she is there",
    "curl -i {at}/v1/messages -H 'X-API-Key: {production}' -d '{\"conversation\":1,\"text\":\"Hello\"}'  # 201",
    "curl -i {at}/v1/contacts  # 401 no key",
    "curl -i {at}/dashboard/keys -u ann:open-sesame  # 200 name, prefix, created, last used, status",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"Staging Server\"}'  # 201 shown once",
    "curl -i -X DELETE {at}/dashboard/keys/{production.id} -u ann:open-sesame  # 409 not confirmed",
    "curl -i -X DELETE '{at}/dashboard/keys/{production.id}?confirm=yes' -u ann:open-sesame  # 200",
    "curl -i {at}/v1/contacts -H 'X-API-Key: {production}'  # 401 revoked at once",
    "curl -i -X PUT {at}/dashboard/plan -u ann:open-sesame -d '{\"plan\":\"starter\"}'  # 200",
    "curl -i {at}/v1/contacts -H 'X-API-Key: {development}'  # 403 not on this plan",
    "curl -i {at}/dashboard/keys -u ann:open-sesame -d '{\"name\":\"More\"}'  # 403 not on this plan",
    "curl -i -X PUT {at}/dashboard/plan -u ann:open-sesame -d '{\"plan\":\"growth\"}'  # 200",
    "curl -i '{at}/v1/contacts?n=[1-250]' -H 'X-API-Key: {development}'  # 429 after 200 at once",
];

/// Serves it as the command line says.
#[must_use]
pub fn main() -> ExitCode {
    crate::run("helplane", open, LINES)
}

/// The help desk.
struct Helplane {
    admin: KeyAdmin,
    records: Arc<Records>,
}

/// Opens the help desk of one company, which has two keys.
///
/// # Errors
/// If the store fails, or the operating system returns no random bytes.
pub async fn open(setting: Setting) -> Result<Opened, Box<dyn Error>> {
    let (gate, admin) = rules::rules(&setting.store)?;
    let acme = AccountId::parse("acme")?;
    let other = AccountId::parse("globex")?;
    open_account(&admin, &acme).await?;
    open_account(&admin, &other).await?;
    let new = |name| NewKey::new(acme.clone(), Environment::LIVE, name);
    let (production, production_id) = make(&admin, &acme, new("Production Server")).await?;
    let (development, _) = make(&admin, &acme, new("Development")).await?;
    let theirs = NewKey::new(other.clone(), Environment::LIVE, "Production Server");
    let (foreign, _) = make(&admin, &other, theirs).await?;

    let helplane = Helplane {
        admin: admin.clone(),
        records: setting.records("helplane")?,
    };
    if helplane.records.all("acme", "conversation")?.is_empty() {
        for subject in ["Where is my order?", "A refund"] {
            let conversation = json!({ "subject": subject });
            helplane.records.add("acme", "conversation", conversation)?;
        }
    }
    let key = Requirement::new;
    let routes = Routes::new(helplane, People::new(&acme, &other), error_message_json)
        .key_page(&admin, plain)
        .key("GET /v1/conversations", &gate, key(), conversations)
        .key("GET /v1/conversations/{id}", &gate, key(), conversation)
        .key("GET /v1/contacts", &gate, key(), contacts)
        .key("POST /v1/contacts", &gate, key(), create_contact)
        .key("POST /v1/messages", &gate, key(), send_message)
        .dashboard("POST /dashboard/keys", create_key)
        .dashboard("DELETE /dashboard/keys/{id}", delete_key)
        .dashboard("PUT /dashboard/plan", change_plan);
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

/// The list says how many messages each has.
async fn conversations(desk: Arc<Helplane>, who: Principal, _: Call) -> Answered {
    let mut all = desk.records.all(who.account().as_str(), "conversation")?;
    for conversation in &mut all {
        let messages = desk.messages(&who, &conversation["id"])?;
        conversation["messages"] = json!(messages.len());
    }
    Ok(Answer::ok(json!({ "conversations": all })))
}

async fn conversation(desk: Arc<Helplane>, who: Principal, call: Call) -> Answered {
    let mut found = desk.conversation(&who, call.param("id"))?;
    found["messages"] = json!(desk.messages(&who, &found["id"])?);
    Ok(Answer::ok(found))
}

async fn contacts(desk: Arc<Helplane>, who: Principal, _: Call) -> Answered {
    let all = desk.records.all(who.account().as_str(), "contact")?;
    Ok(Answer::ok(json!({ "contacts": all })))
}

async fn create_contact(desk: Arc<Helplane>, who: Principal, call: Call) -> Answered {
    let sent = call.json();
    let (Some(name), Some(email)) = (line(&sent["name"]), email(&sent["email"])) else {
        return Err(invalid("A contact has a name and an email."));
    };
    let contact = json!({ "name": name, "email": email });
    let contact = desk
        .records
        .add(who.account().as_str(), "contact", contact)?;
    Ok(Answer::new(201, contact))
}

async fn send_message(desk: Arc<Helplane>, who: Principal, call: Call) -> Answered {
    let sent = call.json();
    let (Some(id), Some(text)) = (sent["conversation"].as_i64(), text(&sent["text"])) else {
        return Err(invalid("A message has a conversation and a text."));
    };
    let conversation = desk.conversation(&who, &id.to_string())?;
    let hint = who.hint().to_string();
    let message = json!({ "conversation": conversation["id"], "text": text, "sent_by": hint });
    let message = desk
        .records
        .add(who.account().as_str(), "message", message)?;
    Ok(Answer::new(201, message))
}

async fn create_key(desk: Arc<Helplane>, person: Person, call: Call) -> Answered {
    let operator = Actor::operator("plans");
    let account = desk.admin.open_account(&operator, &person.account).await?;
    if !account.api_access {
        let error = "API keys are available on the Growth plan and above";
        return Err(Answer::new(403, json!({ "error": error })));
    }
    let sent = call.json();
    let name = sent["name"].as_str().unwrap_or_default();
    let new = NewKey::new(person.account.clone(), Environment::LIVE, name);
    let created = desk.admin.create(&person.actor(), new).await?;
    Ok(Answer::new(201, revealed(&created)))
}

async fn delete_key(desk: Arc<Helplane>, person: Person, call: Call) -> Answered {
    let id = key_id(&call)?;
    if call.queried("confirm") != Some("yes") {
        let error = "confirm with ?confirm=yes: applications that use the key will lose access";
        return Err(Answer::new(409, json!({ "error": error })));
    }
    let view = desk.admin.revoke(&person.actor(), id, "deleted").await?;
    Ok(Answer::ok(shown(&view)))
}

/// Somebody buys another plan. It is Helplane that acts on it, no person.
async fn change_plan(desk: Arc<Helplane>, person: Person, call: Call) -> Answered {
    person.must_have(Permission::Update)?;
    let plan = call.json()["plan"].take();
    let Some(change) = rules::plan(plan.as_str().unwrap_or_default()) else {
        let error = "plan is starter, growth or scale";
        return Err(Answer::new(422, json!({ "error": error })));
    };
    let operator = Actor::operator("plans");
    let account = &person.account;
    let account = desk
        .admin
        .update_account(&operator, account, change)
        .await?;
    Ok(Answer::ok(
        json!({ "plan": plan, "api": account.api_access }),
    ))
}

fn invalid(message: &str) -> Answer {
    Answer::new(422, error_message_json("Unprocessable Content", message))
}

impl Helplane {
    fn conversation(&self, who: &Principal, id: &str) -> Result<Value, Answer> {
        let error = error_message_json("Not Found", "No such conversation.");
        let account = who.account().as_str();
        let found = self.records.one(account, "conversation", id)?;
        found.ok_or(Answer::new(404, error))
    }

    /// What was said in a conversation.
    fn messages(&self, who: &Principal, id: &Value) -> Recorded<Vec<Value>> {
        let mut all = self.records.all(who.account().as_str(), "message")?;
        all.retain(|message| message["conversation"] == *id);
        Ok(all)
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
