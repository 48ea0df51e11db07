//! A service's routes, without a word of any framework.

use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use keyward::{Gate, Principal, Requirement};
use keyward_webhooks::WebhookReceiver;
use keyward_webhooks::receive::WebhookEvent;
use serde_json::{Value, json};

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

/// In the place of a method: any that no other route of the path has. In the place of a path: any that no
/// other route has.
pub(crate) const OTHER: &str = "*";

/// How a service writes an error, from the status in words and what is wrong.
pub type Shape = fn(&str, &str) -> Value;

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
    shape: Shape,
    all: Vec<Route>,
}

impl<S: Send + Sync + 'static> Routes<S> {
    /// Routes whose handlers share this; these people sign in to the dashboard. What is not there is told
    /// in this shape.
    pub fn new(state: S, people: People, shape: Shape) -> Self {
        Self {
            state: Arc::new(state),
            people: Arc::new(people),
            shape,
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
        let (state, shape) = (Arc::clone(&self.state), self.shape);
        let handler = Arc::new(move |who, call| {
            when_whole(shape, call, |call| handler(Arc::clone(&state), who, call))
        });
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
        let (state, shape) = (Arc::clone(&self.state), self.shape);
        let handler =
            Arc::new(move |call| when_whole(shape, call, |call| handler(Arc::clone(&state), call)));
        self.and(on, Behind::Nothing(handler))
    }

    /// For people who sign in, as they do on the dashboard. Nobody else keeps what it answers.
    pub fn dashboard<F>(
        self,
        on: &'static str,
        handler: impl Fn(Arc<S>, Person, Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let behind = self.signed_in(move |person, call| handler(Arc::clone(&state), person, call));
        self.and(on, behind)
    }

    /// The list, to be mounted: also what the dashboard offers, at its root, and what is answered where
    /// nothing is.
    #[must_use]
    pub fn all(mut self) -> Vec<Route> {
        const ROOT: &str = "/dashboard";
        let offered = self.all.iter().filter(|route| route.path.starts_with(ROOT));
        let offered: Vec<_> = offered.map(|route| format!("{route:?}")).collect();
        let list = move |_, _| {
            let offered = json!({ "offers": offered });
            async { Ok(Answer::ok(offered)) }
        };
        let root = self.signed_in(list);
        self = self.and("GET /dashboard", root);

        let (shape, mut paths) = (self.shape, Vec::<&str>::new());
        for route in self.all.clone() {
            if paths.contains(&route.path) {
                continue;
            }
            paths.push(route.path);
            let same = self.all.iter().filter(|other| other.path == route.path);
            let methods: Vec<_> = same.map(|other| other.method).collect();
            let methods = methods.join(", ");
            let refuse = move || {
                let message = format!("This path takes {methods}.");
                let refused = Answer::new(405, shape("Method Not Allowed", &message));
                refused.field("allow", &methods)
            };
            // Who has no key, or has not signed in, is told so first.
            let behind = match route.behind {
                Behind::Key(gate, requirement, _) => {
                    let refuse = move |_, _| -> Answering { Box::pin(ready(refuse())) };
                    Behind::Key(gate, requirement.cost(0).credits(0), Arc::new(refuse))
                }
                Behind::Nothing(_) if route.path.starts_with(ROOT) => {
                    self.signed_in(move |_, _| ready(Err(refuse())))
                }
                Behind::Nothing(_) | Behind::Webhook(..) => {
                    let refuse = move |_| -> Answering { Box::pin(ready(refuse())) };
                    Behind::Nothing(Arc::new(refuse))
                }
            };
            self.all.push(Route {
                method: OTHER,
                path: route.path,
                behind,
            });
        }
        let nothing = move |_| -> Answering {
            let nothing = shape("Not Found", "There is nothing at this path.");
            Box::pin(ready(Answer::new(404, nothing)))
        };
        let behind = Behind::Nothing(Arc::new(nothing));
        self.all.push(Route {
            method: OTHER,
            path: OTHER,
            behind,
        });
        self.all
    }

    /// What is behind the door of the dashboard.
    fn signed_in<F>(&self, handler: impl Fn(Person, Call) -> F + Send + Sync + 'static) -> Behind
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let (people, shape) = (Arc::clone(&self.people), self.shape);
        Behind::Nothing(Arc::new(move |call: Call| -> Answering {
            let Some(person) = people.sign_in(call.field("authorization")) else {
                return Box::pin(async {
                    Answer::new(401, json!({ "error": "sign in" }))
                        .field("www-authenticate", "Basic realm=\"dashboard\"")
                        .unkept()
                });
            };
            let answering = when_whole(shape, call, |call| handler(person, call));
            Box::pin(async { answering.await.unkept() })
        }))
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

/// `{"error":"…"}`
#[must_use]
pub fn error_json(_: &str, message: &str) -> Value {
    json!({ "error": message })
}

/// `{"error":"Not Found","message":"…"}`
#[must_use]
pub fn error_message_json(status: &str, message: &str) -> Value {
    json!({ "error": status, "message": message })
}

/// `{"detail":"…"}`
#[must_use]
pub fn detail_json(_: &str, message: &str) -> Value {
    json!({ "detail": message })
}

/// What a handler says to a request, unless its body is too long.
fn when_whole<F>(shape: Shape, call: Call, handler: impl FnOnce(Call) -> F) -> Answering
where
    F: Future<Output = Answered> + Send + 'static,
{
    if call.is_whole {
        return boxed(handler(call));
    }
    let refused = shape("Content Too Large", "A body has 2 MiB at most.");
    Box::pin(ready(Answer::new(413, refused)))
}

fn boxed(answering: impl Future<Output = Answered> + Send + 'static) -> Answering {
    Box::pin(async { answering.await.unwrap_or_else(|answer| answer) })
}
