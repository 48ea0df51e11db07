//! A secret key in a place for publishable ones: probably in a page, and leaked.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use http::Request;
use keyward::admin::CreatedKey;
use keyward::denial::DenialKind;
use keyward::gate::Denial;
use keyward::record::AuditAction;
use keyward::testing::block_on;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyKind, KeyLocation, KeyScheme,
    MemoryStore, NewKey, Requirement,
};
use keyward_tower::RequireKeyLayer;
use tower::ServiceExt;

use crate::secrecy::capture;
use crate::service::Service;
use crate::stacks::{Ask, everywhere};

#[test]
fn it_is_logged_as_a_warning_that_names_the_key() {
    let (log, subscriber) = capture();
    let service = Arc::new(Service::new());
    let key = service.keys["live"].clone();
    let ask = |field, value: String| Ask {
        method: "GET",
        path: "/both-kinds".to_owned(),
        fields: vec![(field, value.into_bytes())],
    };
    let asks = [
        ask("x-client-key", key.clone()),
        ask("authorization", format!("ClientKey {key}")),
        ask("x-api-key", service.keys["publishable"].clone()),
    ];
    let answers = tracing::subscriber::with_default(subscriber, || everywhere(&service, &asks));
    assert!(answers.iter().all(|answer| answer.status == 403));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    let hint = format!("key.hint=vhk_live_…{}", &key[key.len() - 4..]);
    // Both places, in each of the three stacks. The other way round nothing has leaked.
    let named = warnings.iter().filter(|line| {
        line.contains(&hint) && line.contains("key.id=key_") && line.contains("probably leaked")
    });
    assert_eq!((warnings.len(), named.count()), (6, 6), "{warnings:#?}");
}

#[tokio::test]
async fn an_outer_layer_can_switch_it_off_and_leave_a_line_in_the_trail() {
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let store = Arc::new(MemoryStore::new());
    let gate = Gate::builder(&store, &scheme)
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::x_client_key())
        .build()
        .unwrap();
    let admin = KeyAdmin::new(&store, &scheme);
    let acme = AccountId::parse("acme").unwrap();
    let operator = Actor::operator("tests");
    block_on(admin.open_account(&operator, &acme)).unwrap();
    let make = |kind| {
        let new = NewKey::new(acme.clone(), Environment::LIVE, "name");
        block_on(admin.create(&operator, new.kind(kind))).unwrap()
    };
    let secret = make(KeyKind::Secret);
    let publishable = make(KeyKind::Publishable);

    let alarm = admin.clone();
    let kinds = [KeyKind::Publishable, KeyKind::Secret];
    let app = Router::new()
        .route("/", get(async || "in"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new().kinds(kinds)))
        .layer(map_response(move |response: Response| {
            stop_leaks(alarm.clone(), response)
        }));
    let ask = async |created: &CreatedKey, field| {
        let key = created.key.as_ref().unwrap().expose_secret();
        let request = Request::get("/").header(field, key).body(Body::empty());
        let response = app.clone().oneshot(request.unwrap()).await.unwrap();
        response.status().as_u16()
    };
    // Everybody can copy a publishable key: he must not be able to have it switched off.
    assert_eq!(ask(&publishable, "x-api-key").await, 403);
    assert_eq!(ask(&publishable, "x-client-key").await, 200);
    assert_eq!(ask(&secret, "x-api-key").await, 200);
    assert_eq!(ask(&secret, "x-client-key").await, 403);
    assert_eq!(ask(&secret, "x-api-key").await, 401);
    let trail = block_on(admin.audit(&operator, Some(&acme), None)).unwrap();
    let line = &trail.entries[0];
    assert_eq!(line.action, AuditAction::Disable);
    assert_eq!(line.key, Some(secret.record.id));
}

/// As the docs show it.
async fn stop_leaks(admin: KeyAdmin, response: Response) -> Response {
    if let Some(denial) = response.extensions().get::<Denial>()
        && denial.kind() == DenialKind::SecretExposed
        && let Some(key) = denial.key_id()
    {
        drop(admin.disable(&Actor::operator("leak alarm"), key).await);
    }
    response
}
