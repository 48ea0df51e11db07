//! A key that revokes itself through a handler, in both stacks.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, web};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use http::Request;
use keyward::gate::Principal;
use keyward::record::{AuditAction, AuditEntry};
use keyward::testing::block_on;
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, KeyAdmin, KeyFormat, KeyKind, KeyLocation,
    KeyScheme, NewKey, Requirement,
};
use keyward_actix::RequireKey;
use keyward_sqlite::SqliteStore;
use keyward_tower::RequireKeyLayer;
use tempfile::TempDir;
use tower::ServiceExt;

struct World {
    gate: Gate,
    admin: KeyAdmin,
    operator: Actor,
    acme: AccountId,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("keys.db")).unwrap();
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let gate = Gate::builder(&store, &scheme)
            .location(KeyLocation::x_api_key())
            .location(KeyLocation::x_client_key());
        let admin = KeyAdmin::new(&store, &scheme);
        let (operator, acme) = (Actor::operator("ops"), AccountId::parse("acme").unwrap());
        block_on(admin.open_account(&operator, &acme)).unwrap();
        Self {
            gate: gate.build().unwrap(),
            admin,
            operator,
            acme,
            _folder: folder,
        }
    }

    /// Creates a key without any scope.
    fn key(&self, kind: KeyKind) -> ApiKey {
        let new = NewKey::new(self.acme.clone(), Environment::LIVE, "key").kind(kind);
        let created = block_on(self.admin.create(&self.operator, new)).unwrap();
        created.key.unwrap()
    }

    fn last_line(&self) -> AuditEntry {
        let page = block_on(self.admin.audit(&self.operator, None, None)).unwrap();
        page.entries.into_iter().next().unwrap()
    }
}

fn requirement() -> Requirement {
    Requirement::new().kinds([KeyKind::Secret, KeyKind::Publishable])
}

/// What a handler of `DELETE /key` does; returns its status.
async fn end(admin: &KeyAdmin, caller: &Principal) -> u16 {
    let actor = Actor::key(caller);
    let revoked = admin.revoke(&actor, caller.key_id(), "laptop stolen");
    revoked
        .await
        .map_or_else(|error| error.http_status(), |_| 204)
}

/// The field of a key, and the statuses of a use, of its own end, and of a use after that.
const CALLS: [(KeyKind, &str, [u16; 3]); 2] = [
    (KeyKind::Secret, "x-api-key", [200, 204, 401]),
    (KeyKind::Publishable, "x-client-key", [200, 403, 200]),
];

fn check_line(world: &World, kind: KeyKind) {
    let line = world.last_line();
    if kind == KeyKind::Secret {
        let key = line.key.unwrap();
        assert_eq!(
            (line.actor, line.action),
            (format!("key:{key}"), AuditAction::Revoke)
        );
        assert_eq!((line.refused, &*line.reason), (None, "laptop stolen"));
        assert_eq!(line.account.as_ref(), Some(&world.acme));
    } else {
        assert_eq!(line.action, AuditAction::Create, "nothing was done");
    }
}

#[tokio::test]
async fn in_axum_a_secret_key_ends_itself_and_a_publishable_one_does_not() {
    let world = World::new();
    let revoke = async |State(admin): State<Arc<KeyAdmin>>, caller: keyward_tower::Principal| {
        http::StatusCode::from_u16(end(&admin, &caller).await).unwrap()
    };
    let app = Router::new()
        .route("/key", get(async || "ok").delete(revoke))
        .layer(RequireKeyLayer::new(&world.gate, requirement()))
        .with_state(Arc::new(world.admin.clone()));
    for (kind, field, expected) in CALLS {
        let key = world.key(kind);
        let mut statuses = Vec::new();
        for method in ["GET", "DELETE", "GET"] {
            let request = Request::builder().method(method).uri("/key");
            let request = request.header(field, key.expose_secret());
            let request = request.body(Body::empty()).unwrap();
            let answer = app.clone().oneshot(request).await.unwrap();
            statuses.push(answer.status().as_u16());
        }
        assert_eq!(statuses, expected, "{kind:?}");
        check_line(&world, kind);
    }
}

#[actix_web::test]
async fn in_actix_a_secret_key_ends_itself_and_a_publishable_one_does_not() {
    async fn revoke(admin: web::Data<KeyAdmin>, caller: keyward_actix::Principal) -> HttpResponse {
        let status = end(&admin, &caller).await;
        HttpResponse::new(StatusCode::from_u16(status).unwrap())
    }
    let world = World::new();
    let app = App::new()
        .app_data(web::Data::new(world.admin.clone()))
        .wrap(RequireKey::new(&world.gate, requirement()))
        .route("/key", web::get().to(async || "ok"))
        .route("/key", web::delete().to(revoke));
    let app = actix_web::test::init_service(app).await;
    for (kind, field, expected) in CALLS {
        let key = world.key(kind);
        let mut statuses = Vec::new();
        for method in ["GET", "DELETE", "GET"] {
            let method = method.parse().unwrap();
            let request = actix_web::test::TestRequest::with_uri("/key").method(method);
            let request = request.insert_header((field, key.expose_secret()));
            let answer = actix_web::test::call_service(&app, request.to_request()).await;
            statuses.push(answer.status().as_u16());
        }
        assert_eq!(statuses, expected, "{kind:?}");
        check_line(&world, kind);
    }
}
