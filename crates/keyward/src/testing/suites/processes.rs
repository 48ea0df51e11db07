//! The promises of stores that several processes share, such as a file or a server.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::clock::{ManualClock, SystemClock};
use crate::denial::DenialKind;
use crate::gate::Gate;
use crate::key::{DigestScheme, Pepper, Peppers};
use crate::record::{AuditAction, AuditEntry, KeyStatus};
use crate::store::{ActiveKeys, AuditQuery, Commit, CreateToken, Store, StoreErrorKind};
use crate::testing::block_on;
use crate::testing::probe::{
    add, admit, ask, ask_often, ask_strictly, ask_with, commit, key, left, rich, scheme, spend_all,
    stored, used, write,
};
use crate::testing::suites::Open;

#[doc(hidden)]
#[macro_export]
macro_rules! __processes_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] processes
            everything_survives_a_reopening
            a_last_use_never_goes_back
            a_revoked_key_cannot_be_written_back_by_a_program
            two_processes_do_not_both_take_the_last_place
            two_processes_that_digest_a_key_anew_agree
            processes_that_spend_one_balance_spend_it_once
            a_charge_that_cannot_be_met_draws_no_credits
        }
    };
}

/// The promises, one by one. Each call of `open` opens the same database, as another process does.
pub mod promises {
    crate::__processes_promises!(__publish_promises);
}

/// Opens the database as one more process.
fn process(open: Open<'_>) -> Arc<dyn Store> {
    open(Arc::new(SystemClock))
}

fn everything_survives_a_reopening(open: Open<'_>) {
    let store = process(open);
    let (secret, record) = add(&store, "acme");
    let (account, token) = (record.account.clone(), "token".to_owned());
    let mut line = AuditEntry::new(SystemTime::UNIX_EPOCH, "ann", AuditAction::Create);
    line.key = Some(record.id);
    let noted = Commit {
        token: Some(CreateToken {
            account: account.clone(),
            token: token.clone(),
            key: record.id,
        }),
        audit: vec![line],
        ..Commit::default()
    };
    write(&store, noted).unwrap();
    ask(&store, &secret).unwrap();
    block_on(store.flush()).unwrap();
    let everything = |store: &Arc<dyn Store>| {
        (
            block_on(store.account(account.clone())).unwrap(),
            stored(store, record.id),
            block_on(store.created_with(account.clone(), token.clone())).unwrap(),
            block_on(store.audit(AuditQuery::newest(9))).unwrap(),
            used(store, "acme"),
        )
    };
    let before = everything(&store);
    assert!(before.1.last_used_at.is_some());
    assert_eq!((before.2, before.3.len()), (Some(record.id), 1));
    assert_eq!(before.4, (1, 0));
    drop(store);

    let store = process(open);
    assert_eq!(everything(&store), before);
    assert_eq!(ask(&store, &secret), Ok(()), "loaded when it is opened");
}

fn a_last_use_never_goes_back(open: Open<'_>) {
    let start = Duration::from_secs(1_700_000_000);
    let hour = Duration::from_secs(3600);
    let clock = Arc::new(ManualClock::at(start + 2 * hour));
    let store = open(Arc::<ManualClock>::clone(&clock));
    let (secret, record) = add(&store, "acme");
    for later in [2, 1, 0] {
        clock.set_unix(start + later * hour);
        ask_often(&store, &secret, 1);
        block_on(store.flush()).unwrap();
        let last = stored(&store, record.id).last_used_at;
        assert_eq!(last, Some(SystemTime::UNIX_EPOCH + start + 2 * hour));
    }
    assert_eq!(used(&store, "acme"), (3, 0));
}

fn a_revoked_key_cannot_be_written_back_by_a_program(open: Open<'_>) {
    let store = process(open);
    let (secret, record) = add(&store, "acme");
    let mut record = stored(&store, record.id);
    record.status = KeyStatus::Revoked;
    commit(&store, vec![], vec![record.clone()]).unwrap();
    record = stored(&store, record.id);
    record.status = KeyStatus::Active;
    let written = commit(&store, vec![], vec![record]);
    assert_eq!(written, Err(StoreErrorKind::Conflict));
    assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
}

