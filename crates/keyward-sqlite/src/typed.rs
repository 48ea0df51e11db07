//! Tests of what an operator types into `sqlite3`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::admin::AccountChange;
use keyward::denial::DenialKind;
use keyward::record::{AccountStatus, AuditAction};
use keyward::store::AuditQuery;
use keyward::testing::block_on;
use keyward::{Actor, KeyAdmin, Store};

use crate::fixture::{Fixture, add, ask_strictly, scheme, stored};

#[test]
fn nothing_that_is_typed_revives_a_revoked_key() {
    const ROW: &str = "INSERT OR REPLACE INTO keyward_key (id, digest_scheme, digest, hint, account, \
         environment, created_at, lineage, epoch) SELECT id, digest_scheme, digest, hint, account, \
         environment, created_at, lineage, 9 FROM keyward_key WHERE account = 'acme'";
    for revoked in [
        "UPDATE keyward_key SET status = 'revoked' WHERE account = 'acme'",
        "UPDATE keyward_account SET revoked_all = 1 WHERE id = 'acme'",
        "INSERT INTO keyward_epoch VALUES ('acme', 'live', 1)",
    ] {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        let (secret, _) = add(&store, "acme");
        add(&store, "other");
        fixture.type_in(revoked).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
        for typed in [
            "UPDATE keyward_key SET status = 'active', epoch = 9 WHERE account = 'acme'",
            "UPDATE keyward_key SET status = 'disabled', epoch = 9 WHERE account = 'acme'",
            "UPDATE keyward_key SET status = 'active', account = 'other' WHERE account = 'acme'",
            "UPDATE keyward_key SET status = 'active', environment = 'test' WHERE account = 'acme'",
            ROW,
            "UPDATE keyward_account SET revoked_all = 0; UPDATE keyward_key SET status = 'active'",
            "INSERT OR REPLACE INTO keyward_account (id) VALUES ('acme'); \
             UPDATE keyward_key SET status = 'active'",
            "UPDATE keyward_epoch SET revoked = 0; UPDATE keyward_key SET status = 'active'",
            "UPDATE keyward_epoch SET account = 'other'; UPDATE keyward_key SET status = 'active'",
            "INSERT OR REPLACE INTO keyward_epoch VALUES ('acme', 'live', 0); \
             UPDATE keyward_key SET status = 'active'",
            "DELETE FROM keyward_epoch; UPDATE keyward_key SET status = 'active'",
            "DELETE FROM keyward_account WHERE id = 'acme'; INSERT INTO keyward_account (id) VALUES ('acme'); \
             UPDATE keyward_key SET status = 'active'",
            "DELETE FROM keyward_account WHERE id = 'acme'; INSERT INTO keyward_account (id) VALUES ('acme')",
            "UPDATE OR REPLACE keyward_key SET redigested = redigested + 1, \
             digest = (SELECT digest FROM keyward_key WHERE account = 'acme') WHERE account = 'other'",
        ] {
            // A statement that changes nothing does not fail.
            drop(fixture.type_in(typed));
            let answer = ask_strictly(&store, &secret);
            assert_eq!(answer, Err(DenialKind::Revoked), "{revoked}; {typed}");
        }
    }
}

