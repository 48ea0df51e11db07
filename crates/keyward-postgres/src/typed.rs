//! Tests of what an operator types into `psql`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::admin::AccountChange;
use keyward::denial::DenialKind;
use keyward::record::{AccountStatus, AuditAction};
use keyward::store::AuditQuery;
use keyward::testing::block_on;
use keyward::{Actor, KeyAdmin, Store};

use crate::fixture::{Fixture, add, ask, ask_strictly, eventually, scheme, stored};

/// Copies the row of the key of `acme`, as an active one.
const COPY: &str = "CREATE TEMP TABLE copy AS SELECT * FROM keyward.key WHERE account = 'acme'; \
     UPDATE copy SET status = 'active', epoch = 9, revoked_at = NULL; ";

#[test]
fn what_is_typed_holds_within_the_poll_interval() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let (secret, _) = add(&store, "acme");
    for (typed, answer) in [
        (
            "UPDATE keyward.key SET status = 'disabled'",
            Err(DenialKind::Disabled),
        ),
        ("UPDATE keyward.key SET status = 'active'", Ok(())),
        (
            "UPDATE keyward.account SET status = 'suspended'",
            Err(DenialKind::AccountInactive),
        ),
        ("UPDATE keyward.account SET status = 'active'", Ok(())),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SAVEPOINT one; \
             UPDATE keyward.account SET revoked_all = revoked_all + 1; COMMIT",
            Err(DenialKind::Revoked),
        ),
        ("DELETE FROM keyward.key", Err(DenialKind::Revoked)),
    ] {
        fixture.type_in(typed).unwrap();
        eventually(|| ask(&store, &secret) == answer);
    }
}

#[test]
fn nothing_that_is_typed_revives_a_revoked_key() {
    for revoked in [
        "UPDATE keyward.key SET status = 'revoked' WHERE account = 'acme'",
        "UPDATE keyward.account SET revoked_all = 1 WHERE id = 'acme'",
        "INSERT INTO keyward.epoch VALUES ('acme', 'live', 1)",
    ] {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        add(&store, "other");
        fixture.type_in(revoked).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
        for typed in [
            "UPDATE keyward.key SET status = 'active', epoch = 9 WHERE account = 'acme'",
            "UPDATE keyward.key SET status = 'disabled', epoch = 9 WHERE account = 'acme'",
            "UPDATE keyward.key SET status = 'active', account = 'other' WHERE account = 'acme'",
            "UPDATE keyward.key SET status = 'active', environment = 'test' WHERE account = 'acme'",
            "INSERT INTO keyward.key SELECT * FROM copy ON CONFLICT (id) DO UPDATE \
             SET status = 'active', epoch = 9",
            "UPDATE keyward.account SET revoked_all = 0; UPDATE keyward.key SET status = 'active'",
            "INSERT INTO keyward.account (id) VALUES ('acme') \
             ON CONFLICT (id) DO UPDATE SET revoked_all = excluded.revoked_all; \
             UPDATE keyward.key SET status = 'active'",
            "UPDATE keyward.epoch SET revoked = 0; UPDATE keyward.key SET status = 'active'",
            "UPDATE keyward.epoch SET account = 'other'; UPDATE keyward.key SET status = 'active'",
            "DELETE FROM keyward.epoch; UPDATE keyward.key SET status = 'active'",
            "TRUNCATE keyward.epoch; UPDATE keyward.key SET status = 'active'",
            "TRUNCATE keyward.account CASCADE; INSERT INTO keyward.account (id) VALUES ('acme'); \
             INSERT INTO keyward.key SELECT * FROM copy",
            "DELETE FROM keyward.account WHERE id = 'acme'; \
             INSERT INTO keyward.account (id) VALUES ('acme')",
            "UPDATE keyward.key SET redigested = redigested + 1, \
             digest = (SELECT digest FROM copy) WHERE account = 'other'",
        ] {
            // A statement that changes nothing does not fail.
            drop(fixture.type_in(&[COPY, typed].concat()));
            let answer = ask_strictly(&store, &secret);
            assert_eq!(answer, Err(DenialKind::Revoked), "{revoked}; {typed}");
        }
    }
}

#[test]
fn a_revoked_key_whose_row_is_gone_is_not_written_anew() {
    const ANEW: &str = "INSERT INTO keyward.key SELECT * FROM copy";
    for revoked in [
        "UPDATE keyward.key SET status = 'revoked' WHERE account = 'acme'",
        "UPDATE keyward.account SET revoked_all = 1 WHERE id = 'acme'",
    ] {
        for typed in [
            "DELETE FROM keyward.key WHERE account = 'acme'; ",
            "TRUNCATE keyward.key CASCADE; ",
            "DELETE FROM keyward.key WHERE account = 'acme'; \
             UPDATE copy SET id = 'key_000000000000'; ",
            "DELETE FROM keyward.key WHERE account = 'acme'; \
             UPDATE keyward.key SET redigested = redigested + 1, digest = (SELECT digest FROM copy) \
             WHERE account = 'other'; ",
            "UPDATE keyward.key SET redigested = redigested + 1, \
             digest = sha256('other') WHERE account = 'acme'; \
             UPDATE copy SET id = 'key_000000000000'; ",
        ] {
            let fixture = Fixture::new();
            let store = fixture.open_slow();
            let (secret, _) = add(&store, "acme");
            let (other, _) = add(&store, "other");
            fixture.type_in(revoked).unwrap();
            let typed = [COPY, typed, ANEW].concat();
            let error = fixture.type_in(&typed).unwrap_err();
            let error = error.as_db_error().unwrap().message();
            assert!(
                error.contains("a revoked key stays revoked"),
                "{error}: {typed}"
            );
            ask_strictly(&store, &secret).unwrap_err();
            assert_eq!(ask_strictly(&store, &other), Ok(()));
        }
    }
    // Active keys may be deleted and inserted again.
    let fixture = Fixture::new();
    let store = fixture.open_slow();
    let (secret, _) = add(&store, "acme");
    let delete = "DELETE FROM keyward.key WHERE account = 'acme'; ";
    fixture.type_in(&[COPY, delete].concat()).unwrap();
    assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Unknown));
    let (secret, _) = add(&store, "other");
    let copy = COPY.replace("'acme'", "'other'");
    let delete = "DELETE FROM keyward.key WHERE account = 'other'; ";
    fixture.type_in(&[&copy, delete, ANEW].concat()).unwrap();
    assert_eq!(ask_strictly(&store, &secret), Ok(()));
}

