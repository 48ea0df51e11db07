//! What a route demands of a key.

use std::fmt;
use std::sync::OnceLock;

use crate::environment::Environment;
use crate::gate::Cors;
use crate::gate::replies::WithCors;
use crate::ids::AccountId;
use crate::key::KeyKind;
use crate::reply::Reply;
use crate::reply::replies::MissingScopes;
use crate::scope::{Scope, ScopeCatalog, Scopes};

/// What a route demands of a key.
///
/// It is the only thing a layer adds to its gate. Unless told otherwise: a live, secret key of any
/// account, with any scopes.
///
/// ```
/// use keyward::{Environment, KeyKind, Requirement};
///
/// let submit = Requirement::new().scope("kyc").environment(Environment::TEST);
/// let either = Requirement::new().any_scope(["kyc", "kyc_plus"]).any_environment();
/// let widget = Requirement::new().kinds([KeyKind::Publishable]);
/// assert!([submit, either, widget].iter().all(|own| *own != Requirement::new()));
///
/// let in_full = Requirement::new().environment(Environment::LIVE).kinds([KeyKind::Secret]);
/// assert_eq!(in_full, Requirement::new());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Requirement {
    /// `None` stands for any.
    environments: Option<Vec<Environment>>,
    /// One scope at least of every group must be held.
    scopes: Vec<Vec<Scope>>,
    kinds: Vec<KeyKind>,
    account: Option<AccountId>,
    optional: bool,
    cost: Option<u32>,
    credits: Option<u32>,
    report_only: bool,
    grpc: bool,
    /// `None` stands for what the gate has.
    cors: Option<Box<Cors>>,
    /// The answer where a scope is missing, which names those that are asked for.
    scope_missing: Rendered<Reply>,
    /// The answers of a route that has a [`Cors`] of its own.
    with_cors: Rendered<Box<WithCors>>,
}

impl Requirement {
    /// A live, secret key.
    pub fn new() -> Self {
        Self {
            environments: Some(vec![Environment::LIVE]),
            scopes: Vec::new(),
            kinds: vec![KeyKind::Secret],
            account: None,
            optional: false,
            cost: None,
            credits: None,
            report_only: false,
            grpc: false,
            cors: None,
            scope_missing: Rendered::default(),
            with_cors: Rendered::default(),
        }
    }

    /// Also asks for this scope.
    ///
    /// # Panics
    /// When it is not a [`Scope`], naming it.
    #[track_caller]
    pub fn scope(self, scope: &str) -> Self {
        self.any_scope([scope])
    }