#[test]
fn a_revoked_key_whose_row_is_gone_is_not_written_anew() {
    /// Copies the row of the revoked key as an active one.
    const COPY: &str = "CREATE TEMP TABLE copy AS SELECT * FROM keyward_key WHERE account = 'acme'; \
         UPDATE copy SET status = 'active', epoch = 9, revision = 0, revoked_at = NULL; ";
    const ANEW: &str = "INSERT INTO keyward_key SELECT * FROM copy";
    for revoked in [
        "UPDATE keyward_key SET status = 'revoked' WHERE account = 'acme'",
        "UPDATE keyward_account SET revoked_all = 1 WHERE id = 'acme'",
    ] {
        for typed in [
            "DELETE FROM keyward_key WHERE account = 'acme'; ",
            "DELETE FROM keyward_key WHERE account = 'acme'; \
             UPDATE copy SET id = 'key_000000000000'; ",
            "DELETE FROM keyward_key WHERE account = 'acme'; \
             UPDATE keyward_key SET redigested = redigested + 1, digest = (SELECT digest FROM copy) \
             WHERE account = 'other'; ",
            "UPDATE keyward_key SET redigested = redigested + 1, digest = randomblob(32) WHERE account = 'acme'; \
             UPDATE copy SET id = 'key_000000000000'; ",
            "INSERT OR REPLACE INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
             created_at, lineage, status) SELECT id, digest_scheme, randomblob(32), hint, account, \
             environment, created_at, lineage, 'revoked' FROM keyward_key WHERE account = 'acme'; \
             UPDATE copy SET id = 'key_000000000000'; ",
        ] {
            let fixture = Fixture::new();
            let store = fixture.open_slow();
            let (secret, _) = add(&store, "acme");
            let (other, _) = add(&store, "other");
            fixture.type_in(revoked).unwrap();
            let typed = [COPY, typed, ANEW].concat();
            let error = fixture.type_in(&typed).unwrap_err();
            let wording = "a revoked key stays revoked";
            assert!(error.to_string().contains(wording), "{error}: {typed}");
            ask_strictly(&store, &secret).unwrap_err();
            assert_eq!(ask_strictly(&store, &other), Ok(()));
        }
    }
    // Active keys may be deleted and inserted again.
    let fixture = Fixture::new();
    let store = fixture.open_slow();
    let (secret, _) = add(&store, "acme");
    let delete = "DELETE FROM keyward_key WHERE account = 'acme'; ";
    let typed = [COPY, delete, ANEW].concat();
    fixture.type_in(&typed).unwrap();
    assert_eq!(ask_strictly(&store, &secret), Ok(()));
}

#[test]
fn what_is_typed_is_in_the_audit_log_and_what_a_program_does_is_there_once() {
    let fixture = Fixture::new();
    let store = Arc::new(fixture.open());
    let (_, record) = add(&store, "acme");
    let typed = format!(
        "UPDATE keyward_key SET status = 'disabled' WHERE id = '{0}'; \
         UPDATE keyward_key SET name = 'other' WHERE id = '{0}'; \
         UPDATE keyward_key SET status = 'revoked', revoked_for = 'seen' WHERE id = '{0}'; \
         UPDATE keyward_key SET status = 'revoked' WHERE id = '{0}'; \
         UPDATE keyward_account SET status = 'suspended'; \
         UPDATE keyward_account SET revoked_all = revoked_all + 1",
        record.id
    );
    let before = SystemTime::now() - Duration::from_secs(1);
    fixture.type_in(&typed).unwrap();
    let lines = || {
        let lines = block_on(store.audit(AuditQuery::newest(99))).unwrap();
        let mut lines: Vec<_> = lines
            .into_iter()
            .map(|line| (line.actor, line.action, line.key, line.reason, line.at))
            .collect();
        lines.reverse();
        lines
    };
    let noted = lines();
    let actions: Vec<_> = noted.iter().map(|(_, action, ..)| *action).collect();
    let expected = [
        AuditAction::Disable,
        AuditAction::Revoke,
        AuditAction::UpdateAccount,
        AuditAction::RevokeAll,
    ];
    assert_eq!(actions, expected);
    assert!(noted.iter().all(|(actor, ..)| actor == "sqlite3"));
    assert!(noted.iter().all(|(.., at)| *at >= before));
    assert_eq!(noted[1].2, Some(record.id));
    assert_eq!(noted[1].3, "seen");
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
    let own = lines().split_off(4);
    assert_eq!(own.len(), 4);
    assert!(own.iter().all(|(actor, ..)| actor == "operator:ann"));
}