#[test]
fn what_is_typed_is_in_the_audit_log_and_what_a_program_does_is_there_once() {
    let fixture = Fixture::new();
    let store = Arc::new(fixture.open());
    let (_, record) = add(&store, "acme");
    let before = SystemTime::now() - Duration::from_secs(1);
    for typed in [
        "UPDATE keyward.key SET status = 'disabled'",
        "UPDATE keyward.key SET name = 'other'",
        "UPDATE keyward.key SET status = 'revoked', revoked_for = 'seen'",
        "UPDATE keyward.key SET status = 'revoked'",
        "UPDATE keyward.account SET status = 'suspended'",
        "UPDATE keyward.account SET revoked_all = revoked_all + 1",
        "INSERT INTO keyward.epoch VALUES ('acme', 'live', 1)",
    ] {
        fixture.type_in(typed).unwrap();
    }
    let lines = || {
        let mut lines = block_on(store.audit(AuditQuery::newest(99))).unwrap();
        lines.reverse();
        lines
    };
    let noted = lines();
    let actions: Vec<_> = noted.iter().map(|line| line.action).collect();
    let expected = [
        AuditAction::Disable,
        AuditAction::Revoke,
        AuditAction::UpdateAccount,
        AuditAction::RevokeAll,
        AuditAction::RevokeAll,
    ];
    assert_eq!(actions, expected);
    assert!(noted.iter().all(|line| line.actor == "psql"));
    assert!(noted.iter().all(|line| line.at >= before));
    assert_eq!((noted[1].key, &*noted[1].reason), (Some(record.id), "seen"));
    let revoked_at = stored(&store, record.id).revoked_at.unwrap();
    assert!(revoked_at >= before && revoked_at <= SystemTime::now() + Duration::from_secs(1));

    let (_, record) = add(&store, "other");
    let admin = KeyAdmin::new(&store, &scheme());
    let operator = Actor::operator("ann");
    block_on(admin.disable(&operator, record.id)).unwrap();
    block_on(admin.revoke(&operator, record.id, "too")).unwrap();
    block_on(admin.revoke_all(&operator, &record.account, None, "")).unwrap();
    let suspended = AccountChange::new().status(AccountStatus::Suspended);
    block_on(admin.update_account(&operator, &record.account, suspended)).unwrap();
    let own = lines().split_off(5);
    assert_eq!(own.len(), 4);
    assert!(own.iter().all(|line| line.actor == "operator:ann"));
}

#[test]
fn no_line_of_the_audit_log_can_be_changed_or_deleted() {
    let fixture = Fixture::new();
    let store = fixture.open();
    add(&store, "acme");
    fixture
        .type_in("UPDATE keyward.key SET status = 'disabled'")
        .unwrap();
    let lines = || block_on(store.audit(AuditQuery::newest(9))).unwrap();
    let before = lines();
    assert_eq!(before.len(), 1);
    for typed in [
        "UPDATE keyward.audit SET actor = 'x'",
        "DELETE FROM keyward.audit",
        "TRUNCATE keyward.audit",
        "INSERT INTO keyward.audit (number, actor, action) VALUES (1, 'x', 'create') \
         ON CONFLICT (number) DO UPDATE SET actor = 'x'; UPDATE keyward.audit SET actor = 'x'",
    ] {
        fixture.type_in(typed).unwrap_err();
        assert_eq!(lines(), before, "{typed}");
    }
    // A number that is typed is not used, and a line that makes no sense hides no other.
    let line = "INSERT INTO keyward.audit (number, actor, action) VALUES (1, 'x', 'dance')";
    fixture.type_in(line).unwrap();
    assert_eq!(lines(), before);
}

#[test]
fn a_reader_of_the_audit_log_misses_no_line_that_is_committed_later() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let (_, record) = add(&store, "acme");
    add(&store, "other");
    let mut slow = fixture.psql();
    // It writes first, and commits last.
    let typed = "BEGIN; UPDATE keyward.key SET status = 'disabled' WHERE account = 'other'";
    slow.execute(typed).unwrap();
    let store = Arc::new(store);
    let admin = KeyAdmin::new(&store, &scheme());
    block_on(admin.disable(&Actor::operator("ann"), record.id)).unwrap();
    let newest = block_on(store.audit(AuditQuery::newest(1))).unwrap();
    slow.execute("COMMIT").unwrap();
    let lines = block_on(store.audit(AuditQuery::newest(9))).unwrap();
    assert_eq!(lines.len(), 2);
    assert_eq!((&*lines[0].actor, &lines[1]), ("psql", &newest[0]));
}
