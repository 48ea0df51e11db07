//! A service's routes, without a word of any framework.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use keyward::{Gate, Principal, Requirement, WebhookEvent, WebhookReceiver};
use serde_json::json;

use crate::{Answer, Answered, Call, People, Person};

/// What a handler gives, boxed so that all stand in one list.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One method of one path.
#[derive(Clone)]
pub struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) behind: Behind,
}

/// What stands before a handler, and the handler, which gets what that has found out.
#[derive(Clone)]
pub(crate) enum Behind {
    Key(
        Gate,
        Requirement,
        Arc<dyn Fn(Principal, Call) -> Answering + Send + Sync>,
    ),
    Webhook(
        WebhookReceiver,
        Arc<dyn Fn(WebhookEvent) -> Answering + Send + Sync>,
    ),
    Nothing(Arc<dyn Fn(Call) -> Answering + Send + Sync>),
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The routes of a service; each is named by its method and path, such as `GET /v1/contacts/{id}`.
#[must_use]
pub struct Routes<S> {
    state: Arc<S>,
    people: Arc<People>,
    all: Vec<Route>,
}

impl<S: Send + Sync + 'static> Routes<S> {
    /// Routes whose handlers share this; these people sign in to the dashboard.
    pub fn new(state: S, people: People) -> Self {
        Self {
            state: Arc::new(state),
            people: Arc::new(people),
            all: Vec::new(),
        }
    }

    /// For whoever sends a key that meets this.
    pub fn key<F>(
        self,
        on: &'static str,
        gate: &Gate,
        requirement: Requirement,
        handler: impl Fn(Arc<S>, Principal, Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let handler = Arc::new(move |who, call| boxed(handler(Arc::clone(&state), who, call)));
        self.and(on, Behind::Key(gate.clone(), requirement, handler))
    }

    /// For deliveries that are signed as this demands.
    pub fn webhook<F>(
        self,
        on: &'static str,
        receiver: WebhookReceiver,
        handler: impl Fn(Arc<S>, WebhookEvent) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let handler = Arc::new(move |event| boxed(handler(Arc::clone(&state), event)));
        self.and(on, Behind::Webhook(receiver, handler))
    }

    /// For everybody.
    pub fn open<F>(
        self,
        on: &'static str,
        handler: impl Fn(Arc<S>, Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let handler = Arc::new(move |call| boxed(handler(Arc::clone(&state), call)));
        self.and(on, Behind::Nothing(handler))
    }

    /// For people who sign in, as they do on the dashboard.
    pub fn dashboard<F>(
        self,
        on: &'static str,
        handler: impl Fn(Arc<S>, Person, Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let (state, people) = (Arc::clone(&self.state), Arc::clone(&self.people));
        let handler = Arc::new(move |call: Call| -> Answering {
            match people.sign_in(call.field("authorization")) {
                Some(person) => boxed(handler(Arc::clone(&state), person, call)),
                None => Box::pin(async {
                    Answer::new(401, json!({ "error": "sign in" }))
                        .field("www-authenticate", "Basic realm=\"dashboard\"")
                }),
            }
        });
        self.and(on, Behind::Nothing(handler))
    }

    /// The list, to be mounted.
    #[must_use]
    pub fn all(self) -> Vec<Route> {
        self.all
    }

    fn and(mut self, on: &'static str, behind: Behind) -> Self {
        let (method, path) = on.split_once(' ').expect("a method and a path");
        self.all.push(Route {
            method,
            path,
            behind,
        });
        self
    }
}

fn boxed(answering: impl Future<Output = Answered> + Send + 'static) -> Answering {
    Box::pin(async { answering.await.unwrap_or_else(|answer| answer) })
}
