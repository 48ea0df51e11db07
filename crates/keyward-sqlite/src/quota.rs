//! Quotas by the calendar, spent by several processes at once: tests.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, SystemTime};

use keyward::clock::ManualClock;
use keyward::credits::{CreditOwner, Credits, Refill, RefillSchedule};
use keyward::denial::DenialKind;
use keyward::testing::block_on;
use keyward::{Actor, ApiKey, KeyAdmin, Store};
use rusqlite::Connection;

use crate::credit;
use crate::fixture::{Fixture, add, ask_gate, eventually, scheme};
use crate::{SqliteOptions, SqliteStore};

/// 2026-01-15T12:00Z.
const START: Duration = Duration::from_secs(1_768_478_400);
const DAY: Duration = Duration::from_secs(86_400);

/// A store with a clock of its own, as of a process on another machine.
struct Process {
    clock: Arc<ManualClock>,
    store: SqliteStore,
}

impl Process {
    fn start(fixture: &Fixture, unix: Duration) -> Self {
        let clock = Arc::new(ManualClock::at(unix));
        let options = SqliteOptions::new().poll_interval(Duration::MAX);
        let options = options.clock(Arc::<ManualClock>::clone(&clock));
        let store = options.open(fixture.path()).unwrap();
        Self { clock, store }
    }

    /// Sends requests until one is refused, or at most this many, and returns how many passed.
    fn spend(&self, key: &ApiKey, most: u64) -> u64 {
        let ask = || ask_gate(self.store.replica(), Duration::MAX, key);
        let passed = (0..most).take_while(|_| match ask() {
            Ok(()) => true,
            Err(DenialKind::CreditsExhausted) => false,
            Err(other) => panic!("{other:?}"),
        });
        passed.count() as u64
    }
}

/// Creates a key whose account has this balance.
fn key_with(fixture: &Fixture, credits: Credits) -> (CreditOwner, ApiKey) {
    let process = Process::start(fixture, START);
    let (key, record) = add(&process.store, "acme");
    let admin = KeyAdmin::new(&process.store, &scheme());
    let (operator, account) = (Actor::operator("test"), record.account.clone());
    let set = admin.set_credits(&operator, account, Some(credits));
    block_on(set).unwrap();
    (record.account.into(), key)
}

fn in_file(fixture: &Fixture, owner: &CreditOwner) -> Credits {
    let file = Connection::open(fixture.path()).unwrap();
    credit::stored(&file, owner).unwrap().unwrap()
}