fn two_processes_do_not_both_take_the_last_place(open: Open<'_>) {
    let stores = [process(open), process(open), process(open)];
    let (_, first) = add(&stores[0], "acme");
    let account = block_on(stores[0].account(first.account)).unwrap().unwrap();
    let create = |store: &Arc<dyn Store>| {
        let (_, record) = key("acme");
        let active_keys = Some(ActiveKeys {
            account: record.account.clone(),
            at_most: 5,
            now: SystemTime::now(),
        });
        let commit = Commit {
            keys: vec![record],
            unchanged_accounts: vec![(account.id.clone(), account.revision)],
            active_keys,
            ..Commit::default()
        };
        write(store, commit)
    };
    let outcomes: Vec<_> = thread::scope(|threads| {
        let stores = stores.iter().cycle().take(12);
        let all: Vec<_> = stores
            .map(|store| threads.spawn(|| create(store)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let done = outcomes.iter().filter(|outcome| outcome.is_ok());
    assert_eq!(done.count(), 4, "beside the one that was there");
    let full = Err(StoreErrorKind::TooManyKeys);
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.is_ok() || *outcome == full)
    );
}

fn two_processes_that_digest_a_key_anew_agree(open: Open<'_>) {
    let (one, other) = (process(open), process(open));
    let (secret, record) = add(&one, "acme");
    ask_strictly(&other, &secret).unwrap();
    let new = Peppers::new(Pepper::new("new", &[7; 32]).unwrap());
    let both = new.clone().accepting(DigestScheme::Sha256).unwrap();
    let ask = |store: &Arc<dyn Store>, peppers: &Peppers| {
        let scheme = scheme().peppers(peppers.clone());
        ask_with(&Gate::new(store, &scheme).unwrap(), &secret)
    };
    thread::scope(|threads| {
        for store in [&one, &other] {
            threads.spawn(|| {
                ask(store, &both).unwrap();
                block_on(store.flush()).unwrap();
                ask(store, &new).unwrap();
            });
        }
    });
    let now = stored(&one, record.id);
    assert_eq!(now.redigested, 1);
    assert_eq!(now.digest, new.digest(&secret));
    assert_eq!(used(&one, "acme").0, 3);
}

fn processes_that_spend_one_balance_spend_it_once(open: Open<'_>) {
    let (owner, key) = rich(&process(open), 3000);
    let stores = [(); 3].map(|()| process(open));
    let spent: u64 = thread::scope(|threads| {
        let process = |store: Arc<dyn Store>| {
            thread::scope(|requests| {
                let all: Vec<_> = (0..2)
                    .map(|_| requests.spawn(|| spend_all(&store, &key)))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).sum::<u64>()
            })
        };
        let all = stores.map(|store| threads.spawn(move || process(store)));
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    // The credits held by one process while the other was refused are returned when it ends.
    let store = process(open);
    assert_eq!(spent + left(&store, &owner), 3000);
    assert_eq!(spend_all(&store, &key), 3000 - spent);
}

fn a_charge_that_cannot_be_met_draws_no_credits(open: Open<'_>) {
    let (one, other) = (process(open), process(open));
    let (owner, key) = rich(&one, 1000);
    let caller = admit(&one, &key);
    let mut charge = pin!(caller.charge(5000));
    // The store has answered, and the request has not run yet.
    let mut is_asked = false;
    let early = block_on(poll_fn(|context| {
        if mem::replace(&mut is_asked, true) {
            return Poll::Ready(None);
        }
        charge.as_mut().poll(context).map(Some)
    }));
    assert_eq!(left(&other, &owner), 999);
    assert_eq!(ask_strictly(&other, &key), Ok(()));
    let charged = block_on(admit(&other, &key).charge(900));
    assert_eq!(charged.map_err(|error| error.kind()), Ok(()));
    let refused = early.unwrap_or_else(|| block_on(charge)).unwrap_err();
    assert_eq!(refused.kind(), DenialKind::CreditsExhausted);
    drop((one, other));
    assert_eq!(left(&process(open), &owner), 97);
}
