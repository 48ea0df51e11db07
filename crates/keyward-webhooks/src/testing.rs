//! The test suite for implementations of [`WebhookStore`].

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a broken promise ends the test"
)]

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, SystemTime};

use keyward::environment::Environment;
use keyward::ids::AccountId;
use keyward::record::{Account, AuditAction, AuditEntry, DisabledBy};
use keyward::store::{AuditQuery, Commit, StoreErrorKind};
use keyward::testing::block_on;

use crate::sealing::{SealingKey, SealingKeys};
use crate::send::{
    AttemptOutcome, Conclusion, DueDelivery, EndpointId, EndpointStatus, EndpointUrl,
    RetrySchedule, WebhookEndpoint, WebhookMessage,
};
use crate::signature::{WebhookId, WebhookSecret};
use crate::store::{
    DeliveryClaim, EndpointLimit, ProvenEndpoints, Redelivery, WebhookCommit, WebhookStore,
};

/// Runs the suite over a store of webhooks.
///
/// `open` must return a new, empty store each time.
///
/// ```
/// # use keyward_webhooks::MemoryWebhooks;
/// keyward_webhooks::testing::check_webhooks(MemoryWebhooks::new);
/// ```
///
/// # Panics
/// Panics if a check fails.
pub fn check_webhooks<S: WebhookStore>(open: impl Fn() -> S) {
    returns_what_was_committed(&open());
    an_unknown_id_is_not_an_error(&open());
    refuses_a_commit_that_conflicts_with_what_is_stored(&open());
    writes_all_or_nothing(&open());
    enforces_the_limit_of_endpoints(&open());
    delivers_only_within_an_account_and_environment(&open());
    a_claim_is_exclusive_and_expires(&open());
    concurrent_claims_get_different_deliveries(open());
    claims_the_longest_due_and_few_for_each_endpoint(&open());
    reserves_a_share_for_endpoints_that_are_not_proven(&open());
    raises_its_signal_when_something_is_due(&open());
    carries_out_the_next_step_of_an_attempt(&open());
    a_late_conclusion_changes_only_that_it_arrived(&open());
    accepted_messages_wait_for_a_disabled_endpoint(&open());
    redelivers_what_is_asked_for(&open());
    lists_attempts_page_by_page(&open());
    a_deleted_endpoint_leaves_nothing(&open());
    deletes_only_messages_that_nothing_waits_for(&open());
}

fn returns_what_was_committed<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let mut endpoint = endpoint("acme", Environment::parse("eu-1").unwrap());
    endpoint.url = EndpointUrl::parse("https://bücher.example:8443/h'o\"ok?a=b&c=%00").unwrap();
    put(store, [&endpoint]).unwrap();
    let mut first = stored(store, endpoint.id());
    assert!(first.revision > 0, "a stored endpoint has a revision");
    endpoint.revision = first.revision;
    assert_eq!(first, endpoint);

    first.status = EndpointStatus::Disabled;
    first.disabled_by = Some(DisabledBy::User);
    first.previous = Some((sealed(), time(2_000)));
    first.secret = sealed();
    first.verified_at = Some(time(1_000));
    put(store, [&first]).unwrap();
    let second = stored(store, first.id());
    assert_ne!(
        second.revision, first.revision,
        "a change is another version"
    );
    first.revision = second.revision;
    assert_eq!(second, first);

    let id = WebhookId::parse("~!@#$%^&*'\"").unwrap();
    let message = WebhookMessage::new(
        first.account().clone(),
        Environment::LIVE,
        id,
        b"\0\xff not 'UTF-8'",
    );
    let message = message.unwrap().with_content_type("text/plain; a=\"b\"");
    let message = message.unwrap().accepted_at(time(500));
    accept(store, &message).unwrap();
    let (account, id) = (message.account().clone(), message.id().clone());
    let kept = block_on(store.message(account, Environment::LIVE, id));
    assert_eq!(kept.unwrap(), Some(message));
}

fn an_unknown_id_is_not_an_error<S: WebhookStore>(store: &S) {
    let (id, acme) = (EndpointId::random().unwrap(), account("acme"));
    assert_eq!(block_on(store.endpoint(id)).unwrap(), None);
    assert_eq!(block_on(store.endpoints(None, None)).unwrap(), []);
    let message = store.message(acme, Environment::LIVE, WebhookId::random().unwrap());
    assert_eq!(block_on(message).unwrap(), None);
    assert_eq!(block_on(store.attempts(id, None, 9)).unwrap(), []);
    assert_eq!(block_on(store.forget_messages(time(0))).unwrap(), 0);
    assert!(claim(store, 0, 9).is_empty());
}

