//! The requirement of a route: which keys it admits and what a request costs.

use std::fmt;
use std::sync::OnceLock;

use crate::environment::Environment;
use crate::gate::Cors;
use crate::gate::other_credential::OtherCredential;
use crate::gate::rendered::WithCors;
use crate::ids::AccountId;
use crate::key::KeyKind;
use crate::reply::Reply;
use crate::reply::replies::MissingScopes;
use crate::scope::{Scope, ScopeCatalog, Scopes};
use crate::usage::UsageLabel;

/// The requirement of a route: scopes, environments, kinds of keys and cost.
///
/// A layer adds it to its gate. By default, it admits live, secret keys of any account, whatever
/// their scopes.
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
    /// The accepted environments; `None` for all.
    environments: Option<Vec<Environment>>,
    /// Groups of scopes; a key needs at least one of each group.
    scopes: Vec<Vec<Scope>>,
    kinds: Vec<KeyKind>,
    account: Option<AccountId>,
    optional: bool,
    other: OtherCredential,
    cost: Option<u32>,
    credits: Option<u32>,
    /// Boxed, as few routes have one.
    label: Option<Box<UsageLabel>>,
    report_only: bool,
    grpc: bool,
    /// The CORS policy of the route; `None` for the gate's.
    cors: Option<Box<Cors>>,
    /// The reply for a missing scope, which names the required ones.
    scope_missing: Rendered<Reply>,
    /// The replies of a route with its own [`Cors`].
    with_cors: Rendered<Box<WithCors>>,
}

impl Requirement {
    /// Creates a requirement that admits live, secret keys.
    pub fn new() -> Self {
        Self {
            environments: Some(vec![Environment::LIVE]),
            scopes: Vec::new(),
            kinds: vec![KeyKind::Secret],
            account: None,
            optional: false,
            other: OtherCredential::default(),
            cost: None,
            credits: None,
            label: None,
            report_only: false,
            grpc: false,
            cors: None,
            scope_missing: Rendered::default(),
            with_cors: Rendered::default(),
        }
    }

    /// Requires this scope, in addition to those required so far.
    ///
    /// # Panics
    /// Panics if it is not a valid [`Scope`]; the message names it.
    #[track_caller]
    pub fn scope(self, scope: &str) -> Self {
        self.any_scope([scope])
    }

    /// Requires at least one of these scopes, in addition to those required so far.
    ///
    /// # Panics
    /// Panics if one is not a valid [`Scope`], which the message names, or if there is none.
    #[track_caller]
    #[expect(
        clippy::panic,
        reason = "a mistake in the program's own text, reported at startup"
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

    /// Accepts keys of this environment only, instead of `live`.
    #[track_caller]
    pub fn environment(self, environment: Environment) -> Self {
        self.environments([environment])
    }

    /// Accepts keys of these environments, instead of `live`.
    ///
    /// # Panics
    /// Panics if there is none.
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

    /// Accepts keys of every environment; the handler must distinguish them.
    pub fn any_environment(mut self) -> Self {
        self.environments = None;
        self
    }

