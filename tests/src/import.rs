//! Keys that other libraries have made work after their import, at one gate for all of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::io::{BufRead, Read};
use std::process::Command;

use allocation_counter::measure;
use http::{Request, Response};
use keyward::import::{
    ImportOutcome, ImportReport, ImportRow, ImportSource, ImportTotals, Importer, Skipped,
};
use keyward::key::{DigestScheme, ForeignFormat, Pepper};
use keyward::testing::{World, block_on};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Peppers,
    Requirement, Scopes, Store,
};
use keyward_sqlite::SqliteStore;
use keyward_tower::RequireKeyLayer;
use prefixed_api_key::PrefixedApiKeyController;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use crate::interop::peers;

/// What another system has exported.
struct Export {
    source: ImportSource,
    /// Its keys by name.
    keys: BTreeMap<String, String>,
    lines: String,
    /// The keys that are not imported, by the reason.
    skipped: Vec<(&'static str, Skipped)>,
}

/// Makes an export from what a program writes: the keys in the first line, then the rows.
fn export(
    source: ImportSource,
    written: &str,
    skipped: impl IntoIterator<Item = (&'static str, Skipped)>,
) -> Export {
    let (keys, lines) = written.split_once('\n').unwrap();
    Export {
        source,
        keys: serde_json::from_str(keys).unwrap(),
        lines: lines.to_owned(),
        skipped: skipped.into_iter().collect(),
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}: run scripts/test"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "run scripts/test: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn node(script: &str) -> String {
    let mut node = Command::new("node");
    node.current_dir(peers().join("node"));
    run(node.args(["--input-type=module", "-e", script]))
}

fn better_auth() -> Export {
    const SCRIPT: &str = r#"
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { apiKey } from "@better-auth/api-key";

const start = async (options) => {
    const db = { user: [], session: [], account: [], verification: [], apikey: [] };
    const auth = betterAuth({
        secret: "a secret that is only for a test", baseURL: "http://127.0.0.1",
        database: memoryAdapter(db), emailAndPassword: { enabled: true },
        logger: { disabled: true }, telemetry: { enabled: false },
        plugins: [apiKey({ enableMetadata: true, defaultPrefix: "ba_", ...options })],
    });
    const body = { email: "ann@example.com", password: "correct horse", name: "Ann" };
    const { user } = await auth.api.signUpEmail({ body });
    const create = async (name, more) => {
        const body = { userId: user.id, name, rateLimitEnabled: false, ...more };
        return (await auth.api.createApiKey({ body })).key;
    };
    return { db, create };
};

const { db, create } = await start({});
const keys = {
    plain: await create("plain"),
    full: await create("full", {
        permissions: { files: ["read", "write"] }, metadata: { team: "billing" }, remaining: 50,
        expiresIn: 86400 * 30, rateLimitEnabled: true, rateLimitMax: 70, rateLimitTimeWindow: 60000,
    }),
    refilled: await create("refilled", { remaining: 5, refillAmount: 9, refillInterval: 86400000 }),
    disabled: await create("disabled"),
    expired: await create("expired"),
    monthly: await create("monthly", { remaining: 5, refillAmount: 9, refillInterval: 2592000000 }),
};
db.apikey.find((row) => row.name === "disabled").enabled = false;
db.apikey.find((row) => row.name === "expired").expiresAt = new Date(0);
const unhashed = await start({ disableKeyHashing: true });
keys.unhashed = await unhashed.create("unhashed");
console.log(JSON.stringify(keys));
for (const row of [...db.apikey, ...unhashed.db.apikey]) console.log(JSON.stringify(row));
"#;
    export(
        ImportSource::better_auth(),
        &node(SCRIPT),
        [
            ("disabled", Skipped::Disabled),
            ("expired", Skipped::Expired),
            ("monthly", Skipped::Refill),
            ("unhashed", Skipped::UnsupportedDigest),
        ],
    )
}

fn django() -> Export {
    const SCRIPT: &str = r#"
import json, os, sys, tempfile
from datetime import timedelta
import django
from django.conf import settings
from django.core.management import call_command

with tempfile.TemporaryDirectory() as folder:
    file = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(folder, "db.sqlite3")}
    apps = ["django.contrib.contenttypes", "django.contrib.auth", "rest_framework", "rest_framework_api_key"]
    settings.configure(INSTALLED_APPS=apps, DATABASES={"default": file}, USE_TZ=True)
    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.hashers import make_password
    from django.utils import timezone
    from rest_framework_api_key.models import APIKey

    keys = {}
    for name in ["plain", "expiring", "revoked", "expired", "old"]:
        row, keys[name] = APIKey.objects.create_key(name=name)
        days = {"expiring": 30, "expired": -1}.get(name)
        row.expiry_date = days and timezone.now() + timedelta(days=days)
        row.revoked = name == "revoked"
        if name == "old": # as before version 3
            row.hashed_key = make_password(keys[name], hasher="pbkdf2_sha256")
        row.save()
    print(json.dumps(keys), flush=True)
    call_command("dumpdata", "rest_framework_api_key.apikey", format="jsonl", stdout=sys.stdout)
"#;
    let mut python = Command::new(peers().join("python/bin/python"));
    export(
        ImportSource::django_rest_framework_api_key(),
        &run(python.args(["-c", SCRIPT])),
        [
            ("revoked", Skipped::Revoked),
            ("expired", Skipped::Expired),
            ("old", Skipped::UnsupportedDigest),
        ],
    )
}

fn prefixed_api_key_of_npm() -> Export {
    const SCRIPT: &str = r#"
import { generateAPIKey } from "prefixed-api-key";

const [one, two] = [
    await generateAPIKey({ keyPrefix: "npm" }),
    await generateAPIKey({ keyPrefix: "npm", shortTokenPrefix: "v1", longTokenLength: 32 }),
];
console.log(JSON.stringify({ one: one.token, two: two.token }));
const row = (key, name) => JSON.stringify({
    name, short_token: key.shortToken, long_token_hash: key.longTokenHash, owner: "acme",
});
console.log(row(one, "one"));
console.log(row(two, "two"));
"#;
    export(ImportSource::prefixed_api_key("npm"), &node(SCRIPT), [])
}

fn prefixed_api_key_of_crates() -> Export {
    let (prefix, rng) = ("crate".to_owned(), prefixed_api_key::rand::rngs::OsRng);
    let controller = PrefixedApiKeyController::<_, prefixed_api_key::sha2::Sha256>::new(
        prefix, rng, None, 8, 24,
    );
    let (key, hash) = controller.generate_key_and_hash();
    let row = serde_json::json!({
        "name": "one", "short_token": key.short_token(), "long_token_hash": hash, "owner": "acme",
    });
    Export {
        source: ImportSource::prefixed_api_key("crate"),
        keys: BTreeMap::from([("one".to_owned(), key.to_string())]),
        lines: row.to_string(),
        skipped: Vec::new(),
    }
}

/// One key in two systems whose keys look alike.
fn unkey() -> Export {
    // internal/hash/src/sha256.test.ts of github.com/unkeyed/unkey.
    let (key, hash) = (
        "3ZG2fq6wALyJywNrL8Ao21FV",
        "8HrP1yRXT/iMQSdAXuvx1eDvt8wYOAonBBBHLeW59eo=",
    );
    Export {
        source: ImportSource::unkey(),
        keys: BTreeMap::from([("one".to_owned(), key.to_owned())]),
        lines: serde_json::json!({ "name": "one", "hash": hash, "start": "3ZG2" }).to_string(),
        skipped: Vec::new(),
    }
}

fn scheme() -> KeyScheme {
    let pepper = Pepper::new("2026", b"sixteen bytes or more").unwrap();
    let peppers = Peppers::new(pepper)
        .accepting(DigestScheme::Sha256OfSecret)
        .and_then(|peppers| peppers.accepting(DigestScheme::Sha512));
    KeyScheme::new(KeyFormat::new("acme_{env}_").unwrap()).peppers(peppers.unwrap())
}

/// A gate with the formats of all systems, the widest first.
fn gate(store: &SqliteStore) -> Gate {
    let format = |prefix| ForeignFormat::new(prefix).unwrap();
    Gate::builder(store, &scheme())
        .foreign_format(format("")) // Django, Unkey
        .foreign_format(format("ba_"))
        .foreign_format(format("").secret_after('|')) // Sanctum
        .foreign_format(format("npm_").secret_after('_'))
        .foreign_format(format("crate_").secret_after('_'))
        .build()
        .unwrap()
}

fn status(gate: &Gate, key: &str) -> u16 {
    let handler = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
    let service = RequireKeyLayer::new(gate, Requirement::new()).layer(handler);
    let request = Request::get("/").header("x-api-key", key);
    let response = block_on(service.oneshot(request.body(()).unwrap())).unwrap();
    response.status().as_u16()
}

fn map(row: &mut ImportRow) -> Result<NewKey, Skipped> {
    let account = AccountId::parse("acme")?;
    let scopes = row.grants.iter().map(|grant| grant.replace(':', "."));
    let scopes = Scopes::parse(scopes.collect::<Vec<_>>())?;
    Ok(row.new_key(account, Environment::LIVE)?.scopes(scopes))
}

fn import(admin: &KeyAdmin, export: &Export) -> (ImportTotals, Vec<ImportOutcome>) {
    let (operator, mut outcomes) = (Actor::operator("import"), Vec::new());
    let importer = Importer::new(admin, &operator, export.source.clone()).opening_accounts();
    let report = |report: ImportReport| outcomes.push(report.outcome);
    let totals = block_on(importer.run(export.lines.as_bytes(), map, report)).unwrap();
    (totals, outcomes)
}

#[test]
fn the_keys_of_every_system_work_at_one_gate() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("keys.db")).unwrap();
    let (admin, gate) = (KeyAdmin::new(&store, &scheme()), gate(&store));
    let exports = [
        better_auth(),
        django(),
        prefixed_api_key_of_npm(),
        prefixed_api_key_of_crates(),
        unkey(),
    ];
    for export in &exports {
        assert!(export.keys.values().all(|key| status(&gate, key) == 401));
        let (totals, outcomes) = import(&admin, export);
        let all = export.keys.len();
        assert_eq!(
            (outcomes.len(), totals.imported),
            (all, (all - export.skipped.len()) as u64)
        );
        for (line, outcome) in export.lines.lines().zip(&outcomes) {
            let row: Value = serde_json::from_str(line).unwrap();
            let name = row.get("name").or_else(|| row.get("fields")?.get("name"));
            let name = name.unwrap().as_str().unwrap();
            let mut skipped = export.skipped.iter();
            match (outcome, skipped.find(|(skipped, _)| *skipped == name)) {
                (ImportOutcome::Imported(_), None) => {}
                (ImportOutcome::Skipped(found), Some((_, expected))) => {
                    assert_eq!(found, expected, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    let is_imported =
        |export: &Export, name: &str| !export.skipped.iter().any(|(skipped, _)| *skipped == name);
    for turn in ["with the old digest", "rehashed"] {
        for export in &exports {
            for (name, key) in &export.keys {
                let expected = if is_imported(export, name) { 200 } else { 401 };
                assert_eq!(status(&gate, key), expected, "{name} {turn}");
                let last = if key.ends_with('x') { "y" } else { "x" };
                let wrong = format!("{}{last}", &key[..key.len() - 1]);
                assert_eq!(status(&gate, &wrong), 401, "{name} {turn}");
            }
        }
        block_on(store.flush()).unwrap();
    }
    let schemes = block_on(admin.schemes(&Actor::operator("test"))).unwrap();
    assert!(
        matches!(&schemes[..], [(DigestScheme::HmacSha256(_), _)]),
        "{schemes:?}"
    );
    for export in &exports {
        let (totals, _) = import(&admin, export);
        let before = (export.keys.len() - export.skipped.len()) as u64;
        assert_eq!((totals.imported, totals.already_imported), (0, before));
    }
}

#[test]
fn what_better_auth_says_of_a_key_is_taken_over() {
    let world = World::with_scheme(scheme());
    let export = better_auth();
    let (_, outcomes) = import(world.admin(), &export);
    let mut records = outcomes.into_iter().filter_map(|outcome| match outcome {
        ImportOutcome::Imported(id) => block_on(world.store().key(id)).unwrap(),
        _ => None,
    });
    let full = records.find(|record| record.name == "full").unwrap();
    assert_eq!(
        full.scopes,
        Scopes::parse(["files.read", "files.write"]).unwrap()
    );
    assert_eq!(full.metadata.as_str(), r#"{"team":"billing"}"#);
    assert_eq!(
        full.rate_limits.to_string(),
        keyward::RateLimit::per_minute(70).to_string()
    );
    assert_eq!(
        full.hint.to_string(),
        format!("{}…", &export.keys["full"][..6])
    );
    let days = full
        .expires_at
        .unwrap()
        .duration_since(full.created_at)
        .unwrap()
        .as_secs()
        / 86_400;
    assert!((29..=30).contains(&days), "{days}");
    let credits = |id| block_on(world.store().credits(id)).unwrap().unwrap();
    assert_eq!(
        credits(keyward::credits::CreditOwner::Key(full.id)).left,
        50
    );
    let refilled = records.find(|record| record.name == "refilled").unwrap();
    let refill = credits(keyward::credits::CreditOwner::Key(refilled.id))
        .refill
        .unwrap();
    assert_eq!(
        (refill.to, refill.schedule.unwrap().to_string().as_str()),
        (9, "day UTC")
    );
}

/// Lines that are made when they are read.
struct Lines {
    left: usize,
    line: Vec<u8>,
    read: usize,
}

impl Lines {
    fn of(number: usize) -> Self {
        Self {
            left: number,
            line: Vec::new(),
            read: 0,
        }
    }
}

impl Read for Lines {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        unreachable!("lines are read by `fill_buf`")
    }
}

impl BufRead for Lines {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.read == self.line.len() && self.left > 0 {
            self.left -= 1;
            let number = self.left % 40;
            self.line = match self.left % 5 {
                0 => format!(r#"{{"digest":"{number:064x}","name":"broken "#),
                1 => format!("{{\"digest\":\"{}\"}}", "x".repeat(100_000)),
                _ => format!(r#"{{"digest":"{number:064x}","name":"key {number}"}}"#),
            }
            .into_bytes();
            self.line.push(b'\n');
            self.read = 0;
        }
        Ok(&self.line[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

/// `LINES=1000000 cargo test --release -p tests import -- --nocapture` imports a million lines.
#[test]
fn memory_does_not_grow_with_the_export() {
    let lines = env::var("LINES").map_or(20_000, |lines| lines.parse().unwrap());
    let (world, source) = (World::new(), ImportSource::table(DigestScheme::Sha256));
    let operator = world.operator();
    let importer = Importer::new(world.admin(), &operator, source);
    let most = |lines: usize| {
        let mut reports = 0;
        let run = || {
            let done = importer.run(Lines::of(lines), map, |_| reports += 1);
            block_on(done).unwrap();
        };
        let most = measure(run).bytes_max;
        assert_eq!(reports, lines);
        println!("{lines} lines: {most} bytes at most");
        most
    };
    most(1000); // imports the keys
    let (few, many) = (most(1000), most(lines));
    assert!(
        many <= few + few / 10,
        "{few} bytes for 1000 lines, {many} for {lines}"
    );
    assert!(many < 4_000_000, "{many}");
}
