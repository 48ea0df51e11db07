//! The life of endpoints: who may do what, and what is kept of it.

use std::time::Duration;

use keyward::admin::AdminError;
use keyward::record::{AdminErrorKind, AuditAction};
use keyward::{
    AccountId, Actor, Environment, Grace, KeyFormat, KeyScheme, NewKey, Permission, Scopes,
};
use keyward_webhooks::admin::EndpointChange;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::store::Redelivery;
use keyward_webhooks::{WebhookAdmin, WebhookMessage, WebhookSigner};

use crate::outbox::{Client, LIVE, TEST, World, sealing, url};
use crate::secrecy::capture;

const HOOK: &str = "https://acme.example/hook?token=t0ken";

fn kind<T>(outcome: Result<T, AdminError>) -> Result<(), AdminErrorKind> {
    outcome.map(drop).map_err(|error| error.kind())
}

/// All that can be done to an endpoint, by its permission.
async fn each(
    world: &World,
    actor: &Actor,
    id: keyward_webhooks::send::EndpointId,
) -> [Result<(), AdminErrorKind>; 8] {
    let webhooks = &world.webhooks;
    let change = EndpointChange::new().enabled(true);
    let challenge = webhooks.challenge(actor, id).await;
    [
        kind(webhooks.endpoint(actor, id).await),
        kind(webhooks.attempts(actor, id, None).await),
        kind(webhooks.update_endpoint(actor, id, change).await),
        kind(webhooks.regenerate_secret(actor, id, Grace::None).await),
        kind(challenge),
        kind(
            webhooks
                .verify(
                    actor,
                    id,
                    Err(keyward_webhooks::send::AttemptOutcome::Refused),
                )
                .await,
        ),
        kind(
            webhooks
                .redeliver(actor, id, Redelivery::FailedSince(world.now()))
                .await,
        ),
        kind(webhooks.delete_endpoint(actor, id).await),
    ]
}

#[tokio::test]
async fn another_accounts_endpoint_answers_like_an_unknown_one() {
    for world in World::all().await {
        let (id, _) = world.endpoint(HOOK).await;
        let unknown = keyward_webhooks::send::EndpointId::random().unwrap();
        let other = AccountId::parse("other").unwrap();
        let stranger = Actor::user("bob", other, Permission::ALL);
        let answers = each(&world, &stranger, id).await;
        assert_eq!(answers, [Err(AdminErrorKind::UnknownEndpoint); 8]);
        assert_eq!(answers, each(&world, &stranger, unknown).await);
        let webhooks = &world.webhooks;
        let list = webhooks.endpoints(&stranger, &world.acme, None).await;
        assert_eq!(kind(list), Err(AdminErrorKind::UnknownAccount));
        let create = webhooks.create_endpoint(&stranger, &world.acme, LIVE, url(HOOK));
        assert_eq!(kind(create.await), Err(AdminErrorKind::UnknownAccount));
        assert!(
            webhooks.endpoint(&world.user, id).await.is_ok(),
            "it is still there"
        );
    }
}

#[tokio::test]
async fn who_lacks_the_permission_may_nothing() {
    for world in World::all().await {
        let (id, _) = world.endpoint(HOOK).await;
        let denied = Err(AdminErrorKind::NotPermitted);
        let of_keys = [
            Permission::Create,
            Permission::Read,
            Permission::Update,
            Permission::Revoke,
        ];
        let key_manager = Actor::user("bob", world.acme.clone(), of_keys);
        assert_eq!(each(&world, &key_manager, id).await, [denied; 8]);
        let reader = Actor::user("bob", world.acme.clone(), [Permission::ReadWebhooks]);
        let answers = each(&world, &reader, id).await;
        assert_eq!(answers[..2], [Ok(()), Ok(())]);
        assert_eq!(answers[2..], [denied; 6]);

        let message =
            WebhookMessage::new(world.acme.clone(), LIVE, WebhookId::random().unwrap(), "{}");
        let publish = world.webhooks.publish(&world.user, message.unwrap()).await;
        assert_eq!(kind(publish), denied, "only the service itself");
        let secret = WebhookSecret::random().unwrap();
        let import = world
            .webhooks
            .import_secret(&world.user, id, &secret, Grace::None);
        assert_eq!(kind(import.await), denied);
        assert_eq!(kind(world.webhooks.reseal(&world.user).await), denied);
        assert_eq!(
            kind(
                world
                    .webhooks
                    .forget_messages(&world.user, world.now())
                    .await
            ),
            denied
        );
    }
}

