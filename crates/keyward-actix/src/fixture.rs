//! A key and a gate that knows it, for the tests.

use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::{App, Error};
use keyward::admin::CreatedKey;
use keyward::credits::Credits;
use keyward::gate::GateBuilder;
use keyward::replica::Replica;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey,
    Scopes, Store,
};

/// A live key of `acme` with the scope `kyc`.
pub(crate) struct Fixture {
    store: Arc<MemoryStore>,
    pub(crate) created: CreatedKey,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let admin = KeyAdmin::new(&store, &scheme());
        let acme = AccountId::parse("acme").unwrap();
        let operator = Actor::operator("test");
        admin.open_account(&operator, &acme).await.unwrap();
        let scopes = Scopes::parse(["kyc"]).unwrap();
        let new = NewKey::new(acme, Environment::LIVE, "test").scopes(scopes);
        let created = admin.create(&operator, new).await.unwrap();
        Self { store, created }
    }

    pub(crate) async fn give_credits(&self, credits: u64) {
        let admin = KeyAdmin::new(&self.store, &scheme());
        let acme = AccountId::parse("acme").unwrap();
        let (operator, credits) = (Actor::operator("test"), Some(Credits::new(credits)));
        let set = admin.set_credits(&operator, acme, credits);
        set.await.unwrap();
    }

    pub(crate) fn gate(&self) -> Gate {
        self.builder().build().unwrap()
    }

    pub(crate) fn builder(&self) -> GateBuilder {
        gate_over(self.store.replica())
    }

    /// A request with the key.
    pub(crate) fn request(&self, path: &str) -> TestRequest {
        let key = (
            "x-api-key",
            self.created.key.as_ref().unwrap().expose_secret(),
        );
        TestRequest::with_uri(path).insert_header(key)
    }
}

pub(crate) fn gate_over(replica: &Replica) -> GateBuilder {
    Gate::builder_from_replica(replica, &scheme())
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

/// Returns the response of an app, which must not be an `Err`.
pub(crate) async fn answer<T, B>(app: App<T>, request: TestRequest) -> ServiceResponse<BoxBody>
where
    T: ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<B>,
            Error = Error,
            InitError = (),
            Future: 'static,
        > + 'static,
    B: MessageBody + 'static,
{
    let app = init_service(app).await;
    let response = call_service(&app, request.to_request()).await;
    response.map_into_boxed_body()
}