fn refuses_a_commit_that_conflicts_with_what_is_stored<S: WebhookStore>(store: &S) {
    let conflict = Err(StoreErrorKind::Conflict);
    let live = endpoint("acme", Environment::LIVE);
    let early = message("acme", Environment::LIVE, 0);
    assert_eq!(put(store, [&live]), conflict, "no such account");
    assert_eq!(accept(store, &early), conflict, "no such account");
    open_accounts(store);
    put(store, [&live]).unwrap();
    assert_eq!(put(store, [&live]), conflict, "it is there already");
    let mut newer = stored(store, live.id());
    newer.revision += 1;
    assert_eq!(put(store, [&newer]), conflict, "another version");
    for (account, environment) in [("acme", Environment::TEST), ("other", Environment::LIVE)] {
        let mut moved = moved(&live, account, environment);
        moved.revision = stored(store, live.id()).revision;
        assert_eq!(put(store, [&moved]), conflict, "it would move");
    }
    let deleted = WebhookCommit {
        deleted: Some((live.id(), newer.revision)),
        ..WebhookCommit::default()
    };
    assert_eq!(write(store, deleted), conflict, "another version");

    accept(store, &early).unwrap();
    assert_eq!(accept(store, &early), conflict, "it is there already");
    for (account, environment) in [("acme", Environment::TEST), ("other", Environment::LIVE)] {
        let id = early.id().clone();
        let own = WebhookMessage::new(self::account(account), environment, id, "{}");
        accept(store, &own.unwrap()).unwrap();
    }
}

fn writes_all_or_nothing<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let (one, two) = (
        endpoint("acme", Environment::LIVE),
        endpoint("nobody", Environment::LIVE),
    );
    let line = AuditEntry::new(time(0), "ann", AuditAction::CreateEndpoint);
    let commit = WebhookCommit {
        endpoints: vec![one.clone(), two],
        message: Some(message("acme", Environment::LIVE, 0)),
        with: Commit {
            audit: vec![line],
            ..Commit::default()
        },
        ..WebhookCommit::default()
    };
    assert!(write(store, commit.clone()).is_err());
    let changed = Commit {
        unchanged_accounts: vec![(account("acme"), 12345)],
        ..commit.with.clone()
    };
    let endpoints = vec![one.clone()];
    let stale = WebhookCommit {
        endpoints: endpoints.clone(),
        with: changed,
        ..commit.clone()
    };
    assert_eq!(write(store, stale), Err(StoreErrorKind::Conflict));
    assert_eq!(block_on(store.endpoint(one.id())).unwrap(), None);
    assert!(claim(store, 0, 9).is_empty());
    assert_eq!(block_on(store.audit(AuditQuery::newest(9))).unwrap(), []);

    let whole = WebhookCommit {
        endpoints,
        ..commit
    };
    write(store, whole).unwrap();
    assert_eq!(claim(store, 0, 9).len(), 1);
    assert_eq!(
        block_on(store.audit(AuditQuery::newest(9))).unwrap().len(),
        1
    );
}

fn enforces_the_limit_of_endpoints<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let bounded = |account: &str, environment| {
        let endpoint = endpoint(account, environment);
        let at_most = Some(EndpointLimit {
            account: self::account(account),
            environment,
            at_most: 2,
        });
        let commit = WebhookCommit {
            endpoints: vec![endpoint],
            at_most,
            ..WebhookCommit::default()
        };
        write(store, commit)
    };
    let (live, test) = (Environment::LIVE, Environment::TEST);
    bounded("acme", live).unwrap();
    bounded("acme", live).unwrap();
    assert_eq!(bounded("acme", live), Err(StoreErrorKind::TooManyEndpoints));
    bounded("acme", test).unwrap();
    bounded("other", live).unwrap();
    let of = |account: &str, environment| {
        let account = Some(self::account(account));
        block_on(store.endpoints(account, environment))
            .unwrap()
            .len()
    };
    assert_eq!(of("acme", Some(live)), 2);
    assert_eq!((of("acme", Some(test)), of("acme", None)), (1, 3));
    assert_eq!(of("other", None), 1);
    assert_eq!(block_on(store.endpoints(None, None)).unwrap().len(), 4);
    let made = block_on(store.endpoints(None, Some(live))).unwrap();
    let in_order = made.is_sorted_by_key(|endpoint| endpoint.created_at);
    assert!(in_order && made.len() == 3);
}