#[tokio::test]
async fn a_key_acts_by_its_scopes_and_in_its_environment() {
    use keyward::gate::{Access, Admitted, Decision, Verdict};
    use keyward::{Gate, KeyScheme, Requirement};

    for world in World::all().await {
        let acting = async |environment, scope| {
            let scopes = Scopes::parse([scope]).unwrap();
            let new = NewKey::new(world.acme.clone(), environment, "acts").scopes(scopes);
            let key = world
                .keys
                .create(&world.user, new)
                .await
                .unwrap()
                .key
                .unwrap();
            let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
            let gate = Gate::builder(&world.store, &scheme);
            let gate = gate.max_staleness(Duration::MAX).build().unwrap();
            let requirement = std::sync::Arc::new(Requirement::new().any_environment());
            match gate.check(
                &keyward::testing::TestRequest::get().key(key.expose_secret()),
                &requirement,
                None,
            ) {
                Decision::Ready(Verdict::Admit(Admitted {
                    access: Some(Access::Principal(principal)),
                    ..
                })) => Actor::key(&principal),
                other => panic!("{other:?}"),
            }
        };
        let (live, _) = world.endpoint(HOOK).await;
        let (test, _) = world.endpoint_of("acme", TEST, HOOK).await;
        let webhooks = &world.webhooks;
        let actor = acting(TEST, "webhooks.*").await;
        let seen = webhooks.endpoints(&actor, &world.acme, None).await.unwrap();
        assert_eq!(
            seen.iter()
                .map(keyward_webhooks::send::WebhookEndpoint::id)
                .collect::<Vec<_>>(),
            [test]
        );
        assert_eq!(
            each(&world, &actor, live).await,
            [Err(AdminErrorKind::UnknownEndpoint); 8]
        );
        let create = webhooks
            .create_endpoint(&actor, &world.acme, LIVE, url(HOOK))
            .await;
        assert_eq!(kind(create), Err(AdminErrorKind::TooWide));
        assert!(
            webhooks
                .create_endpoint(&actor, &world.acme, TEST, url(HOOK))
                .await
                .is_ok()
        );
        let keys_only = acting(LIVE, "api_keys.*").await;
        assert_eq!(
            each(&world, &keys_only, live).await,
            [Err(AdminErrorKind::NotPermitted); 8]
        );
    }
}

#[tokio::test]
async fn only_what_the_rules_allow_is_taken_and_not_too_much_of_it() {
    for world in World::all().await {
        let webhooks = world.webhooks.clone().max_endpoints(2);
        let create = async |environment, at: &str| {
            kind(
                webhooks
                    .create_endpoint(&world.user, &world.acme, environment, url(at))
                    .await,
            )
        };
        for bad in [
            "http://acme.example/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://localhost/",
        ] {
            assert_eq!(create(LIVE, bad).await, Err(AdminErrorKind::Url), "{bad}");
        }
        let (id, _) = world.endpoint(HOOK).await;
        let change = EndpointChange::new().url(url("https://10.0.0.1/"));
        let changed = webhooks.update_endpoint(&world.user, id, change).await;
        assert_eq!(kind(changed), Err(AdminErrorKind::Url));
        assert_eq!(create(LIVE, HOOK).await, Ok(()));
        assert_eq!(
            create(LIVE, HOOK).await,
            Err(AdminErrorKind::TooManyEndpoints)
        );
        assert_eq!(create(TEST, "http://acme.example/").await, Ok(()));
        let nobody = AccountId::parse("nobody").unwrap();
        let unknown = webhooks
            .create_endpoint(&world.operator, &nobody, LIVE, url(HOOK))
            .await;
        assert_eq!(kind(unknown), Err(AdminErrorKind::UnknownAccount));
    }
}

#[tokio::test]
async fn a_repeated_publish_is_no_other_message() {
    for world in World::all().await {
        world.endpoint(HOOK).await;
        let id = WebhookId::parse("report-17").unwrap();
        let message = |environment, payload| {
            WebhookMessage::new(world.acme.clone(), environment, id.clone(), payload).unwrap()
        };
        let publish = async |message| kind(world.webhooks.publish(&world.operator, message).await);
        assert_eq!(publish(message(LIVE, "1")).await, Ok(()));
        world.pass(60);
        assert_eq!(publish(message(LIVE, "1")).await, Ok(()));
        assert_eq!(
            publish(message(LIVE, "2")).await,
            Err(AdminErrorKind::Conflict)
        );
        assert_eq!(publish(message(TEST, "3")).await, Ok(()), "another place");
        let nobody = AccountId::parse("nobody").unwrap();
        let lost = WebhookMessage::new(nobody, LIVE, id.clone(), "1").unwrap();
        assert_eq!(publish(lost).await, Err(AdminErrorKind::UnknownAccount));
        let client = Client::default();
        assert_eq!(world.sender(&client).deliver_due().await.unwrap(), 1);
        assert_eq!(client.take()[0].body, "1");
    }
}