    /// Also asks for one of these scopes.
    ///
    /// # Panics
    /// When one is not a [`Scope`], naming it, or there is none.
    #[track_caller]
    #[expect(
        clippy::panic,
        reason = "a mistake in the program's own text, shown when it starts"
    )]
    pub fn any_scope<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        // Not in a closure: a panic there would not point to the caller.
        let mut choice = Vec::new();
        for scope in scopes {
            let scope = scope.as_ref();
            match Scope::parse(scope) {
                Ok(scope) => choice.push(scope),
                Err(error) => panic!("{error}: {scope:?}"),
            }
        }
        assert!(!choice.is_empty(), "a choice of no scopes can never be met");
        self.scopes.push(choice);
        self.rendered_anew()
    }

    /// Serves this environment only, instead of `live`.
    #[track_caller]
    pub fn environment(self, environment: Environment) -> Self {
        self.environments([environment])
    }

    /// Serves these environments, instead of `live`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn environments(mut self, environments: impl IntoIterator<Item = Environment>) -> Self {
        let environments: Vec<_> = environments.into_iter().collect();
        assert!(
            !environments.is_empty(),
            "a choice of no environments can never be met"
        );
        self.environments = Some(environments);
        self
    }

    /// Serves every environment; the handler must tell them apart.
    pub fn any_environment(mut self) -> Self {
        self.environments = None;
        self
    }

    /// Accepts these kinds of keys, instead of secret ones.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = KeyKind>) -> Self {
        self.kinds = kinds.into_iter().collect();
        assert!(
            !self.kinds.is_empty(),
            "a choice of no kinds can never be met"
        );
        self.rendered_anew()
    }

    /// Accepts only keys of this account; any other is answered like an unknown one.
    pub fn account(mut self, account: AccountId) -> Self {
        self.account = Some(account);
        self
    }

    /// Lets a request without any key pass as anonymous. A key that is there must be good.
    ///
    /// Every response then gets a `Vary` with the headers of the gate's locations: a cache must not answer
    /// a request that has a key with what an anonymous one got.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Reports keys that do not meet these demands, and lets them pass.
    ///
    /// So a running API can find out who would be refused before it demands a scope. A request that would
    /// be refused for its environment, its kind or its scopes passes; the log tells of it, with the answer it
    /// would have got, the span gets `keyward.would_refuse`, and [`Gate::reported`](crate::gate::Gate::reported)
    /// counts it. The key itself must still be good, in its place, and of the route's account, and what it
    /// costs is charged.
    pub fn report_only(mut self) -> Self {
        self.report_only = true;
        self
    }

    pub(crate) fn is_report_only(&self) -> bool {
        self.report_only
    }

    /// Refuses gRPC calls in the form of gRPC: status 200, and a `grpc-status`.
    ///
    /// For routes of a gRPC server. Every other route answers with the HTTP status, whatever content type
    /// a request claims to have: a proxy or a client that reads only the status would take the 200 of gRPC
    /// for a request that may pass. For the same reason a request to such a route gets the HTTP status too
    /// unless it is a `POST` with a content type of gRPC or gRPC-Web, as every gRPC call is. Do not point
    /// nginx's `auth_request` or another forward authentication at such a route.
    ///
    /// Of several layers of a gate that a call crosses, each words its own refusals: say it for each.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
    /// # use keyward::gate::{Decision, Verdict};
    /// # use keyward::testing::TestRequest;
    /// # let store = MemoryStore::new();
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let gate = Gate::new(&store, &scheme)?;
    /// # let answer = |method, requirement: Requirement| {
    /// #     let call = TestRequest::new(method).header("content-type", "application/grpc");
    /// #     let decision = gate.check(&call, &Arc::new(requirement), None);
    /// #     let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
    /// #     refusal.reply
    /// # };
    /// let refused = answer("POST", Requirement::new().grpc());
    /// assert_eq!(refused.status(), 200);
    /// assert!(refused.headers().any(|field| field == ("grpc-status", "16")));
    ///
    /// assert_eq!(answer("GET", Requirement::new().grpc()).status(), 401);
    /// assert_eq!(answer("POST", Requirement::new()).status(), 401);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn grpc(mut self) -> Self {
        self.grpc = true;
        self
    }

    /// Sets the CORS policy of this route, instead of the gate's.
    ///
    /// It applies to all that the layer answers, preflight requests included, and to the responses of the
    /// handler. Where a request crosses several layers of a gate, the outermost one answers preflight
    /// requests, and the innermost policy applies to the responses of the handler.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{Cors, Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
    /// # use keyward::gate::{Decision, Verdict};
    /// # use keyward::request::RequestHead;
    /// # struct Preflight;
    /// # impl RequestHead for Preflight {
    /// #     fn method(&self) -> &str { "OPTIONS" }
    /// #     fn peer(&self) -> Option<std::net::IpAddr> { None }
    /// #     fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
    /// #         ["origin", "access-control-request-method"].contains(&field).then_some(&b"PUT"[..]).into_iter()
    /// #     }
    /// # }
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// let gate = Gate::new(&store, &scheme)?; // no page may read its answers,
    /// let open = Requirement::new().cors(Cors::new().methods(["GET"])); // except on this route
    ///
    /// let Decision::Ready(Verdict::Refuse(answer)) = gate.check(&Preflight, &Arc::new(open), None) else { panic!() };
    /// assert!(answer.reply.headers().any(|field| field == ("access-control-allow-methods", "GET")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// Panics if there is no method, or if a method or a header name is not a token.
    #[track_caller]
    pub fn cors(mut self, cors: Cors) -> Self {
        assert!(
            cors.is_valid(),
            "a method or a header name of the CORS policy is not a token, or there is no method"
        );
        self.cors = Some(Box::new(cors));
        self.rendered_anew()
    }

    pub(crate) fn own_cors(&self) -> Option<&Cors> {
        self.cors.as_deref()
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Counts for so many requests in the key's rate limits, instead of one. 0 is free.
    ///
    /// Of several layers that a request crosses it pays the highest cost, once. The first layer of a gate
    /// that says nothing asks for one, those further inside for nothing more.
    pub fn cost(mut self, cost: u32) -> Self {
        self.cost = Some(cost);
        self
    }

    /// Spends so many credits of a live key, instead of one. 0 is free.
    ///
    /// Of several layers the highest counts, as with [`cost`](Self::cost). Where the key and its account
    /// have no balance nothing is spent.
    pub fn credits(mut self, credits: u32) -> Self {
        self.credits = Some(credits);
        self
    }

    /// What a gate answers where a scope is missing, rendered once.
    pub(crate) fn scope_missing(&self, gate: u64, render: impl Fn() -> Reply) -> Reply {
        self.scope_missing.read(gate, render, Reply::clone)
    }

    /// What a gate answers on a route that has a [`Cors`] of its own, rendered once.
    pub(crate) fn with_cors<T>(
        &self,
        gate: u64,
        render: impl Fn() -> Box<WithCors>,
        read: impl FnOnce(&WithCors) -> T,
    ) -> T {
        self.with_cors.read(gate, render, |own| read(own))
    }

    fn rendered_anew(mut self) -> Self {
        self.scope_missing = Rendered::default();
        self.with_cors = Rendered::default();
        self
    }

    pub(crate) fn own_credits(&self) -> Option<u32> {
        self.credits
    }

    pub(crate) fn own_cost(&self) -> Option<u32> {
        self.cost
    }

    pub(crate) fn is_optional(&self) -> bool {
        self.optional
    }

    pub(crate) fn serves(&self, environment: Environment) -> bool {
        let list = self.environments.as_ref();
        list.is_none_or(|list| list.contains(&environment))
    }

    pub(crate) fn accepts(&self, kind: KeyKind) -> bool {
        self.kinds.contains(&kind)
    }

    pub(crate) fn is_for(&self, account: &AccountId) -> bool {
        self.account.as_ref().is_none_or(|own| own == account)
    }

    pub(crate) fn is_met_by(&self, held: &Scopes, catalog: Option<&ScopeCatalog>) -> bool {
        let allows = |scope| match catalog {
            Some(catalog) => catalog.allows(held, scope),
            None => held.allow(scope),
        };
        let mut groups = self.scopes.iter();
        groups.all(|group| group.iter().any(allows))
    }

    /// All scopes that are asked for.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &Scope> {
        self.scopes.iter().flatten()
    }

    /// The scopes that are asked for, as they are told to a request that lacks some.
    pub(crate) fn missing_scopes(&self) -> MissingScopes {
        let groups = self.scopes.iter().map(|group| match &group[..] {
            [one] => one.to_string(),
            some => format!("({})", join(some, " or ")),
        });
        MissingScopes {
            words: groups.collect::<Vec<_>>().join(" and "),
            list: join(self.asked(), " "),
        }
    }
}