fn delivers_only_within_an_account_and_environment<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let places = [
        ("acme", Environment::LIVE),
        ("acme", Environment::TEST),
        ("acme", Environment::parse("eu-1").unwrap()),
        ("other", Environment::LIVE),
        ("other", Environment::TEST),
    ];
    let mut expected = HashSet::new();
    for (account, environment) in places {
        let mut all = [(); 3].map(|()| endpoint(account, environment));
        all[2].status = EndpointStatus::Disabled;
        put(store, &all).unwrap();
        let message = message(account, environment, 0);
        accept(store, &message).unwrap();
        let own = all.iter().take(2);
        expected.extend(own.map(|endpoint| (message.id().clone(), endpoint.id())));
    }
    let due = claim(store, 0, 99);
    let pairs: HashSet<_> = due.iter().map(pair).collect();
    assert_eq!((pairs, due.len()), (expected, 10));
}

fn a_claim_is_exclusive_and_expires<S: WebhookStore>(store: &S) {
    let (_, message) = one_delivery(store);
    let claim_at = |now| {
        let due = claim(store, now, 9);
        due.first()
            .map(|due| (due.attempt(), due.message() == &message))
    };
    assert_eq!(claim_at(0), Some((1, true)));
    assert_eq!(claim_at(0), None, "it is claimed");
    assert_eq!(claim_at(59), None, "still");
    assert_eq!(
        claim_at(60),
        Some((2, true)),
        "nobody has said what came of it"
    );
    assert_eq!(claim_at(61), None, "claimed anew");
}

fn concurrent_claims_get_different_deliveries<S: WebhookStore>(store: S) {
    open_accounts(&store);
    put(&store, [&endpoint("acme", Environment::LIVE)]).unwrap();
    for _ in 0..40 {
        accept(&store, &message("acme", Environment::LIVE, 0)).unwrap();
    }
    let store = Arc::new(store);
    let claimed: Vec<_> = thread::scope(|threads| {
        let one = || {
            let mine = || claim(&*store, 0, 3);
            let all: Vec<_> = (0..5).flat_map(|_| mine()).collect();
            all.iter().map(pair).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..4).map(|_| threads.spawn(one)).collect();
        all.into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect()
    });
    let pairs: HashSet<_> = claimed.iter().collect();
    assert_eq!((pairs.len(), claimed.len()), (40, 40));
}

fn claims_the_longest_due_and_few_for_each_endpoint<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let (quiet, loud) = (
        endpoint("other", Environment::LIVE),
        endpoint("acme", Environment::LIVE),
    );
    put(store, [&quiet, &loud]).unwrap();
    let all: Vec<_> = (0..5)
        .map(|at| message("acme", Environment::LIVE, at))
        .collect();
    for message in all.iter().rev() {
        accept(store, message).unwrap();
    }
    let last = message("other", Environment::LIVE, 5);
    accept(store, &last).unwrap();

    let ask = |now, limit, each, busy: &[EndpointId]| {
        let claim = DeliveryClaim {
            now: time(now),
            until: time(1000),
            limit,
            each,
            busy: busy.to_vec(),
            proven: None,
        };
        let due = block_on(store.claim(claim)).unwrap();
        due.iter()
            .map(|due| due.message().id().clone())
            .collect::<Vec<_>>()
    };
    let ids = |range: std::ops::Range<usize>| {
        let part = all[range].iter();
        part.map(|message| message.id().clone()).collect::<Vec<_>>()
    };
    assert_eq!(ask(0, 9, 9, &[]), ids(0..1), "the others are not due");
    assert_eq!(ask(4, 9, 0, &[]), []);
    assert_eq!(ask(4, 0, 9, &[]), []);
    assert_eq!(
        ask(5, 9, 9, &[loud.id()]),
        [last.id().clone()],
        "the other is busy"
    );
    assert_eq!(ask(4, 9, 2, &[]), ids(1..3));
    assert_eq!(ask(4, 1, 2, &[]), ids(3..4));
    assert_eq!(ask(9, 9, 9, &[]), ids(4..5));
}