    /// Accepts keys of these kinds, instead of secret keys only.
    ///
    /// # Panics
    /// Panics if there is none.
    #[track_caller]
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = KeyKind>) -> Self {
        self.kinds = kinds.into_iter().collect();
        assert!(
            !self.kinds.is_empty(),
            "a choice of no kinds can never be met"
        );
        self.rendered_anew()
    }

    /// Accepts keys of this account only; any other key is rejected like an unknown one.
    pub fn account(mut self, account: AccountId) -> Self {
        self.account = Some(account);
        self
    }

    /// Admits requests without a key as anonymous. A key that is sent must still be valid.
    ///
    /// Every response then gets a `Vary` with the headers of the gate's locations, so that a cache
    /// does not serve the response to an anonymous request to a client that sends a key. For routes
    /// that a JWT or another credential opens as well, see
    /// [`or_other_credential`](Self::or_other_credential).
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Passes on a request without a key if it has another credential in `Authorization`.
    ///
    /// Use it for routes that a key or a JWT, a session's token or a password opens. Such a request
    /// is [`Anonymous`](crate::gate::Anonymous), with its `Authorization` untouched. **The handler
    /// must verify that credential**: the gate only sees that it is no key. A handler that extracts
    /// a principal still responds with 401 `missing_api_key`.
    ///
    /// Another credential is a single line of `Authorization` with a scheme, some spaces, and one
    /// token or a list of parameters (RFC 9110 §11.4), unless it may be a key:
    ///
    /// - something in it begins like a key of the gate, in any case: an own format claims all that
    ///   begins with its prefix, and a [`ForeignFormat`](crate::key::ForeignFormat) claims that and
    ///   whatever has its form. So a key that is mistyped, cut off, quoted or in the wrong scheme is
    ///   refused as on any other route;
    /// - its scheme is one that the gate names in its challenges, other than `Bearer`, such as
    ///   `ApiKey` or `ClientKey`.
    ///
    /// Everything else in `Authorization` is refused: two lines, two credentials joined by a comma, a
    /// scheme alone, a token without a scheme, in quotation marks or with a tab before it. So is a
    /// request with neither a key nor `Authorization`: 401 `missing_api_key`. Add
    /// [`optional`](Self::optional) if it may have a session cookie, which the handler must then
    /// check as well.
    ///
    /// A request with both a key and `Authorization` is refused, unless the route is declared as
    /// [`beside_other_credential`](Self::beside_other_credential). Where it crosses several layers of a
    /// gate, each layer that accepts other credentials checks this:
    ///
    /// ```text
    /// HTTP/1.1 400 Bad Request
    /// cache-control: no-store
    /// content-type: application/problem+json
    /// www-authenticate: ApiKey realm="api", error="invalid_request"
    /// www-authenticate: Bearer realm="api", error="invalid_request"
    ///
    /// {"type":"about:blank","title":"Bad Request","status":400,"detail":"Send either the API key or the other credential: the request holds both.","code":"multiple_api_keys"}
    /// ```
    ///
    /// Every response that is passed on is private to shared caches unless the handler says
    /// otherwise, and has a `Vary` with `authorization` and the headers of the gate's locations.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
    /// # use keyward::gate::{Access, Decision, Verdict};
    /// # use keyward::testing::TestRequest;
    /// use keyward::Requirement;
    ///
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let gate = Gate::new(&store, &scheme)?;
    /// let either = Arc::new(Requirement::new().or_other_credential());
    /// # let passes = |request: TestRequest| match gate.check(&request, &either, None) {
    /// #     Decision::Ready(Verdict::Admit(admitted)) => matches!(admitted.access, Some(Access::Anonymous(_))),
    /// #     _ => false,
    /// # };
    /// let with = |value| TestRequest::get().header("authorization", value);
    /// assert!(passes(with("Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"))); // as anonymous
    /// assert!(!passes(with("Bearer vhk_live_mistyped"))); // 401 `invalid_api_key`
    /// assert!(!passes(TestRequest::get())); // 401 `missing_api_key`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn or_other_credential(mut self) -> Self {
        self.other.replaces_key = true;
        self
    }

    /// Accepts another credential in `Authorization` beside the key, and passes it on.
    ///
    /// The key decides whether the request passes; the handler must verify the other credential if
    /// it uses it. What counts as another credential is described at
    /// [`or_other_credential`](Self::or_other_credential), which may be combined with this. Without
    /// either option, only a scheme that is no location of the gate, such as `Basic`, may stand beside
    /// a key.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::gate::{Access, Decision, Verdict};
    /// # use keyward::testing::{TestRequest, World};
    /// use keyward::Requirement;
    ///
    /// # let world = World::new();
    /// # let (gate, secret) = (world.gate(), world.key("kyc"));
    /// let app_and_user = Arc::new(Requirement::new().beside_other_credential());
    /// # let admits = |request: TestRequest| match gate.check(&request, &app_and_user, None) {
    /// #     Decision::Ready(Verdict::Admit(admitted)) => matches!(admitted.access, Some(Access::Principal(_))),
    /// #     _ => false,
    /// # };
    /// let with_jwt = TestRequest::get().header("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln");
    /// assert!(admits(with_jwt.clone().key(&secret))); // the handler finds the JWT in `Authorization`
    /// assert!(!admits(with_jwt)); // 401 `missing_api_key`
    /// ```
    pub fn beside_other_credential(mut self) -> Self {
        self.other.beside_key = true;
        self
    }

    pub(crate) fn other_credential(&self) -> OtherCredential {
        self.other
    }

    /// Logs keys that do not meet this requirement instead of rejecting them.
    ///
    /// Use it to roll out a stricter requirement on a running API. A request that would be rejected
    /// for its environment, its kind of key or its scopes is admitted; the log shows the response
    /// that it would have got, the span gets `keyward.would_refuse`, and
    /// [`Gate::reported`](crate::gate::Gate::reported) counts it. The key itself must still be
    /// valid, in an accepted place, and of the route's account, and the request is charged.
    pub fn report_only(mut self) -> Self {
        self.report_only = true;
        self
    }

    pub(crate) fn is_report_only(&self) -> bool {
        self.report_only
    }

    /// Rejects gRPC calls with a gRPC status: HTTP status 200 and a `grpc-status`.
    ///
    /// Use it for routes of a gRPC server. Every other route responds with the HTTP status,
    /// whatever content type a request claims to have, because a proxy or client that reads only
    /// the status would take the 200 of gRPC for an admission. For the same reason, a request to
    /// such a route also gets the HTTP status unless it is a `POST` with a content type of gRPC or
    /// gRPC-Web, as every gRPC call is. Do not point nginx's `auth_request` or any other forward
    /// authentication at such a route.
    ///
    /// If a call crosses several layers of a gate, set it for each, as each formats its own
    /// rejections.
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

    /// Sets how many requests one request counts for in rate limiting; 0 is free.
    ///
    /// The default is 1 for the first layer of a gate, and nothing more for inner layers. A request
    /// that crosses several layers pays the highest cost, once.
    pub fn cost(mut self, cost: u32) -> Self {
        self.cost = Some(cost);
        self
    }

    /// Sets how many credits a request with a live key costs; 0 is free.
    ///
    /// The default is 1. If a request crosses several layers, the highest counts, as with
    /// [`cost`](Self::cost). Nothing is spent if neither the key nor its account has a balance.
    pub fn credits(mut self, credits: u32) -> Self {
        self.credits = Some(credits);
        self
    }

    /// Counts the requests of this route under a label too, by outcome.
    ///
    /// [`KeyAdmin::usage_page`](crate::admin::KeyAdmin::usage_page) returns the counts by key, label and
    /// hour, and [`KeyAdmin::usage_sums`](crate::admin::KeyAdmin::usage_sums) those of a bill. An
    /// admitted request counts once its response is known: below 400, 4xx, 5xx, or none; a refused
    /// one of a proved key counts as refused. The status is that of HTTP, also of gRPC calls. A
    /// request that crosses several layers of a gate counts once, under the innermost label.
    ///
    /// The gates of a store count up to 32 labels in a process. Requests with any other label count
    /// under [`UsageLabel::OTHER`], and a warning is logged.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use keyward::{Actor, Requirement};
    /// # use keyward::testing::{TestRequest, World, block_on};
    /// # let world = World::new();
    /// # let (admin, operator) = (world.admin(), world.operator());
    /// let reports = Requirement::new().scope("reports").label("reports");
    /// # let request = TestRequest::get().key(&world.key("kyc"));
    /// assert_eq!(world.status(&request, reports), 403);
    /// # let now = admin.now();
    /// # let span = now - Duration::from_secs(3600)..now + Duration::from_secs(7200);
    /// let sums = block_on(admin.usage_sums(&operator, None, span))?;
    /// let label = sums.iter().find(|sum| sum.label.is_some_and(|label| label.as_str() == "reports"));
    /// assert_eq!(label.map(|sum| sum.counts.refused), Some(1));
    /// # Ok::<(), keyward::admin::AdminError>(())
    /// ```
    ///
    /// # Panics
    /// Panics if it is not a valid [`UsageLabel`]; the message names it.
    #[track_caller]
    #[expect(
        clippy::panic,
        reason = "a mistake in the program's own text, reported at startup"
    )]
    pub fn label(mut self, label: &str) -> Self {
        match UsageLabel::parse(label) {
            Ok(label) => self.label = Some(Box::new(label)),
            Err(error) => panic!("{error}: {label:?}"),
        }
        self
    }

    pub(crate) fn own_label(&self) -> Option<UsageLabel> {
        self.label.as_deref().copied()
    }

    /// Returns the reply of a gate for a missing scope, rendered once.
    pub(crate) fn scope_missing(&self, gate: u64, render: impl Fn() -> Reply) -> Reply {
        self.scope_missing.read(gate, render, Reply::clone)
    }

    /// Reads the replies of a gate for a route with its own [`Cors`], rendered once.
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

    /// Returns all required scopes.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &Scope> {
        self.scopes.iter().flatten()
    }

    /// Returns the required scopes, as shown to a request that lacks some.
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

/// The part that one gate has rendered for a requirement. It is ignored in comparisons.
struct Rendered<T>(OnceLock<(u64, T)>);

impl<T> Rendered<T> {
    /// Reads the rendered part.
    ///
    /// It is kept for the first gate, and rendered each time for others.
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
    fn a_later_option_keeps_earlier_requirements() {
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
