//! How what was accepted is delivered, by a clock and a client of the tests' own.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::{Ready, pending};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use keyward::testing::block_on;
use keyward::{AccountId, Environment, Grace, NewKey};
use keyward_sqlite::SqliteOptions;
use keyward_tower::WebhookSender;
use keyward_webhooks::admin::{EndpointChange, RequireWorkingEndpoint};
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{AttemptOutcome, EndpointRules, EndpointStatus, RetrySchedule};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::store::Redelivery;
use keyward_webhooks::{WebhookMessage, WebhookVerifier};
use proptest::prelude::*;

use crate::outbox::{Client, Does, Got, LIVE, TEST, World, sealing, url};
use crate::secrecy::capture;

const HOOK: &str = "https://acme.example/hook?token=t0ken";

fn verify(world: &World, secret: &WebhookSecret, got: &Got) -> bool {
    let verifier = WebhookVerifier::standard(secret.expose_secret()).unwrap();
    verifier.verify(got, &got.body, world.now()).is_ok()
}

async fn outcomes(
    world: &World,
    id: keyward_webhooks::send::EndpointId,
) -> Vec<(AttemptOutcome, Option<u16>)> {
    let attempts = world
        .webhooks
        .attempts(&world.user, id, None)
        .await
        .unwrap();
    let attempts = attempts.into_iter();
    attempts
        .map(|attempt| (attempt.outcome, attempt.status))
        .collect()
}