fn reserves_a_share_for_endpoints_that_are_not_proven<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let all = [(); 5].map(|()| endpoint("acme", Environment::LIVE));
    put(store, &all).unwrap();
    let proven: BTreeSet<_> = all[3..].iter().map(WebhookEndpoint::id).collect();
    let proven = Arc::new(proven);
    for at in 0..4 {
        accept(store, &message("acme", Environment::LIVE, at)).unwrap();
    }
    let ask = |limit, others, busy: &[EndpointId]| {
        let claim = DeliveryClaim {
            now: time(9),
            until: time(1000),
            limit,
            each: 2,
            busy: busy.to_vec(),
            proven: Some(ProvenEndpoints {
                endpoints: Arc::clone(&proven),
                others,
            }),
        };
        let due = block_on(store.claim(claim)).unwrap();
        let to = |due: &DueDelivery| proven.contains(&due.endpoint().id());
        let (to_proven, to_others): (Vec<_>, Vec<_>) = due.iter().partition(|due| to(due));
        let different: HashSet<_> = to_others.iter().map(|due| due.endpoint().id()).collect();
        assert_eq!(different.len(), to_others.len(), "one for each");
        (to_proven.len(), to_others.len())
    };
    assert_eq!(ask(0, 0, &[]), (0, 0));
    assert_eq!(ask(0, 2, &[]), (0, 2));
    assert_eq!(ask(3, 0, &[]), (3, 0));
    assert_eq!(ask(9, 0, &[]), (4, 0), "two for each");
    assert_eq!(ask(9, 9, &[all[0].id()]), (1, 2));
}

fn raises_its_signal_when_something_is_due<S: WebhookStore>(store: &S) {
    open_accounts(store);
    let mut endpoint = endpoint("acme", Environment::LIVE);
    let raised = |change: &dyn Fn()| {
        // A store without a signal is polled instead.
        let Some(signal) = store.outbox_signal() else {
            return true;
        };
        let mut raised = std::pin::pin!(signal.wait());
        change();
        let context = &mut Context::from_waker(Waker::noop());
        raised.as_mut().poll(context).is_ready()
    };
    assert!(raised(&|| put(store, [&endpoint]).unwrap()));
    let message = message("acme", Environment::LIVE, 0);
    assert!(raised(&|| accept(store, &message).unwrap()));
    conclude(
        store,
        &claim(store, 0, 9)[0],
        200,
        1,
        &RetrySchedule::default(),
    );
    let one = Redelivery::Message(message.id().clone());
    assert!(raised(&|| again(store, endpoint.id(), one.clone()).unwrap()));
    endpoint = stored(store, endpoint.id());
    assert!(raised(&|| put(store, [&endpoint]).unwrap()));
    if store.outbox_signal().is_some() {
        assert!(!raised(&|| drop(claim(store, 0, 9))));
    }
}

fn carries_out_the_next_step_of_an_attempt<S: WebhookStore>(store: &S) {
    let (endpoint, _) = one_delivery(store);
    let schedule = RetrySchedule::new([Duration::from_secs(100)]);
    conclude(store, &claim(store, 0, 9).remove(0), 503, 10, &schedule);
    assert!(claim(store, 109, 9).is_empty(), "not before it is time");
    let again = claim(store, 131, 9).remove(0);
    assert_eq!(again.attempt(), 2);
    conclude(store, &again, 500, 140, &schedule);
    assert!(claim(store, 1_000_000, 9).is_empty(), "given up");

    accept(store, &message("acme", Environment::LIVE, 0)).unwrap();
    conclude(store, &claim(store, 0, 9).remove(0), 204, 1, &schedule);
    assert!(claim(store, 1_000_000, 9).is_empty(), "delivered");

    let both = [(); 2].map(|()| message("acme", Environment::LIVE, 0));
    for message in &both {
        accept(store, message).unwrap();
    }
    let gone = claim(store, 0, 1).remove(0);
    conclude(store, &gone, 410, 1, &schedule);
    let off = stored(store, endpoint.id());
    assert_eq!(off.status, EndpointStatus::Gone);
    assert_ne!(off.revision, endpoint.revision);
    assert!(claim(store, 1_000_000, 9).is_empty(), "nor the other");

    let attempts = block_on(store.attempts(endpoint.id(), None, 9)).unwrap();
    let seen: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            (
                attempt.status,
                attempt.outcome,
                attempt.attempt,
                attempt.last,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Some(410), AttemptOutcome::Gone, 1, false),
            (Some(204), AttemptOutcome::Delivered, 1, true),
            (Some(500), AttemptOutcome::Refused, 2, true),
            (Some(503), AttemptOutcome::Refused, 1, false),
        ]
    );
    assert_eq!(
        (attempts[2].at, attempts[2].took),
        (time(139), Duration::from_secs(1))
    );
}