/// What one gate has rendered for a requirement. It is no part of what is demanded.
struct Rendered<T>(OnceLock<(u64, T)>);

impl<T> Rendered<T> {
    /// Reads what this gate renders: kept for the first gate, made each time for any other.
    fn read<R>(&self, gate: u64, render: impl Fn() -> T, read: impl FnOnce(&T) -> R) -> R {
        let (of, rendered) = self.0.get_or_init(|| (gate, render()));
        if *of == gate {
            read(rendered)
        } else {
            read(&render())
        }
    }
}

impl<T> Default for Rendered<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Clone for Rendered<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> PartialEq for Rendered<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Rendered<T> {}

impl<T> fmt::Debug for Rendered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Default for Requirement {
    fn default() -> Self {
        Self::new()
    }
}

fn join<'a>(scopes: impl IntoIterator<Item = &'a Scope>, with: &str) -> String {
    let scopes: Vec<_> = scopes.into_iter().map(Scope::as_str).collect();
    scopes.join(with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_groups_must_be_met_each_by_one() {
        let asked = Requirement::new().scope("a").any_scope(["b", "c"]);
        let met = |held: &[&str]| asked.is_met_by(&Scopes::parse(held).unwrap(), None);
        assert!(met(&["a", "b"]));
        assert!(met(&["a", "c"]));
        assert!(!met(&["a"]));
        assert!(!met(&["b", "c"]));
        assert!(!met(&[]));
        assert_eq!(asked.missing_scopes().words, "a and (b or c)");
        assert!(Requirement::new().is_met_by(&Scopes::none(), None));
    }

    #[test]
    fn what_is_said_last_leaves_what_was_asked_before() {
        let asked = || Requirement::new().scope("a");
        for also in [asked().any_environment(), asked().optional()] {
            assert!(!also.is_met_by(&Scopes::none(), None));
        }
        assert!(asked().any_environment().serves(Environment::TEST));
        assert!(!asked().serves(Environment::TEST));
        assert!(asked().optional().is_optional());
    }

    #[test]
    fn the_answer_for_a_missing_scope_is_rendered_once_and_for_one_gate() {
        let asked = Requirement::new().scope("a");
        let reply = |body: &str| Reply::new(403, body.as_bytes().to_vec());
        assert_eq!(asked.scope_missing(1, || reply("1")).body(), b"1");
        assert_eq!(asked.scope_missing(1, || reply("2")).body(), b"1");
        assert_eq!(asked.scope_missing(2, || reply("2")).body(), b"2");
        assert_eq!(asked, Requirement::new().scope("a"), "which was not asked");
        let more = asked.scope("b");
        assert_eq!(more.scope_missing(1, || reply("3")).body(), b"3");
    }

    #[test]
    #[should_panic(
        expected = "invalid scope: contains a wildcard where none is allowed: \"kyc.*\""
    )]
    fn an_invalid_scope_is_named_when_the_layer_is_made() {
        drop(Requirement::new().scope("kyc.*"));
    }

    #[test]
    #[should_panic(expected = "a choice of no scopes")]
    fn a_choice_of_none_is_refused() {
        drop(Requirement::new().any_scope([""; 0]));
    }
}
