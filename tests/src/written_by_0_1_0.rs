//! Opens `files/0.1.0.db`, a file written by 0.1.0, and checks that nothing is lost.
//!
//! The file holds keys of every kind and state, accounts with a plan, suspended, without API access and
//! with all keys revoked, an audit log, usage, credits, and endpoints with messages that are delivered,
//! given up, held and due. It was written through the public API of 0.1.0 and is never changed: each test
//! opens a copy of it, thirty days after the keys were created.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use AttemptOutcome::{Delivered, Refused, TimedOut};
use DenialKind::{AccountInactive, Disabled, Expired, OriginMissing, Revoked};
use keyward::admin::KeyFilter;
use keyward::clock::ManualClock;
use keyward::credits::CreditOwner;
use keyward::denial::DenialKind;
use keyward::gate::Verdict;
use keyward::key::{DigestScheme, ForeignFormat, Pepper};
use keyward::record::{AccountStatus, AuditAction};
use keyward::request::RequestHead;
use keyward::store::AuditQuery;
use keyward::testing::{block_on, decided};
use keyward::usage::UsageQuery;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyKind, KeyLocation, KeyScheme,
    Peppers, RateLimits, Requirement, Store,
};
use keyward_sqlite::{SqliteOptions, SqliteStore};
use keyward_webhooks::admin::EndpointChange;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{AttemptOutcome, EndpointStatus};
use keyward_webhooks::store::DeliveryClaim;
use keyward_webhooks::{WebhookAdmin, WebhookStore, WebhookVerifier};
use rusqlite::Connection;
use tempfile::TempDir;

const BEGUN: Duration = Duration::from_secs(1_768_000_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys by name: the environment, what follows the prefix, and the answer.
///
/// The texts are in parts, so that no key in full is in this repository.
const KEYS: &[(&str, &str, &str, Result<(), DenialKind>)] = &[
    (
        "active",
        "live",
        "gznmZlc9STAgA4crlrlgK101Mqs7VfpE0voZRt",
        Ok(()),
    ),
    (
        "revoked",
        "live",
        "Mr5xvhdnC487DPhZJEagBMHSG9k6IPNB0oJnFd",
        Err(Revoked),
    ),
    (
        "disabled",
        "live",
        "6QV1mKbxaGv1N9MBKCOLGP78CuhY22PA2MWeUC",
        Err(Disabled),
    ),
    (
        "expired",
        "live",
        "XhY3pKfVcsaoGCTHHuhbLr5nbtkImkjy0Np5SD",
        Err(Expired),
    ),
    (
        "expires later",
        "live",
        "Ne6iJfnyGcLU1VrmCudW0vK8uB7eeJEa2VCqKm",
        Ok(()),
    ),
    (
        "origins",
        "live",
        "LlvARIAyCg11pqE65EmsJkM9vfV6GaGr4KF1Wy",
        Err(OriginMissing),
    ),
    (
        "credits",
        "live",
        "oxEqPhOOIZ7ccHPNY2nrX7jDVOJUIpZ80aPfdl",
        Ok(()),
    ),
    (
        "test",
        "test",
        "X8GbbDvysHOxtHtHoCciOc6d8yXrN4E043FgNy",
        Ok(()),
    ),
    (
        "staging",
        "staging",
        "m0tkq3mQBoTq0GV6eaUFF0FqixnBqxpX4PXeSt",
        Ok(()),
    ),
    (
        "peppered",
        "live",
        "sMU5klYj2I453FoqfJKJjSpqkl68v6sj05r1ES",
        Ok(()),
    ),
    (
        "under the pepper before",
        "live",
        "xvieHwVjKhWUaI4yp69Q47TecREh2c9l0ObWIF",
        Ok(()),
    ),
    (
        "moved to the new pepper",
        "live",
        "HPZLexx7AW3wesu5GZ4cOOiiTJE8mOb71cCTEW",
        Ok(()),
    ),
    (
        "replaced, grace over",
        "live",
        "skh7fNn3hGen0p9GbgFwNpAVwt2eQfCc3GeVhJ",
        Err(Expired),
    ),
    (
        "replaced, in its grace",
        "live",
        "upwOqUMJcqlA5mifp3Q1vT6WdwN6A9ZN3chSF2",
        Ok(()),
    ),
    (
        "the last of its chain",
        "live",
        "OkJ5LDHCW6qS9ozylli1AwwPzbDhCYh93catve",
        Ok(()),
    ),
    (
        "suspended",
        "live",
        "rhyRMjXCPEwFxlKvwdeRwUhYh8e03Wnu2vuSzJ",
        Err(AccountInactive),
    ),
    (
        "no plan",
        "live",
        "VhErxg1JoAH1cpaB1xwsuw7lliiC236m43SXPY",
        Err(DenialKind::NoApiAccess),
    ),
    (
        "before revoke-all",
        "live",
        "2pN5O4TFGMUFAldZgvpA3KtwmYwNoQ2b1G8oiG",
        Err(Revoked),
    ),
    (
        "before that of test",
        "test",
        "WudJYKyFI1f0ARvdoRC7lChTGhcBJ7C33xu0xy",
        Err(Revoked),
    ),
    (
        "after revoke-all",
        "live",
        "q9ZjTTFqaxSK1RUhjNUpLvan4k6yJkiy01hpqj",
        Ok(()),
    ),
    (
        "after that of test",
        "test",
        "QpyPbbfLJpyNH5H11uJh1Rd6GbyjMAut33VNo0",
        Ok(()),
    ),
];

/// In both, as the old systems had them.
const MADE_ELSEWHERE: &str = "0123456789abcdefABCDEF0123456789";

fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("files/0.1.0.db")
}