#[tokio::test]
async fn a_retired_sealing_key_can_go_once_all_is_sealed_anew() {
    for world in World::all().await {
        let (id, _) = world.endpoint(HOOK).await;
        let hour = Grace::For(Duration::from_secs(3600));
        world
            .webhooks
            .regenerate_secret(&world.user, id, hour)
            .await
            .unwrap();
        let next = || SealingKey::new("2027", &[8; 32]).unwrap();
        let both = SealingKeys::new(next()).retired(SealingKey::new("2026", &[7; 32]).unwrap());
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let store = std::sync::Arc::clone(&world.store);
        let webhooks = WebhookAdmin::new(store, &scheme, both.unwrap());
        assert_eq!(webhooks.reseal(&world.operator).await.unwrap(), 1);
        assert_eq!(webhooks.reseal(&world.operator).await.unwrap(), 0);
        let endpoint = webhooks.endpoint(&world.user, id).await.unwrap();
        assert!(
            endpoint
                .signer(&SealingKeys::new(next()), world.now())
                .is_ok()
        );
        assert!(endpoint.signer(&sealing(), world.now()).is_err());
    }
}

#[tokio::test]
async fn an_imported_secret_signs_beside_the_one_before_for_the_grace() {
    for world in World::all().await {
        let (id, own) = world.endpoint(HOOK).await;
        let known = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = WebhookId::random().unwrap();
        let signs = async |by: &WebhookSigner| {
            let endpoint = world.webhooks.endpoint(&world.operator, id).await.unwrap();
            let signer = endpoint.signer(&sealing(), world.now()).unwrap();
            signer.sign(&message, world.now(), b"{}") == by.sign(&message, world.now(), b"{}")
        };
        let import = |grace| {
            let webhooks = &world.webhooks;
            webhooks.import_secret(&world.operator, id, &known, grace)
        };
        let hour = Grace::For(Duration::from_secs(3600));
        import(hour).await.unwrap();
        assert!(signs(&WebhookSigner::new(&known).and(&own)).await);
        world.pass(3600);
        assert!(signs(&WebhookSigner::new(&known)).await);
        import(Grace::None).await.unwrap();
        assert!(signs(&WebhookSigner::new(&known)).await);
        let never = import(Grace::For(Duration::MAX)).await;
        assert_eq!(kind(never), Err(AdminErrorKind::Expiry));
    }
}

#[tokio::test]
async fn every_call_leaves_a_line_and_none_holds_a_secret_or_a_path() {
    let (log, subscriber) = capture();
    let _guard = tracing::subscriber::set_default(subscriber);
    for world in World::all().await {
        let (webhooks, user) = (&world.webhooks, &world.user);
        let create = webhooks
            .create_endpoint(user, &world.acme, LIVE, url(HOOK))
            .await;
        let created = create.unwrap();
        let id = created.endpoint.id();
        let renewed = webhooks
            .regenerate_secret(user, id, Grace::None)
            .await
            .unwrap();
        let guest = Actor::user("guest", world.acme.clone(), [Permission::ReadWebhooks]);
        let denied = webhooks.delete_endpoint(&guest, id).await.unwrap_err();
        let message = world.publish("{\"a\":\"p4yload\"}").await;
        world
            .sender(&Client::default())
            .deliver_due()
            .await
            .unwrap();
        for (message, done) in [
            (message, Ok(())),
            (
                WebhookId::random().unwrap(),
                Err(AdminErrorKind::UnknownMessage),
            ),
        ] {
            let again = webhooks.redeliver(user, id, Redelivery::Message(message));
            assert_eq!(kind(again.await), done);
        }
        webhooks.delete_endpoint(user, id).await.unwrap();
        let trail = world
            .keys
            .audit(&world.operator, Some(&world.acme), None)
            .await
            .unwrap();
        let lines: Vec<_> = trail
            .entries
            .iter()
            .map(|line| (line.action, line.refused))
            .collect();
        assert_eq!(
            lines[..6],
            [
                (AuditAction::DeleteEndpoint, None),
                (AuditAction::Redeliver, Some(AdminErrorKind::UnknownMessage)),
                (AuditAction::Redeliver, None),
                (
                    AuditAction::DeleteEndpoint,
                    Some(AdminErrorKind::NotPermitted)
                ),
                (AuditAction::RegenerateSecret, None),
                (AuditAction::CreateEndpoint, None),
            ]
        );
        let named = format!("endpoint={id}");
        assert!(
            trail.entries[..6]
                .iter()
                .all(|line| line.detail.starts_with(&named))
        );
        let environment = Environment::LIVE;
        let mut all = format!("{trail:?} {created:?} {renewed:?} {denied:?} {environment}");
        all.push_str(&String::from_utf8_lossy(&log.0.lock().unwrap()));
        let secrets =
            [&created, &renewed].map(|shown| shown.secret.expose_secret()[6..30].to_owned());
        for private in ["t0ken", "/hook", "p4yload", &secrets[0], &secrets[1]] {
            assert!(!all.contains(private), "{private} in {all}");
        }
    }
}