fn a_late_conclusion_changes_only_that_it_arrived<S: WebhookStore>(store: &S) {
    one_delivery(store);
    let schedule = RetrySchedule::new([Duration::from_secs(10_000)]);
    let late = claim(store, 0, 9).remove(0);
    let second = claim(store, 60, 9).remove(0);
    conclude(store, &late, 503, 70, &schedule);
    let third = claim(store, 120, 9).remove(0);
    assert_eq!(
        third.attempt(),
        3,
        "the claim that is over has put nothing off"
    );
    conclude(store, &second, 410, 130, &schedule);
    assert_eq!(claim(store, 180, 9).len(), 1, "nor switched anything off");
    conclude(store, &late, 200, 190, &schedule);
    assert!(claim(store, 1_000_000, 9).is_empty(), "but it has arrived");
    conclude(store, &third, 503, 200, &schedule);
    assert!(
        claim(store, 1_000_000, 9).is_empty(),
        "which nothing undoes"
    );
}

fn accepted_messages_wait_for_a_disabled_endpoint<S: WebhookStore>(store: &S) {
    let (endpoint, first) = one_delivery(store);
    let switch = |status| {
        let mut endpoint = stored(store, endpoint.id());
        endpoint.status = status;
        put(store, [&endpoint]).unwrap();
    };
    switch(EndpointStatus::Disabled);
    assert!(claim(store, 100, 9).is_empty());
    accept(store, &message("acme", Environment::LIVE, 0)).unwrap();
    switch(EndpointStatus::Gone);
    assert!(claim(store, 100, 9).is_empty());
    switch(EndpointStatus::Enabled);
    let due = claim(store, 100, 9);
    let ids: Vec<_> = due.iter().map(|due| due.message().id()).collect();
    assert_eq!(ids, [first.id()], "not what was published meanwhile");
}

fn redelivers_what_is_asked_for<S: WebhookStore>(store: &S) {
    let (endpoint, arrived) = one_delivery(store);
    let id = endpoint.id();
    let one = |message: &WebhookMessage| Redelivery::Message(message.id().clone());
    let due = |now| claim(store, now, 9).iter().map(pair).collect::<Vec<_>>();
    let [no_retry, one_retry] = [vec![], vec![Duration::ZERO]].map(RetrySchedule::new);
    conclude(store, &claim(store, 0, 9)[0], 200, 1, &no_retry);
    let [early, late] = [10, 20].map(|at| message("acme", Environment::LIVE, at));
    for message in [&early, &late] {
        accept(store, message).unwrap();
        conclude(store, &claim(store, 20, 9)[0], 503, 21, &no_retry);
    }
    assert_eq!(due(1_000_000), []);

    // Redeliver what was given up, from a time on, with all its retries.
    again(store, id, Redelivery::FailedSince(time(11))).unwrap();
    for (attempt, status) in [(2, 503), (3, 200)] {
        let due = claim(store, 40, 9);
        assert_eq!(due.len(), 1);
        assert_eq!(
            (pair(&due[0]), due[0].attempt()),
            ((late.id().clone(), id), attempt)
        );
        conclude(store, &due[0], status, 40, &one_retry);
    }
    again(store, id, Redelivery::FailedSince(time(11))).unwrap();
    assert_eq!(due(1_000_000), [], "it has arrived");

    // Redeliver a message whatever its outcome and that of a running attempt; also to a newer
    // endpoint.
    again(store, id, one(&arrived)).unwrap();
    let under_way = claim(store, 50, 9).remove(0);
    again(store, id, one(&arrived)).unwrap();
    conclude(store, &under_way, 503, 50, &no_retry);
    assert_eq!(due(50), [(arrived.id().clone(), id)]);
    let newer = self::endpoint("acme", Environment::LIVE);
    put(store, [&newer]).unwrap();
    again(store, newer.id(), one(&arrived)).unwrap();
    assert_eq!(due(50), [(arrived.id().clone(), newer.id())]);
    for due in claim(store, 500, 9) {
        conclude(store, &due, 200, 500, &no_retry);
    }

    // A disabled endpoint stays disabled, and gets it later.
    let mut switched = stored(store, id);
    switched.status = EndpointStatus::Disabled;
    put(store, [&switched]).unwrap();
    again(store, id, one(&late)).unwrap();
    again(store, id, Redelivery::FailedSince(time(0))).unwrap();
    assert_eq!(due(1_000_000), []);
    switched = stored(store, id);
    switched.status = EndpointStatus::Enabled;
    put(store, [&switched]).unwrap();
    assert_eq!(
        due(600),
        [&early, &late].map(|message| (message.id().clone(), id))
    );

    // Only within its account and environment, and only what exists.
    let conflict = Err(StoreErrorKind::Conflict);
    for (whose, environment) in [("acme", Environment::TEST), ("other", Environment::LIVE)] {
        let elsewhere = message(whose, environment, 0);
        accept(store, &elsewhere).unwrap();
        assert_eq!(again(store, id, one(&elsewhere)), conflict);
    }
    let nowhere = EndpointId::random().unwrap();
    assert_eq!(again(store, nowhere, one(&late)), conflict);
}

