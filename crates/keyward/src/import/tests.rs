//! The rules of an import, whatever the system.

use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::admin::{Actor, KeyChange, NewKey};
use crate::clock::Clock;
use crate::environment::Environment;
use crate::error::{ParseError, ParseErrorKind};
use crate::gate::Verdict;
use crate::ids::{AccountId, KeyId};
use crate::import::lines::MAX_LINE;
use crate::import::{
    ImportErrorKind, ImportOutcome, ImportReport, ImportRow, ImportSource, ImportTotals, Importer,
    Skipped,
};
use crate::key::{DigestScheme, ForeignFormat, KeyFormat, Pepper, Peppers};
use crate::limit::RateLimit;
use crate::record::AdminErrorKind;
use crate::scheme::KeyScheme;
use crate::scope::{Permission, Scopes};
use crate::store::Store;
use crate::testing::{TestRequest, World, block_on, decided};

fn source() -> ImportSource {
    ImportSource::table(DigestScheme::Sha256)
}

fn old_key(number: usize) -> String {
    format!("old_{number:024}")
}

pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
}

/// A row of a key of `acme`, with more columns.
fn row(number: usize, more: &str) -> String {
    let digest = sha256(&old_key(number));
    format!(r#"{{"digest":"{digest}","owner":"acme","name":"key {number}"{more}}}"#)
}

fn map(row: &mut ImportRow) -> Result<NewKey, Skipped> {
    let owner = row.owner.as_deref().ok_or(Skipped::OwnerMissing)?;
    let scopes = Scopes::parse(&row.grants)?;
    let new = row.new_key(AccountId::parse(owner)?, Environment::LIVE)?;
    Ok(new.scopes(scopes))
}

fn import(world: &World, export: impl AsRef<[u8]>) -> (ImportTotals, Vec<ImportReport>) {
    let (operator, mut reports) = (world.operator(), Vec::new());
    let importer = Importer::new(world.admin(), &operator, source());
    let done = importer.run(export.as_ref(), map, |report| reports.push(report));
    (block_on(done).unwrap(), reports)
}

fn number_of_keys(world: &World) -> usize {
    world.store().replica().len()
}

fn id_of(report: ImportReport) -> KeyId {
    match report.outcome {
        ImportOutcome::Imported(id) | ImportOutcome::AlreadyImported(id) => id,
        ImportOutcome::Skipped(skipped) => panic!("{skipped}"),
    }
}

#[test]
fn a_second_import_changes_nothing_whatever_has_become_of_the_key() {
    let pepper = Pepper::new("2026", b"sixteen bytes or more").unwrap();
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let world = World::with_scheme(scheme.peppers(Peppers::new(pepper)));
    let format = ForeignFormat::new("old_").unwrap();
    let gate = world.builder().foreign_format(format).build().unwrap();
    let request = TestRequest::get().key(&old_key(1));
    let verdict = || decided(gate.check(&request, &Arc::default(), None));
    let export = row(1, "");
    let (totals, reports) = import(&world, &export);
    assert_eq!(totals.imported, 1);
    let id = id_of(reports[0]);

    let again = |expected| {
        let (totals, reports) = import(&world, &export);
        assert_eq!(
            (totals.imported, totals.already_imported),
            (0, 1),
            "{expected}"
        );
        assert_eq!(
            reports[0].outcome,
            ImportOutcome::AlreadyImported(id),
            "{expected}"
        );
        assert_eq!(number_of_keys(&world), 1, "{expected}");
    };
    again("before its first use");
    assert!(matches!(verdict(), Verdict::Admit(_)));
    block_on(world.store().flush()).unwrap();
    let record = block_on(world.store().key(id)).unwrap().unwrap();
    assert_eq!(record.digest.scheme().to_string(), "hmac-sha256:2026");
    again("after it was rehashed");
    assert!(matches!(verdict(), Verdict::Admit(_)));
    let change = KeyChange::new().name("another name");
    block_on(world.admin().update(&world.operator(), id, change)).unwrap();
    again("after it was renamed");
    block_on(world.admin().revoke(&world.operator(), id, "leaked")).unwrap();
    again("after it was revoked");
}

/// Lines that are not imported, and their reports.
fn other_lines() -> Vec<(Vec<u8>, Option<ImportOutcome>)> {
    let long = format!("{{\"digest\":\"{}\"}}", "a".repeat(MAX_LINE));
    let no_owner = format!(r#"{{"digest":"{}","name":"x"}}"#, sha256("no owner"));
    let no_name = format!(
        r#"{{"digest":"{}","owner":"acme","name":" "}}"#,
        sha256("no name")
    );
    let other = format!(
        r#"{{"digest":"{}","owner":"other","name":"x"}}"#,
        sha256("other")
    );
    let bcrypt = "$2a$12$K1mJ8x0gfEWSxbyDxKGBuuXhKQ0kGnTt4R0zDZ6t6hZ6lS9e1m0Uq";
    let skip = ImportOutcome::Skipped;
    let refused = |kind| skip(Skipped::Refused(kind));
    let parse = |kind| skip(Skipped::Mapping(ParseError::new("scope", kind).at(0)));
    vec![
        (
            row(2, r#","enabled":false"#).into(),
            Some(skip(Skipped::Disabled)),
        ),
        (b"".into(), None),
        (b" \t".into(), None),
        (
            b"{\"digest\":\"\xff\"}".into(),
            Some(skip(Skipped::NotUtf8)),
        ),
        (b"\xff\xfe{\0}\0".into(), Some(skip(Skipped::NotUtf8))), // UTF-16
        (b"digest,owner,name".into(), Some(skip(Skipped::NotJson))),
        (b"[]".into(), Some(skip(Skipped::NotJson))),
        (b"{\"digest\":".into(), Some(skip(Skipped::NotJson))),
        (long.into(), Some(skip(Skipped::TooLong))),
        (b"{}".into(), Some(skip(Skipped::Malformed("digest")))),
        (
            b"{\"digest\":[1]}".into(),
            Some(skip(Skipped::Malformed("digest"))),
        ),
        (
            format!(r#"{{"digest":"{bcrypt}"}}"#).into(),
            Some(skip(Skipped::UnsupportedDigest)),
        ),
        // A table that has the key itself.
        (
            format!(r#"{{"digest":"{}"}}"#, old_key(3)).into(),
            Some(skip(Skipped::UnsupportedDigest)),
        ),
        (
            row(4, r#","expires_at":"2020-01-01""#).into(),
            Some(skip(Skipped::Expired)),
        ),
        (
            row(4, r#","expires_at":"soon""#).into(),
            Some(skip(Skipped::Malformed("expires_at"))),
        ),
        (
            row(4, r#","enabled":"maybe""#).into(),
            Some(skip(Skipped::Malformed("enabled"))),
        ),
        (
            row(4, r#","metadata":[1]"#).into(),
            Some(skip(Skipped::Malformed("metadata"))),
        ),
        (
            row(4, r#","scopes":{"a":1}"#).into(),
            Some(skip(Skipped::Malformed("scopes"))),
        ),
        (
            row(4, r#","prefix":"Ä""#).into(),
            Some(skip(Skipped::Malformed("prefix"))),
        ),
        (
            row(4, r#","scopes":["\""]"#).into(),
            Some(parse(ParseErrorKind::Character)),
        ),
        (no_owner.into(), Some(skip(Skipped::OwnerMissing))),
        (no_name.into(), Some(skip(Skipped::NameMissing))),
        (other.into(), Some(refused(AdminErrorKind::UnknownAccount))),
        (
            row(4, r#","scopes":["api_keys.unknown"]"#).into(),
            Some(refused(AdminErrorKind::Scopes)),
        ),
    ]
}

#[test]
fn every_line_gets_one_report_and_none_stops_the_import() {
    let (world, cases) = (World::new(), other_lines());
    let mut export = b"\xef\xbb\xbf".to_vec(); // a byte order mark
    export.extend(row(1, "").as_bytes());
    for (number, (line, _)) in cases.iter().enumerate() {
        export.extend(if number % 2 == 0 { &b"\r\n"[..] } else { b"\n" });
        export.extend(line);
    }
    export.extend(format!("\n{}\n{}\n", row(1, ""), row(5, "")).as_bytes());
    let (totals, reports) = import(&world, &export);
    let first = id_of(reports[0]);
    let mut expected = vec![ImportReport::new(1, ImportOutcome::Imported(first))];
    for (line, (_, outcome)) in (2..).zip(&cases) {
        expected.extend(outcome.map(|outcome| ImportReport::new(line, outcome)));
    }
    let (last, before) = reports.split_last().unwrap();
    let line = cases.len() as u64 + 2;
    expected.push(ImportReport::new(
        line,
        ImportOutcome::AlreadyImported(first),
    ));
    assert_eq!(before, expected);
    assert_eq!(
        *last,
        ImportReport::new(line + 1, ImportOutcome::Imported(id_of(*last)))
    );
    let skipped = (reports.len() - 3) as u64;
    assert_eq!(
        (totals.imported, totals.already_imported, totals.skipped),
        (2, 1, skipped)
    );
    assert_eq!(number_of_keys(&world), 2);
}

#[test]
fn an_import_can_be_spawned() {
    fn is_send<T: Send>(_: T) {}
    let (world, operator) = (World::new(), Actor::operator("test"));
    let importer = Importer::new(world.admin(), &operator, source());
    is_send(importer.run(&b""[..], map, |_| ()));
}

#[test]
fn an_expiry_is_judged_by_the_clock_of_the_store() {
    let world = World::new();
    let now = world.clock().unix().as_secs();
    let outcome = |at| {
        let (_, reports) = import(&world, row(1, &format!(r#","expires_at":{at}"#)));
        reports[0].outcome
    };
    assert_eq!(outcome(now), ImportOutcome::Skipped(Skipped::Expired));
    assert!(matches!(outcome(now + 1), ImportOutcome::Imported(_)));
}

#[test]
fn no_report_contains_a_text_of_the_export() {
    let world = World::new();
    let own = world.key("");
    let lines = [
        format!(r#"{{"digest":"{own}","owner":"acme","name":"x"}}"#),
        format!(
            r#"{{"digest":"{}","owner":"acme","name":"{own}"}}"#,
            sha256("x")
        ),
        format!(
            r#"{{"digest":"{}","owner":"acme","name":"x","scopes":["{own}"]}}"#,
            sha256("x")
        ),
        format!(
            r#"{{"digest":"{}","owner":"{own}","name":"x"}}"#,
            sha256("x")
        ),
        format!(
            r#"{{"digest":"{}","owner":"acme","name":"x","prefix":"{own}"}}"#,
            sha256("y")
        ),
    ];
    let (totals, reports) = import(&world, lines.join("\n"));
    assert_eq!(totals.imported, 1, "the last, with a hint that is cut");
    assert!(!format!("{reports:?}").contains(&own));
    assert!(
        reports
            .iter()
            .all(|report| !report.to_string().contains(&own))
    );
    let record = block_on(world.store().key(id_of(*reports.last().unwrap())))
        .unwrap()
        .unwrap();
    assert!(record.hint.to_string().len() < 20, "{}", record.hint);
    let mut row = source()
        .row(lines[1].as_bytes(), SystemTime::UNIX_EPOCH)
        .unwrap();
    row.name = None;
    assert!(!format!("{row:?}").contains(&sha256("x")));
}

#[test]
fn imports_at_the_same_time_create_each_key_once() {
    let world = World::new();
    let admin = world.admin().clone().max_active_keys(1000);
    let operator = world.operator();
    let export: Vec<_> = (0..200).map(|number| row(number, "")).collect();
    let export = export.join("\n");
    let totals = thread::scope(|threads| {
        let run = || {
            let importer = Importer::new(&admin, &operator, source());
            block_on(importer.run(export.as_bytes(), map, |_| ())).unwrap()
        };
        let running: Vec<_> = (0..4).map(|_| threads.spawn(run)).collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect::<Vec<_>>()
    });
    let sum = |count: fn(&ImportTotals) -> u64| totals.iter().map(count).sum::<u64>();
    assert_eq!(sum(|totals| totals.imported), 200);
    assert_eq!(sum(|totals| totals.already_imported), 600);
    assert_eq!(number_of_keys(&world), 200);
}

#[test]
fn an_import_that_could_not_read_on_is_completed_by_the_next_one() {
    struct Torn;
    impl Read for Torn {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::TimedOut.into())
        }
    }
    let (world, operator) = (World::new(), Actor::operator("test"));
    let export = format!("{}\n{}\n{}", row(1, ""), row(2, ""), row(3, ""));
    let importer = Importer::new(world.admin(), &operator, source());
    let mut reports = Vec::new();
    let torn = BufReader::new(
        export
            .as_bytes()
            .get(..export.len() - 5)
            .unwrap()
            .chain(Torn),
    );
    let done = block_on(importer.run(torn, map, |report| reports.push(report)));
    let error = done.unwrap_err();
    assert_eq!((error.kind(), error.line()), (ImportErrorKind::Read, 3));
    assert_eq!(reports.len(), 2);
    let (totals, _) = import(&world, &export);
    assert_eq!((totals.imported, totals.already_imported), (1, 2));
}

#[test]
fn an_account_is_opened_only_if_the_service_and_the_actor_may() {
    let world = World::new();
    let line = format!(r#"{{"digest":"{}","owner":"new","name":"x"}}"#, sha256("x"));
    let new = AccountId::parse("new").unwrap();
    let user = Actor::user("ann", new.clone(), Permission::ALL);
    let run = |actor: &Actor, opens: bool| {
        let importer = Importer::new(world.admin(), actor, source());
        let importer = if opens {
            importer.opening_accounts()
        } else {
            importer
        };
        let mut outcome = None;
        let report = |report: ImportReport| outcome = Some(report.outcome);
        block_on(importer.run(line.as_bytes(), map, report)).unwrap();
        outcome.unwrap()
    };
    let unknown = Skipped::Refused(AdminErrorKind::UnknownAccount);
    assert_eq!(
        run(&world.operator(), false),
        ImportOutcome::Skipped(unknown)
    );
    assert_eq!(run(&user, true), ImportOutcome::Skipped(unknown));
    assert!(
        block_on(world.store().account(new.clone()))
            .unwrap()
            .is_none()
    );
    let imported = run(&world.operator(), true);
    assert!(
        matches!(imported, ImportOutcome::Imported(_)),
        "{imported:?}"
    );
    let again = run(&user, true);
    assert!(
        matches!(again, ImportOutcome::AlreadyImported(_)),
        "{again:?}"
    );
}

#[test]
fn a_digest_that_is_stored_without_a_token_is_reported() {
    let world = World::new();
    let one = source()
        .row(row(1, "").as_bytes(), SystemTime::UNIX_EPOCH)
        .unwrap();
    let operator = world.operator();
    let imported = world
        .admin()
        .import(&operator, world.new_key(), one.digest, None);
    block_on(imported).unwrap();
    let (_, reports) = import(&world, row(1, ""));
    assert_eq!(
        reports[0].outcome,
        ImportOutcome::Skipped(Skipped::DigestStored)
    );
    assert_eq!(number_of_keys(&world), 1);
}

#[test]
fn what_an_account_has_no_room_for_is_imported_once_it_has() {
    let world = World::new();
    let export: Vec<_> = (0..60).map(|number| row(number, "")).collect();
    let export = export.join("\n");
    let (totals, reports) = import(&world, &export);
    assert_eq!((totals.imported, totals.skipped), (50, 10));
    let full = ImportOutcome::Skipped(Skipped::Refused(AdminErrorKind::TooManyKeys));
    assert_eq!(
        reports
            .iter()
            .filter(|report| report.outcome == full)
            .count(),
        10
    );
    let (admin, operator) = (world.admin().clone().max_active_keys(60), world.operator());
    let importer = Importer::new(&admin, &operator, source());
    let totals = block_on(importer.run(export.as_bytes(), map, |_| ())).unwrap();
    assert_eq!((totals.imported, totals.already_imported), (10, 50));
}

/// The ways in which a key may differ from what an actor may grant.
fn wish() -> impl Strategy<Value = (usize, bool, Option<u64>, Option<u32>, Vec<u8>)> {
    let scope = prop::collection::vec(0..5_u8, 0..4);
    (
        0..2_usize,
        any::<bool>(),
        prop::option::of(1..200_u64),
        prop::option::of(1..100_u32),
        scope,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nobody_imports_a_key_that_he_could_not_create(
        actor in 0..4_usize,
        held in wish(),
        (account, is_live, expiry, limit, scopes) in wish(),
    ) {
        const SCOPES: [&str; 5] = ["kyc", "reports.read", "reports.*", "api_keys.create", "api_keys.revoke"];
        let scopes_of = |wish: &[u8]| {
            let names = wish.iter().map(|scope| SCOPES[usize::from(*scope)]);
            Scopes::parse(names.collect::<std::collections::BTreeSet<_>>()).unwrap()
        };
        let world = World::new();
        let now = SystemTime::UNIX_EPOCH + world.clock().unix();
        let (operator, acme) = (world.operator(), AccountId::parse("acme").unwrap());
        let other = AccountId::parse("other").unwrap();
        block_on(world.admin().open_account(&operator, &other)).unwrap();
        let create = Permission::ALL.into_iter().next().unwrap();
        let actor = match actor {
            0 => Actor::user("ann", acme.clone(), Permission::ALL),
            1 => Actor::user("ann", acme.clone(), [create]),
            2 => Actor::user("ann", acme.clone(), []),
            _ => {
                let mut new = world.new_key().scopes(scopes_of(&held.4));
                if let Some(seconds) = held.2 {
                    new = new.expires_at(now + Duration::from_secs(seconds));
                }
                if let Some(limit) = held.3 {
                    new = new.rate_limits(RateLimit::per_minute(limit));
                }
                let created = world.create(new);
                Actor::key(&world.principal(created.key.unwrap().expose_secret()))
            }
        };
        let environment = if is_live { Environment::LIVE } else { Environment::TEST };
        let mut new = NewKey::new([acme, other][account].clone(), environment, "key 1");
        new = new.scopes(scopes_of(&scopes));
        if let Some(seconds) = expiry {
            new = new.expires_at(now + Duration::from_secs(seconds));
        }
        if let Some(limit) = limit {
            new = new.rate_limits(RateLimit::per_minute(limit));
        }
        let created = block_on(world.admin().create(&actor, new.clone()));
        let importer = Importer::new(world.admin(), &actor, source()).opening_accounts();
        let mut outcome = None;
        let map = |_: &mut ImportRow| Ok(new.clone());
        let report = |report: ImportReport| outcome = Some(report.outcome);
        block_on(importer.run(row(1, "").as_bytes(), map, report)).unwrap();
        match (created, outcome.unwrap()) {
            (Ok(created), ImportOutcome::Imported(id)) => {
                let imported = block_on(world.store().key(id)).unwrap().unwrap();
                prop_assert_eq!(imported.scopes, created.record.scopes);
                prop_assert_eq!(imported.expires_at, created.record.expires_at);
                prop_assert_eq!(imported.rate_limits, created.record.rate_limits);
            }
            (Err(error), outcome) => {
                let refused = Skipped::Refused(error.kind());
                prop_assert_eq!(outcome, ImportOutcome::Skipped(refused));
            }
            (Ok(_), outcome) => prop_assert!(false, "{:?}", outcome),
        }
    }

    #[test]
    fn any_bytes_get_a_report_for_each_line_and_create_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        systems in 0..7_usize,
    ) {
        let world = World::new();
        let source = [
            ImportSource::better_auth(),
            ImportSource::unkey(),
            ImportSource::sanctum(),
            ImportSource::django_rest_framework_api_key(),
            ImportSource::prefixed_api_key("acme"),
            ImportSource::api_keys_gem(),
            source(),
        ][systems].clone();
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.trim_ascii().is_empty()).count();
        let (operator, mut reports) = (world.operator(), 0);
        let importer = Importer::new(world.admin(), &operator, source);
        let totals = block_on(importer.run(&*bytes, map, |_| reports += 1)).unwrap();
        prop_assert_eq!((reports, totals.imported), (lines, 0));
    }
}