struct CopiedFile {
    dir: TempDir,
}

impl CopiedFile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(original(), dir.path().join("keys.db")).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("keys.db")
    }

    fn open(&self) -> Arc<SqliteStore> {
        let clock = Arc::new(ManualClock::at(BEGUN + 30 * DAY));
        let store = SqliteOptions::new().clock(clock).open(self.path());
        Arc::new(store.unwrap())
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + BEGUN + 30 * DAY
}

fn format() -> KeyFormat {
    KeyFormat::new("old_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn acme() -> AccountId {
    AccountId::parse("acme").unwrap()
}

fn admin(store: &Arc<SqliteStore>) -> KeyAdmin {
    KeyAdmin::new(store, &scheme())
}

fn gate(store: &SqliteStore) -> Gate {
    let pepper = |year: &str| {
        let secret = format!("the pepper of the year {year}, long enough");
        Pepper::new(year, secret.as_bytes()).unwrap()
    };
    let peppers = Peppers::new(pepper("2026"))
        .retired(pepper("2025"))
        .unwrap();
    let peppers = peppers.accepting(DigestScheme::Sha256).unwrap();
    Gate::builder(store, &scheme().peppers(peppers))
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::x_client_key())
        .build()
        .unwrap()
}

/// A gate for the keys that were made elsewhere.
fn gate_of(store: &SqliteStore, format: ForeignFormat, scheme: DigestScheme) -> Gate {
    let peppers = Peppers::none().accepting(scheme).unwrap();
    Gate::builder(store, &self::scheme().peppers(peppers))
        .foreign_format(format)
        .build()
        .unwrap()
}

struct Head<'a> {
    fields: &'a [(&'a str, &'a str)],
}

impl RequestHead for Head<'_> {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.fields.iter().filter(move |(name, _)| *name == field);
        named.map(|(_, value)| value.as_bytes())
    }
}

fn ask(gate: &Gate, fields: &[(&str, &str)], requirement: Requirement) -> Result<(), DenialKind> {
    match decided(gate.check(&Head { fields }, &Arc::new(requirement), None)) {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
    }
}