#[test]
fn a_boundary_refills_a_balance_once_for_all_processes() {
    let fixture = Fixture::new();
    let day = RefillSchedule::daily("Europe/Berlin").unwrap();
    let credits = Credits::new(300).refill(Refill::every(day.clone(), 200));
    let (owner, key) = key_with(&fixture, credits);
    let processes: Vec<_> = (0..4).map(|_| Process::start(&fixture, START)).collect();
    let mut boundary = SystemTime::UNIX_EPOCH + START;
    let mut expected = 300;
    for _ in 0..6 {
        let race = Barrier::new(processes.len());
        let passed: u64 = thread::scope(|threads| {
            let (race, key) = (&race, &key);
            let spend = |process| {
                threads.spawn(move || {
                    race.wait();
                    Process::spend(process, key, 500)
                })
            };
            let all: Vec<_> = processes.iter().map(spend).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        // What a process held while the last of the others was refused is still there.
        let held = processes
            .iter()
            .filter_map(|one| one.store.replica().held_of(&owner));
        let held: u64 = held.map(|held| u64::from(held.amount)).sum();
        assert_eq!(passed + held + in_file(&fixture, &owner).left, expected);
        boundary = day.next_after(boundary).unwrap();
        assert_eq!(in_file(&fixture, &owner).refill.unwrap().at, boundary);
        // Their clocks do not agree to the second.
        let since = boundary.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        for (late, process) in processes.iter().enumerate() {
            let late = Duration::from_secs(late as u64 * 3);
            process.clock.set_unix(since + late);
        }
        expected = 200;
    }
}

#[test]
fn refills_keep_their_sum_when_processes_restart_and_clocks_jump() {
    for seed in 1..=12_u64 {
        let fixture = Fixture::new();
        let month = RefillSchedule::parse("month America/New_York 2025-12-31").unwrap();
        let refill = Refill::every(month.clone(), 700);
        let rolls_over = seed % 2 == 0;
        let refill = if rolls_over {
            refill.roll_over(u64::MAX)
        } else {
            refill
        };
        let (owner, key) = key_with(&fixture, Credits::new(500).refill(refill));
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut processes = [START; 3].map(|unix| (unix, Some(Process::start(&fixture, unix))));
        let mut spent = 0;
        for _ in 0..60 {
            let which = usize::try_from(next(3)).unwrap();
            let (unix, process) = &mut processes[which];
            match next(4) {
                // It ends, or starts again.
                0 => {
                    *process = match process.take() {
                        Some(ended) => {
                            drop(ended);
                            None
                        }
                        None => Some(Process::start(&fixture, *unix)),
                    };
                }
                // Its clock goes on, or back.
                1 => {
                    let jump = DAY * u32::try_from(next(60)).unwrap();
                    *unix = match next(3) {
                        0 => unix.saturating_sub(jump).max(START),
                        _ => *unix + jump / 2,
                    };
                    if let Some(process) = process {
                        process.clock.set_unix(*unix);
                    }
                }
                _ => {
                    if let Some(process) = process {
                        spent += process.spend(&key, next(90));
                    }
                }
            }
        }
        // What they hold goes back when they end.
        drop(processes);
        let left = in_file(&fixture, &owner);
        let (mut boundary, mut granted) = (SystemTime::UNIX_EPOCH + START, 500);
        let stored = left.refill.unwrap().at;
        while month.next_after(boundary) != Some(stored) {
            boundary = month.next_after(boundary).unwrap();
            assert!(boundary < stored, "seed {seed}");
            granted += 700;
        }
        if rolls_over {
            assert_eq!(spent + left.left, granted, "seed {seed}");
        } else {
            assert!(
                left.left <= 700 && spent + left.left <= granted,
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_schedule_that_is_typed_in_is_followed_and_a_wrong_one_refuses() {
    let fixture = Fixture::new();
    let (owner, key) = key_with(&fixture, Credits::new(5));
    let process = Process::start(&fixture, START);
    assert_eq!(process.spend(&key, 10), 5);
    let at = START.as_millis() + 1;
    let typed = |schedule: &str| {
        fixture.type_in(&format!(
            "UPDATE keyward_credit SET refill_at = {at}, refill_to = 7, roll_over = 9, \
             warn_below = 3, schedule = '{schedule}'"
        ))
    };
    typed("month Europe/Berlin 2026-01-31").unwrap();
    process.clock.set_unix(START + DAY);
    process.store.replica().credits_changed(&owner);
    assert_eq!(process.spend(&key, 10), 7);
    let stored = in_file(&fixture, &owner);
    assert_eq!(stored.warn_below, 3);
    let refill = stored.refill.unwrap();
    assert_eq!(refill.roll_over, Some(9));
    assert_eq!(
        refill.schedule.unwrap().to_string(),
        "month Europe/Berlin 2026-01-31"
    );
    typed("month Europe/Atlantis").unwrap();
    process.clock.advance(DAY * 40);
    let asked = || ask_gate(process.store.replica(), Duration::MAX, &key);
    eventually(|| asked() == Err(DenialKind::LimitUnavailable));
    assert!(block_on(process.store.credits(owner)).is_err());
    // A calendar without an instant is refused by the file itself.
    let without = "UPDATE keyward_credit SET refill_at = NULL, refill_to = NULL";
    assert!(fixture.type_in(without).is_err());
}