#[tokio::test]
async fn each_attempt_is_signed_anew_under_the_same_id() {
    for world in World::all().await {
        let (_, secret) = world.endpoint(HOOK).await;
        let client = Client::default();
        client.tell("acme.example", Does::Answer(503));
        let sender = world.sender(&client);
        let payload = "{\"name\":\"Zoë\",\"dots\":\"a.b\"}";
        let id = world.publish(payload).await;
        for _ in 0..3 {
            assert_eq!(sender.deliver_due().await.unwrap(), 1);
            world.pass(2400);
        }
        let got = client.take();
        assert_eq!(got.len(), 3);
        let times: HashSet<_> = got
            .iter()
            .map(|got| got.field("webhook-timestamp"))
            .collect();
        assert_eq!(times.len(), 3);
        for got in &got {
            assert_eq!(got.url, HOOK);
            assert_eq!(got.field("webhook-id"), id.as_str());
            assert_eq!(got.field("content-type"), "application/json");
            assert_eq!(got.body, payload);
        }
        assert!(
            !verify(&world, &secret, &got[2]),
            "it is 40 minutes old by now"
        );
        client.tell("acme.example", Does::Answer(200));
        world.pass(7200);
        assert_eq!(sender.deliver_due().await.unwrap(), 1);
        assert!(verify(&world, &secret, &client.take()[0]));
        world.pass(1_000_000);
        assert_eq!(sender.deliver_due().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn only_2xx_is_a_success_and_a_redirect_is_not_followed() {
    for world in World::all().await {
        let (id, _) = world.endpoint(HOOK).await;
        let client = Client::default();
        let sender = world.sender(&client);
        let redirect = |status| Does::AnswerWith(status, "location", "https://evil.example/");
        for (does, outcome, again) in [
            (Does::Answer(200), AttemptOutcome::Delivered, 0),
            (Does::Answer(204), AttemptOutcome::Delivered, 0),
            (Does::Answer(299), AttemptOutcome::Delivered, 0),
            (redirect(301), AttemptOutcome::Redirected, 1),
            (redirect(302), AttemptOutcome::Redirected, 1),
            (redirect(303), AttemptOutcome::Redirected, 1),
            (redirect(307), AttemptOutcome::Redirected, 1),
            (redirect(308), AttemptOutcome::Redirected, 1),
            (Does::Answer(304), AttemptOutcome::Redirected, 1),
            (Does::Answer(400), AttemptOutcome::Refused, 1),
            (Does::Answer(401), AttemptOutcome::Refused, 1),
            (Does::Answer(404), AttemptOutcome::Refused, 1),
            (Does::Answer(409), AttemptOutcome::Refused, 1),
            (Does::Answer(500), AttemptOutcome::Refused, 1),
            (Does::Answer(999), AttemptOutcome::Refused, 1),
            (Does::BreakOff, AttemptOutcome::Unreachable, 1),
        ] {
            client.tell("acme.example", does);
            world.publish("{}").await;
            assert_eq!(sender.deliver_due().await.unwrap(), 1, "{does:?}");
            assert_eq!(outcomes(&world, id).await[0].0, outcome, "{does:?}");
            client.tell("acme.example", Does::Answer(200));
            world.pass(100);
            assert_eq!(sender.deliver_due().await.unwrap(), again, "{does:?}");
            let elsewhere = client.take().into_iter().find(|got| got.url != HOOK);
            assert!(elsewhere.is_none(), "{elsewhere:?}");
        }
    }
}

#[tokio::test]
async fn retries_on_the_schedule_then_gives_up_and_says_so() {
    let (log, subscriber) = capture();
    let _guard = tracing::subscriber::set_default(subscriber);
    for world in World::all().await {
        let (id, secret) = world.endpoint(HOOK).await;
        let client = Client::default();
        client.tell("acme.example", Does::Answer(500));
        let sender = world.sender(&client);
        world.publish("{\"a\":\"p4yload\"}").await;
        assert_eq!(sender.deliver_due().await.unwrap(), 1);
        let hour = 3600;
        for delay in [
            5,
            300,
            1800,
            2 * hour,
            5 * hour,
            10 * hour,
            14 * hour,
            20 * hour,
            24 * hour,
        ] {
            world.pass(delay - 1);
            assert_eq!(
                sender.deliver_due().await.unwrap(),
                0,
                "{delay} s: too early"
            );
            world.pass(delay.div_ceil(5) + 1);
            assert_eq!(sender.deliver_due().await.unwrap(), 1, "{delay} s");
        }
        world.pass(1_000 * hour);
        assert_eq!(sender.deliver_due().await.unwrap(), 0, "given up");
        let attempts = world
            .webhooks
            .attempts(&world.user, id, None)
            .await
            .unwrap();
        let last: Vec<_> = attempts.iter().map(|attempt| attempt.last).collect();
        assert_eq!(last.len(), 10);
        assert!(last[0] && !last[1..].contains(&true));

        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        log.0.lock().unwrap().clear();
        assert_eq!(text.matches("webhook given up").count(), 1, "{text}");
        assert!(text.contains("acme.example") && text.contains(&id.to_string()));
        for private in ["t0ken", "/hook", "p4yload", &secret.expose_secret()[6..20]] {
            assert!(!text.contains(private), "{private} in {text}");
        }
    }
}

#[tokio::test]
async fn what_was_given_up_comes_again_when_its_owner_asks() {
    for world in World::all().await {
        let (id, secret) = world.endpoint(HOOK).await;
        let client = Client::default();
        client.tell("acme.example", Does::Answer(500));
        let sender = world.sender(&client).schedule(RetrySchedule::new([]));
        let accepted = world.now();
        let ids = [world.publish("1").await, world.publish("2").await];
        assert_eq!(sender.deliver_due().await.unwrap(), 2);
        client.tell("acme.example", Does::Answer(200));
        client.take();
        world.pass(1_000_000);
        assert_eq!(sender.deliver_due().await.unwrap(), 0, "given up");
        for (what, count) in [
            (Redelivery::FailedSince(accepted), 2),
            (Redelivery::FailedSince(accepted), 0),
            (Redelivery::Message(ids[0].clone()), 1),
        ] {
            let again = world.webhooks.redeliver(&world.user, id, what);
            again.await.unwrap();
            assert_eq!(sender.deliver_due().await.unwrap(), count);
        }
        let got = client.take();
        assert!(got.iter().all(|got| verify(&world, &secret, got)));
        let arrived: HashSet<_> = got.iter().map(|got| got.field("webhook-id")).collect();
        assert_eq!(arrived, ids.iter().map(WebhookId::as_str).collect());
        assert_eq!(got[2].field("webhook-id"), ids[0].as_str());
    }
}

#[tokio::test]
async fn who_asks_to_wait_is_heard() {
    let world = World::in_memory().await;
    world.endpoint(HOOK).await;
    let client = Client::default();
    let sender = world.sender(&client);
    for (status, field, seconds) in [
        (503, "60", 60),
        (429, "3600", 3600),
        (302, "120", 120),
        (500, "Tue, 14 Nov 2023 23:13:20 GMT", 3600),
        (503, "99999999999999999999", 86_400),
    ] {
        client.tell(
            "acme.example",
            Does::AnswerWith(status, "retry-after", field),
        );
        let world = World::in_memory().await;
        world.endpoint(HOOK).await;
        let sender = world.sender(&client);
        world.publish("{}").await;
        assert_eq!(sender.deliver_due().await.unwrap(), 1);
        world.pass(seconds - 1);
        assert_eq!(sender.deliver_due().await.unwrap(), 0, "{field}: too early");
        world.pass(1);
        assert_eq!(sender.deliver_due().await.unwrap(), 1, "{field}");
    }
    // Who asks to be called at once is not.
    client.tell("acme.example", Does::AnswerWith(503, "retry-after", "0"));
    world.publish("{}").await;
    assert_eq!(sender.deliver_due().await.unwrap(), 1);
    world.pass(4);
    assert_eq!(sender.deliver_due().await.unwrap(), 0);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_switched_off_and_loses_nothing() {
    for world in World::all().await {
        let (id, _) = world.endpoint(HOOK).await;
        let client = Client::default();
        client.tell("acme.example", Does::Answer(410));
        let sender = world.sender(&client).concurrency(1, 1);
        let both = [world.publish("1").await, world.publish("2").await];
        assert_eq!(
            sender.deliver_due().await.unwrap(),
            1,
            "after which it is off"
        );
        let endpoint = world.webhooks.endpoint(&world.user, id).await.unwrap();
        assert_eq!(endpoint.status, EndpointStatus::Gone);
        world.publish("not for one that is off").await;
        world.pass(1_000_000);
        assert_eq!(sender.deliver_due().await.unwrap(), 0);

        client.take();
        client.tell("acme.example", Does::Answer(200));
        let on = EndpointChange::new().enabled(true);
        world
            .webhooks
            .update_endpoint(&world.user, id, on)
            .await
            .unwrap();
        assert_eq!(sender.deliver_due().await.unwrap(), 2);
        let got: HashSet<_> = client
            .take()
            .iter()
            .map(|got| got.field("webhook-id").to_owned())
            .collect();
        assert_eq!(got, both.map(|id| id.to_string()).into());
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_a_failure() {
    let world = World::in_memory().await;
    let (id, _) = world.endpoint(HOOK).await;
    let client = Client::default();
    client.tell("acme.example", Does::Hang);
    let sender = world.timed_sender(&client).timeout(Duration::from_secs(7));
    world.publish("{}").await;
    let began = tokio::time::Instant::now();
    assert_eq!(sender.deliver_due().await.unwrap(), 1);
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(
        outcomes(&world, id).await,
        [(AttemptOutcome::TimedOut, None)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_holds_up_no_other() {
    let world = World::in_memory().await;
    world
        .endpoint_of("other", LIVE, "https://slow.example/")
        .await;
    world.endpoint(HOOK).await;
    let client = Client::default();
    client.tell("slow.example", Does::Hang);
    let sender = world.timed_sender(&client).concurrency(8, 4);
    for _ in 0..100 {
        world.publish_in("other", LIVE, "{}").await;
    }
    for _ in 0..20 {
        world.publish("{}").await;
    }
    let running = tokio::spawn(sender.run());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let got = client.take();
    let of = |host| got.iter().filter(|got| got.url.contains(host)).count();
    assert_eq!((of("slow.example"), of("acme.example")), (1, 20));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(client.take().len(), 0, "its circuit is open");
    world.pass(15);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.take().len(), 1, "the probe");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_is_left_alone_until_a_probe_succeeds() {
    for does in [Does::Answer(503), Does::BreakOff] {
        let world = World::in_memory().await;
        world.endpoint(HOOK).await;
        let client = Client::default();
        client.tell("acme.example", does);
        for _ in 0..20 {
            world.publish("{}").await;
        }
        let running = tokio::spawn(world.timed_sender(&client).run());
        let got_after = async |seconds| {
            world.pass(seconds);
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.take().len()
        };
        assert_eq!(got_after(0).await, 5, "{does:?}: then its circuit opens");
        assert_eq!(got_after(14).await, 0, "{does:?}");
        assert_eq!(got_after(1).await, 1, "{does:?}: the probe");
        client.tell("acme.example", Does::Answer(200));
        assert_eq!(got_after(29).await, 0, "{does:?}: twice as long");
        assert_eq!(got_after(1).await, 20, "{does:?}: all, none was given up");
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_published_here_leaves_without_waiting_for_the_next_poll() {
    for world in World::all().await {
        world.endpoint(HOOK).await;
        let client = Client::default();
        let sender = world.timed_sender(&client);
        let running = tokio::spawn(sender.poll_interval(Duration::MAX).run());
        for _ in 0..3 {
            world.publish("{}").await;
            while client.got.lock().unwrap().is_empty() {
                // No timer runs, so no time passes.
                tokio::task::yield_now().await;
            }
            assert_eq!(client.take().len(), 1);
        }
        running.abort();
    }
}

#[tokio::test]
async fn what_another_process_accepts_is_found_by_the_poll() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(keyward::clock::ManualClock::at(crate::outbox::NOW));
    let open = || {
        let options =
            SqliteOptions::new().clock(Arc::clone(&clock) as Arc<dyn keyward::clock::Clock>);
        Arc::new(options.open(folder.path().join("keys.db")).unwrap())
    };
    let world = World::over(Arc::clone(&clock), open()).await;
    world.endpoint(HOOK).await;
    let client = Client::default();
    let running = tokio::spawn(world.timed_sender(&client).run());
    let scheme = keyward::KeyScheme::new(keyward::KeyFormat::new("vhk_{env}_").unwrap());
    let other = keyward_webhooks::WebhookAdmin::new(open(), &scheme, sealing());
    let id = WebhookId::random().unwrap();
    let message = WebhookMessage::new(world.acme.clone(), LIVE, id, "{}").unwrap();
    other.publish(&world.operator, message).await.unwrap();
    while client.take().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn many_receivers_that_hang_leave_room_for_the_others() {
    const HANG: [&str; 10] = [
        "a.example",
        "b.example",
        "c.example",
        "d.example",
        "e.example",
        "f.example",
        "g.example",
        "h.example",
        "i.example",
        "j.example",
    ];
    let world = World::in_memory().await;
    let client = Client::default();
    for host in HANG {
        let at = format!("https://{host}/");
        world.endpoint_of("other", LIVE, &at).await;
        client.tell(host, Does::Hang);
    }
    world.endpoint(HOOK).await;
    for _ in 0..100 {
        world.publish_in("other", LIVE, "{}").await;
    }
    let running = tokio::spawn(world.timed_sender(&client).run());
    // By then each has hung once, and may be tried again.
    tokio::time::sleep(Duration::from_secs(35)).await;
    world.pass(15);
    client.take();
    for _ in 0..100 {
        world.publish("{}").await;
    }
    tokio::time::sleep(Duration::from_secs(14)).await;
    let got = client.take();
    let of = |host| {
        let at = format!("https://{host}/");
        got.iter().filter(|got| got.url.starts_with(&at)).count()
    };
    assert_eq!(of("acme.example"), 100);
    let hanging = HANG.map(of);
    assert!(hanging.iter().all(|count| *count <= 1), "{hanging:?}");
    running.abort();
}

#[tokio::test]
async fn what_waits_for_one_endpoint_goes_there_without_a_pause() {
    for world in World::all().await {
        world.endpoint(HOOK).await;
        for _ in 0..40 {
            world.publish("{}").await;
        }
        let sender = world.sender(&Client::default());
        assert_eq!(sender.deliver_due().await.unwrap(), 40);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_is_dropped_half_way_leaves_it_to_another() {
    for world in World::all().await {
        world.endpoint(HOOK).await;
        let client = Client::default();
        client.tell("acme.example", Does::Hang);
        let running = tokio::spawn(world.timed_sender(&client).run());
        world.publish("{}").await;
        while client.got.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        running.abort();
        client.tell("acme.example", Does::Answer(200));
        let other = world.sender(&client);
        assert_eq!(other.deliver_due().await.unwrap(), 0, "it is still claimed");
        world.pass(31);
        assert_eq!(other.deliver_due().await.unwrap(), 1);
        let got = client.take();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].field("webhook-id"), got[1].field("webhook-id"));
    }
}

#[tokio::test]
async fn a_place_that_is_forbidden_by_now_is_not_called() {
    for world in World::all().await {
        let rules = || {
            EndpointRules::new()
                .insecure_http_for_live()
                .insecure_private_host("10.0.0.7")
        };
        let lax = world.webhooks.clone().rules(rules());
        for (at, live_only) in [("https://10.0.0.7/", false), ("http://acme.example/", true)] {
            for environment in [LIVE, TEST] {
                let create = lax.create_endpoint(&world.user, &world.acme, environment, url(at));
                let id = create.await.unwrap().endpoint.id();
                let client = Client::default();
                world.publish_in("acme", environment, "{}").await;
                let allowed = live_only && environment == TEST;
                assert_eq!(world.sender(&client).deliver_due().await.unwrap(), 1);
                assert_eq!(
                    client.take().len(),
                    usize::from(allowed),
                    "{at} {environment}"
                );
                let (outcome, _) = outcomes(&world, id).await[0];
                let expected = if allowed {
                    AttemptOutcome::Delivered
                } else {
                    AttemptOutcome::NotPublic
                };
                assert_eq!(outcome, expected, "{at} {environment}");
                world.pass(10);
                assert_eq!(
                    world
                        .sender(&client)
                        .rules(rules())
                        .deliver_due()
                        .await
                        .unwrap(),
                    usize::from(!allowed)
                );
                world
                    .webhooks
                    .delete_endpoint(&world.user, id)
                    .await
                    .unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_opened_signs_nothing() {
    let world = World::in_sqlite().await;
    let (id, _) = world.endpoint(HOOK).await;
    world.publish("{}").await;
    let client = Client::default();
    let other = SealingKeys::new(SealingKey::new("2027", &[8; 32]).unwrap());
    let store = Arc::clone(&world.store);
    let never = |_| pending::<()>();
    let call = tower::service_fn(
        |_: http::Request<Full<Bytes>>| -> Ready<Result<http::Response<()>, Infallible>> {
            panic!("nothing is sent");
        },
    );
    let sender = WebhookSender::new(call, store, other, never);
    assert_eq!(sender.deliver_due().await.unwrap(), 1);
    assert_eq!(
        outcomes(&world, id).await,
        [(AttemptOutcome::NotSendable, None)]
    );
    world.pass(10);
    assert_eq!(
        world.sender(&client).deliver_due().await.unwrap(),
        1,
        "it was not lost"
    );
}

#[tokio::test]
async fn both_secrets_sign_until_the_overlap_is_over() {
    for world in World::all().await {
        let (id, old) = world.endpoint(HOOK).await;
        let client = Client::default();
        let sender = world.sender(&client);
        let regenerate = async |grace| {
            let renewed = world
                .webhooks
                .regenerate_secret(&world.user, id, grace)
                .await;
            renewed.unwrap().secret
        };
        let hour = Grace::For(Duration::from_secs(3600));
        let new = regenerate(hour).await;
        let accepted = async |secrets: &[&WebhookSecret]| {
            world.publish("{}").await;
            sender.deliver_due().await.unwrap();
            let got = client.take().remove(0);
            secrets
                .iter()
                .map(|secret| verify(&world, secret, &got))
                .collect::<Vec<_>>()
        };
        assert_eq!(accepted(&[&old, &new]).await, [true, true]);
        world.pass(3599);
        assert_eq!(accepted(&[&old, &new]).await, [true, true]);
        world.pass(1);
        assert_eq!(accepted(&[&old, &new]).await, [false, true]);
        let newer = regenerate(Grace::None).await;
        assert_eq!(accepted(&[&old, &new, &newer]).await, [false, false, true]);
    }
}

#[tokio::test]
async fn live_keys_may_wait_for_an_endpoint_that_works() {
    for world in World::all().await {
        let keys = world
            .keys
            .clone()
            .create_policy(RequireWorkingEndpoint::new(Arc::clone(&world.store)));
        let create = async |environment| {
            let new = NewKey::new(world.acme.clone(), environment, "key");
            keys.create(&world.user, new)
                .await
                .map(drop)
                .map_err(|error| error.kind())
        };
        let refused = Err(keyward::record::AdminErrorKind::NoWorkingEndpoint);
        assert_eq!(create(LIVE).await, refused);
        assert_eq!(create(TEST).await, Ok(()), "only live ones");
        let (id, _) = world.endpoint(HOOK).await;
        let verify = async |world: &World, id| {
            let challenge = world.webhooks.challenge(&world.user, id).await.unwrap();
            let question = String::from_utf8(challenge.delivery().message().payload().to_vec());
            let text = question.unwrap().split('"').nth(7).unwrap().to_owned();
            let answer = challenge.answered(200, text.as_bytes());
            world
                .webhooks
                .verify(&world.user, id, answer)
                .await
                .unwrap();
        };
        assert_eq!(create(LIVE).await, refused, "it has not answered");
        let (test, _) = world.endpoint_of("acme", TEST, HOOK).await;
        verify(&world, test).await;
        assert_eq!(create(LIVE).await, refused, "that is a test endpoint");
        verify(&world, id).await;
        assert_eq!(create(LIVE).await, Ok(()));

        let update = async |change| {
            world
                .webhooks
                .update_endpoint(&world.user, id, change)
                .await
                .unwrap();
        };
        update(EndpointChange::new().enabled(false)).await;
        assert_eq!(create(LIVE).await, refused, "it is off");
        update(EndpointChange::new().enabled(true)).await;
        assert_eq!(create(LIVE).await, Ok(()));
        update(EndpointChange::new().url(url("https://new.acme.example/"))).await;
        assert_eq!(create(LIVE).await, refused, "nobody has answered there");
        verify(&world, id).await;
        let regenerate = async |grace| {
            world
                .webhooks
                .regenerate_secret(&world.user, id, grace)
                .await
                .unwrap();
        };
        regenerate(Grace::For(Duration::from_secs(60))).await;
        assert_eq!(create(LIVE).await, Ok(()), "both sign");
        regenerate(Grace::None).await;
        assert_eq!(create(LIVE).await, refused, "it may not know its secret");
    }
}

const PLACES: [(&str, &str); 6] = [
    ("acme", "live"),
    ("acme", "test"),
    ("acme", "livex"),
    ("other", "live"),
    ("other", "test"),
    ("other", "eu-1"),
];

/// What happens, in a random order.
#[derive(Clone, Debug)]
enum Step {
    Endpoint(usize),
    Switch(usize, bool),
    Regenerate(usize),
    Move(usize),
    Publish(usize),
    Deliver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = 0..PLACES.len();
    let step = prop_oneof![
        4 => place.clone().prop_map(Step::Endpoint),
        1 => (0_usize..30, any::<bool>()).prop_map(|(which, on)| Step::Switch(which, on)),
        1 => (0_usize..30).prop_map(Step::Regenerate),
        1 => (0_usize..30).prop_map(Step::Move),
        4 => place.prop_map(Step::Publish),
        1 => Just(Step::Deliver),
    ];
    prop::collection::vec(step, 1..40)
}

/// Every URL and every payload says where it belongs; what has arrived must agree.
async fn follow(world: World, steps: Vec<Step>) {
    let webhooks = world.webhooks.clone().max_endpoints(1000);
    let client = Client::default();
    let sender = world.sender(&client).schedule(RetrySchedule::new([]));
    let mut endpoints = Vec::new();
    let mut expected = HashSet::new();
    let mut on: HashSet<usize> = HashSet::new();
    for (number, step) in steps.into_iter().chain([Step::Deliver]).enumerate() {
        match step {
            Step::Endpoint(place) => {
                let (account, environment) = PLACES[place];
                let at = url(&format!("https://{account}.example/{environment}/{number}"));
                let account = AccountId::parse(account).unwrap();
                let environment = Environment::parse(environment).unwrap();
                let create = webhooks.create_endpoint(&world.operator, &account, environment, at);
                let created = create.await.unwrap();
                on.insert(endpoints.len());
                endpoints.push((created.endpoint.id(), place, created.secret));
            }
            Step::Switch(which, to) if which < endpoints.len() => {
                let change = EndpointChange::new().enabled(to);
                let id = endpoints[which].0;
                webhooks
                    .update_endpoint(&world.operator, id, change)
                    .await
                    .unwrap();
                if to {
                    on.insert(which)
                } else {
                    on.remove(&which)
                };
            }
            Step::Regenerate(which) if which < endpoints.len() => {
                let (id, _, secret) = &mut endpoints[which];
                let renewed = webhooks.regenerate_secret(&world.operator, *id, Grace::None);
                *secret = renewed.await.unwrap().secret;
            }
            Step::Move(which) if which < endpoints.len() => {
                let (id, place, _) = &endpoints[which];
                let (account, environment) = PLACES[*place];
                let at = url(&format!(
                    "https://{account}.example/{environment}/moved{number}"
                ));
                let change = EndpointChange::new().url(at);
                webhooks
                    .update_endpoint(&world.operator, *id, change)
                    .await
                    .unwrap();
            }
            Step::Publish(place) => {
                let (account, environment) = PLACES[place];
                // In every place of the same id: nothing is told apart by that.
                let id = WebhookId::parse(&format!("msg_{number}")).unwrap();
                let payload = format!("/{account}/{environment}/");
                let account = AccountId::parse(account).unwrap();
                let environment = Environment::parse(environment).unwrap();
                let message = WebhookMessage::new(account, environment, id, &payload);
                webhooks
                    .publish(&world.operator, message.unwrap())
                    .await
                    .unwrap();
                let own = endpoints.iter().enumerate();
                let own = own.filter(|(which, (_, of, _))| *of == place && on.contains(which));
                expected.extend(own.map(|(which, _)| (which, format!("msg_{number}"))));
            }
            Step::Deliver => {
                sender.deliver_due().await.unwrap();
            }
            _ => {}
        }
    }
    for (id, ..) in &endpoints {
        let change = EndpointChange::new().enabled(true);
        webhooks
            .update_endpoint(&world.operator, *id, change)
            .await
            .unwrap();
    }
    sender.deliver_due().await.unwrap();
    let got = client.take();
    for got in &got {
        let payload = std::str::from_utf8(&got.body).unwrap();
        let place = got.url.replace("https:/", "").replace(".example", "");
        assert!(place.starts_with(payload), "{payload} at {}", got.url);
    }
    assert_eq!(got.len(), expected.len(), "each arrives, and once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_event_leaves_its_account_and_environment(steps in steps()) {
        block_on(async { follow(World::in_memory().await, steps).await });
    }

    /// Whatever is paired: only what belongs together can be.
    #[test]
    fn no_pair_can_be_made_across(one in 0..PLACES.len(), other in 0..PLACES.len()) {
        let place = |at: usize| {
            let (account, environment) = PLACES[at];
            (AccountId::parse(account).unwrap(), Environment::parse(environment).unwrap())
        };
        let (account, environment) = place(one);
        let secret = WebhookSecret::random().unwrap();
        let now = std::time::SystemTime::now();
        let endpoint = keyward_webhooks::send::WebhookEndpoint::new(account, environment, url(HOOK), &secret, &sealing(), now);
        let endpoint = endpoint.unwrap();
        let (account, environment) = place(other);
        let message = WebhookMessage::new(account, environment, WebhookId::random().unwrap(), "{}").unwrap();
        let deliverable = message.deliverable([endpoint.clone()]).count();
        let pair = keyward_webhooks::send::DueDelivery::new(message, endpoint);
        prop_assert_eq!(pair.is_some(), one == other);
        prop_assert_eq!(deliverable, usize::from(one == other));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nor_does_it_in_sqlite(steps in steps()) {
        block_on(async { follow(World::in_sqlite().await, steps).await });
    }
}