#[test]
fn every_row_is_as_it_was() {
    let copy = CopiedFile::new();
    drop(copy.open());
    let file = Connection::open(copy.path()).unwrap();
    let attach = "ATTACH ?1 AS old";
    file.execute(attach, [original().to_str().unwrap()])
        .unwrap();
    let texts = |sql: &str| {
        let mut rows = file.prepare(sql).unwrap();
        let rows = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    let tables =
        texts("SELECT name FROM old.sqlite_master WHERE name LIKE 'keyward_%' AND type = 'table'");
    assert_eq!(tables.len(), 15);
    for table in tables {
        // A migration may well change rows, but not what they say.
        let columns = texts(&format!(
            "SELECT name FROM pragma_table_info('{table}', 'old') WHERE name <> 'revision'"
        ));
        let columns = columns.join(", ");
        let lost = format!(
            "SELECT count(*) FROM (SELECT {columns} FROM old.{table} \
             EXCEPT SELECT {columns} FROM main.{table})"
        );
        let lost = file.query_row(&lost, [], |row| row.get::<_, i64>(0));
        assert_eq!(lost.unwrap(), 0, "{table}");
    }
    assert_eq!(texts("PRAGMA integrity_check"), ["ok"]);
    assert!(texts("SELECT \"table\" FROM pragma_foreign_key_check").is_empty());
}

#[test]
fn each_key_passes_or_fails_as_before() {
    let copy = CopiedFile::new();
    let store = copy.open();
    assert_eq!(store.replica().len(), 25);
    let gate = gate(&store);
    for (name, environment, rest, answer) in KEYS {
        let key = format!("old_{environment}_{rest}");
        let any = Requirement::new().any_environment();
        assert_eq!(ask(&gate, &[("x-api-key", &key)], any), *answer, "{name}");
    }

    let (_, _, active, _) = KEYS[0];
    let active = format!("old_live_{active}");
    for (scope, answer) in [
        ("kyc", Ok(())),
        ("reports.read", Ok(())),
        ("billing", Err(DenialKind::ScopeMissing)),
    ] {
        let asked = ask(
            &gate,
            &[("x-api-key", &active)],
            Requirement::new().scope(scope),
        );
        assert_eq!(asked, answer, "{scope}");
    }

    let publishable = format!("old_live_{}", "iDTysyl9eFUAshBQfYc0cykj5y3iJNBD4famU2");
    let on_page = |origin| {
        let fields = [("x-client-key", publishable.as_str()), ("origin", origin)];
        ask(
            &gate,
            &fields,
            Requirement::new().kinds([KeyKind::Publishable]),
        )
    };
    assert_eq!(on_page("https://shop.example"), Ok(()));
    assert_eq!(on_page("https://a.acme.example"), Ok(()));
    assert_eq!(
        on_page("https://other.example"),
        Err(DenialKind::OriginNotAllowed)
    );

    let limited = format!("old_live_{}", "6TcAcC08E3ELIBMEcwOi6I3rXUmv92X43NIG30");
    let again = || ask(&gate, &[("x-api-key", &limited)], Requirement::new());
    assert_eq!(
        [again(), again(), again()],
        [Ok(()), Ok(()), Err(DenialKind::RateLimited)]
    );
}

#[test]
fn keys_that_were_made_elsewhere_still_pass() {
    let copy = CopiedFile::new();
    let store = copy.open();
    let of_secret = ForeignFormat::new("").unwrap().secret_after('|');
    let of_secret = gate_of(&store, of_secret, DigestScheme::Sha256OfSecret);
    let text = format!("12|{MADE_ELSEWHERE}");
    assert_eq!(
        ask(&of_secret, &[("x-api-key", &text)], Requirement::new()),
        Ok(())
    );
    let sha512 = ForeignFormat::new("elsewhere_").unwrap();
    let sha512 = gate_of(&store, sha512, DigestScheme::Sha512);
    let text = format!("elsewhere_{MADE_ELSEWHERE}");
    assert_eq!(
        ask(&sha512, &[("x-api-key", &text)], Requirement::new()),
        Ok(())
    );
}

#[test]
fn accounts_and_what_is_kept_of_their_keys_are_there() {
    let copy = CopiedFile::new();
    let store = copy.open();
    let operator = Actor::operator("tests");
    let account = block_on(store.account(acme())).unwrap().unwrap();
    assert_eq!(account.max_active_keys, Some(40));
    assert_eq!(
        account.rate_limits,
        RateLimits::parse("100/60;200").unwrap()
    );
    assert_eq!(
        account.shared_rate_limits,
        RateLimits::parse("1000/60;1000").unwrap()
    );
    let other = |id| {
        block_on(store.account(AccountId::parse(id).unwrap()))
            .unwrap()
            .unwrap()
    };
    assert_eq!(other("suspended").status, AccountStatus::Suspended);
    assert!(!other("no-plan").api_access);
    assert_eq!(other("epochs").epoch(Environment::LIVE), 1);
    assert_eq!(other("epochs").epoch(Environment::TEST), 2);

    let keys = block_on(admin(&store).keys(&operator, &acme(), KeyFilter::new().limit(100)));
    let keys = keys.unwrap().keys;
    assert_eq!(keys.len(), 19);
    let named = |name| keys.iter().find(|key| key.record.name == name).unwrap();
    let active = &named("active").record;
    assert_eq!(
        active.metadata.as_str(),
        r#"{"team":"billing","tags":["a","b"]}"#
    );
    let token = block_on(store.created_with(acme(), "the-first".to_owned()));
    assert_eq!(token.unwrap(), Some(active.id));
    let last_used = active
        .last_used_at
        .unwrap()
        .duration_since(now() - 30 * DAY);
    assert_eq!(last_used.unwrap(), Duration::from_secs(9000));
    assert_eq!(named("revoked").record.revoked_for, "it was in a log");
    let chain: Vec<_> = keys
        .iter()
        .filter(|key| key.record.name == "chain")
        .collect();
    let first = chain
        .iter()
        .find(|key| key.record.predecessor.is_none())
        .unwrap();
    assert!(
        chain
            .iter()
            .all(|key| key.record.lineage == first.record.id)
    );
    assert_eq!(chain.len(), 3);
}

#[test]
fn usage_credits_and_audit_log_are_there() {
    let copy = CopiedFile::new();
    let store = copy.open();
    let all = UsageQuery::of(Some(acme()), 0..u64::MAX);
    let usage = block_on(store.usage(all)).unwrap();
    let sum = usage
        .iter()
        .fold((0, 0, 0), |(admitted, refused, units), hour| {
            (
                admitted + hour.counts.admitted,
                refused + hour.counts.refused,
                units + hour.counts.units,
            )
        });
    assert_eq!((usage.len(), sum), (4, (13, 2, 21)));

    let credits = |owner: CreditOwner| block_on(store.credits(owner)).unwrap().unwrap();
    assert_eq!(credits(acme().into()).left, 990);
    let own = usage.iter().find(|hour| hour.counts.units > 0).unwrap().key;
    let own = credits(own.into());
    assert_eq!(
        (own.left, own.refill.map(|refill| refill.to)),
        (770, Some(700))
    );

    let lines = block_on(store.audit(AuditQuery::newest(1000))).unwrap();
    assert_eq!(lines.len(), 50);
    let count = |action| lines.iter().filter(|line| line.action == action).count();
    assert_eq!(count(AuditAction::Create), 21);
    assert_eq!(count(AuditAction::Revoke), 2);
    let refused: Vec<_> = lines.iter().filter(|line| line.refused.is_some()).collect();
    assert_eq!((refused.len(), refused[0].actor.as_str()), (1, "user:bob"));
}

#[test]
fn endpoints_sign_as_before_and_what_is_due_is_delivered() {
    let copy = CopiedFile::new();
    let store = copy.open();
    let sealing = || SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap());
    let admin = WebhookAdmin::new(Arc::<SqliteStore>::clone(&store), &scheme(), sealing());
    let operator = Actor::operator("tests");
    let endpoints = block_on(admin.endpoints(&operator, &acme(), None)).unwrap();
    let at = |host: &str| {
        let is = |endpoint: &&keyward_webhooks::send::WebhookEndpoint| {
            endpoint.url.host().starts_with(host)
        };
        endpoints.iter().find(is).unwrap()
    };
    assert_eq!(endpoints.len(), 4);
    assert!(at("on.").is_working());
    assert_eq!(at("off.").status, EndpointStatus::Disabled);
    assert_eq!(at("gone.").status, EndpointStatus::Gone);

    let claim = |limit| {
        let claim = DeliveryClaim {
            now: now(),
            until: now() + DAY,
            limit,
            each: 10,
            busy: vec![],
            proven: None,
        };
        let due = block_on(store.claim(claim)).unwrap();
        let mut due: Vec<_> = due
            .into_iter()
            .map(|due| (due.message().id().as_str().to_owned(), due))
            .collect();
        due.sort_by(|(one, _), (other, _)| one.cmp(other));
        due
    };
    let due = claim(10);
    let ids: Vec<_> = due.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["msg_due", "msg_retried", "msg_test"]);
    let attempts: Vec<_> = due.iter().map(|(_, due)| due.attempt()).collect();
    assert_eq!(attempts, [1, 2, 1]);
    // Of the endpoint of both live messages both secrets sign, the second for ninety days from the start.
    let fields = due[0].1.sign(&sealing(), now()).unwrap();
    for secret in [1, 2] {
        let secret =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [secret; 32]);
        let verifier = WebhookVerifier::standard(&format!("whsec_{secret}")).unwrap();
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let signed = verifier.verify(
            &Head { fields: &fields },
            due[0].1.message().payload(),
            now(),
        );
        assert!(signed.is_ok());
    }

    // What was held for an endpoint is due once that is enabled.
    let on = EndpointChange::new().enabled(true);
    block_on(admin.update_endpoint(&operator, at("gone.").id(), on)).unwrap();
    let due = claim(10);
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].0, "msg_delivered");

    let attempts = block_on(admin.attempts(&operator, at("on.").id(), None)).unwrap();
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [TimedOut, Refused, Delivered]);
}