fn lists_attempts_page_by_page<S: WebhookStore>(store: &S) {
    let (endpoint, _) = one_delivery(store);
    let schedule = RetrySchedule::new([Duration::ZERO; 9]);
    for now in 0..5 {
        conclude(store, &claim(store, now, 9).remove(0), 503, now, &schedule);
    }
    let page = |before| {
        let attempts = block_on(store.attempts(endpoint.id(), before, 2)).unwrap();
        let attempts = attempts.into_iter();
        attempts
            .map(|attempt| (attempt.number, attempt.attempt))
            .collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = page(before);
        seen.extend(page.iter().map(|(_, attempt)| *attempt));
        match page.last() {
            Some((number, _)) => before = Some(*number),
            None => break,
        }
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
}

fn a_deleted_endpoint_leaves_nothing<S: WebhookStore>(store: &S) {
    let (endpoint, _) = one_delivery(store);
    let schedule = RetrySchedule::new([Duration::ZERO; 9]);
    let due = claim(store, 0, 9).remove(0);
    conclude(store, &due, 503, 0, &schedule);
    let deleted = WebhookCommit {
        deleted: Some((endpoint.id(), stored(store, endpoint.id()).revision)),
        ..WebhookCommit::default()
    };
    write(store, deleted).unwrap();
    assert_eq!(block_on(store.endpoint(endpoint.id())).unwrap(), None);
    assert!(claim(store, 1_000_000, 9).is_empty());
    // A running attempt can still be concluded.
    conclude(store, &due, 200, 1, &schedule);
    assert_eq!(
        block_on(store.attempts(endpoint.id(), None, 9)).unwrap(),
        []
    );
}

fn deletes_only_messages_that_nothing_waits_for<S: WebhookStore>(store: &S) {
    let (endpoint, done) = one_delivery(store);
    let schedule = RetrySchedule::default();
    conclude(store, &claim(store, 0, 9).remove(0), 200, 1, &schedule);
    let waits = message("acme", Environment::LIVE, 0);
    let nowhere = message("other", Environment::LIVE, 0);
    let recent = message("other", Environment::LIVE, 500);
    for message in [&waits, &nowhere, &recent] {
        accept(store, message).unwrap();
    }
    assert_eq!(block_on(store.forget_messages(time(500))).unwrap(), 2);
    let is_there = |message: &WebhookMessage| {
        let (account, id) = (message.account().clone(), message.id().clone());
        let found = store.message(account, message.environment(), id);
        block_on(found).unwrap().is_some()
    };
    let there = [&done, &waits, &nowhere, &recent].map(is_there);
    assert_eq!(there, [false, true, false, true]);
    assert_eq!(
        block_on(store.attempts(endpoint.id(), None, 9)).unwrap(),
        []
    );
    assert_eq!(claim(store, 100, 9).len(), 1);
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

fn open_accounts<S: WebhookStore>(store: &S) {
    let accounts = ["acme", "other"].map(|id| Account::new(account(id)));
    let commit = Commit {
        accounts: accounts.into(),
        ..Commit::default()
    };
    block_on(store.commit(commit)).unwrap();
}

fn keys() -> SealingKeys {
    SealingKeys::new(SealingKey::new("2026.1", &[7; 32]).unwrap())
}

fn sealed() -> crate::sealing::SealedSecret {
    let secret = WebhookSecret::random().unwrap();
    keys().seal(&secret, "elsewhere").unwrap()
}

fn endpoint(account: &str, environment: Environment) -> WebhookEndpoint {
    let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
    let (account, secret) = (self::account(account), WebhookSecret::random().unwrap());
    WebhookEndpoint::new(account, environment, url, &secret, &keys(), time(0)).unwrap()
}

fn moved(endpoint: &WebhookEndpoint, account: &str, to: Environment) -> WebhookEndpoint {
    let (id, account) = (endpoint.id(), self::account(account));
    let (url, secret) = (endpoint.url.clone(), endpoint.secret.clone());
    WebhookEndpoint::stored(id, account, to, url, secret, endpoint.created_at)
}

fn message(account: &str, environment: Environment, at: u64) -> WebhookMessage {
    let id = WebhookId::random().unwrap();
    let message = WebhookMessage::new(self::account(account), environment, id, "{}").unwrap();
    message.accepted_at(time(at))
}

/// Creates an endpoint and a message to it that is due.
fn one_delivery<S: WebhookStore>(store: &S) -> (WebhookEndpoint, WebhookMessage) {
    open_accounts(store);
    let endpoint = endpoint("acme", Environment::LIVE);
    put(store, [&endpoint]).unwrap();
    let message = message("acme", Environment::LIVE, 0);
    accept(store, &message).unwrap();
    (stored(store, endpoint.id()), message)
}

fn put<'a, S: WebhookStore>(
    store: &S,
    endpoints: impl IntoIterator<Item = &'a WebhookEndpoint>,
) -> Result<(), StoreErrorKind> {
    let commit = WebhookCommit {
        endpoints: endpoints.into_iter().cloned().collect(),
        ..WebhookCommit::default()
    };
    write(store, commit)
}

fn accept<S: WebhookStore>(store: &S, message: &WebhookMessage) -> Result<(), StoreErrorKind> {
    let commit = WebhookCommit {
        message: Some(message.clone()),
        ..WebhookCommit::default()
    };
    write(store, commit)
}

fn again<S: WebhookStore>(
    store: &S,
    endpoint: EndpointId,
    what: Redelivery,
) -> Result<(), StoreErrorKind> {
    let commit = WebhookCommit {
        again: Some((endpoint, what)),
        ..WebhookCommit::default()
    };
    write(store, commit)
}

fn write<S: WebhookStore>(store: &S, commit: WebhookCommit) -> Result<(), StoreErrorKind> {
    block_on(store.commit_webhooks(commit)).map_err(|error| error.kind())
}

fn stored<S: WebhookStore>(store: &S, id: EndpointId) -> WebhookEndpoint {
    block_on(store.endpoint(id)).unwrap().unwrap()
}

/// Claims for a minute.
fn claim<S: WebhookStore>(store: &S, now: u64, limit: usize) -> Vec<DueDelivery> {
    let claim = DeliveryClaim {
        now: time(now),
        until: time(now + 60),
        limit,
        each: limit,
        busy: vec![],
        proven: None,
    };
    block_on(store.claim(claim)).unwrap()
}

fn conclude<S: WebhookStore>(
    store: &S,
    due: &DueDelivery,
    status: u16,
    ended: u64,
    schedule: &RetrySchedule,
) {
    let outcome = AttemptOutcome::of_status(status);
    let span = (time(ended) - Duration::from_secs(1), time(ended));
    let conclusion: Conclusion = due.conclude(outcome, Some(status), None, span, schedule);
    block_on(store.conclude(conclusion)).unwrap();
}

fn pair(due: &DueDelivery) -> (WebhookId, EndpointId) {
    (due.message().id().clone(), due.endpoint().id())
}
