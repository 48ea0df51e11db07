//! A DNS resolver for SSRF protection.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use keyward_webhooks::send::EndpointRules;
use pin_project_lite::pin_project;
use tower_service::Service;

/// A DNS resolver that returns only public addresses, for SSRF protection.
///
/// Wrap the resolver of the client that a [`WebhookSender`](crate::WebhookSender) uses. It works with any
/// resolver that is a service from names to addresses, such as that of `hyper_util`'s `HttpConnector`:
///
/// ```
/// # use std::net::SocketAddr;
/// # use hyper_util::client::legacy::Client;
/// # use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
/// # use hyper_util::client::legacy::connect::HttpConnector;
/// # use hyper_util::rt::TokioExecutor;
/// # use tower::{Service, ServiceExt};
/// use keyward_webhooks::send::EndpointRules;
/// use keyward_tower::{PublicOnlyResolver, ResolveErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let resolver = PublicOnlyResolver::new(GaiResolver::new(), EndpointRules::new());
/// let error = resolver.clone().oneshot("localhost".parse::<Name>()?).await.unwrap_err();
/// assert_eq!(error.kind(), ResolveErrorKind::NotPublic);
///
/// let connector = HttpConnector::new_with_resolver(resolver);
/// let client = Client::builder(TokioExecutor::new()).build(connector); // for a sender
/// # let _: Client<_, http_body_util::Full<bytes::Bytes>> = client;
/// # Ok(())
/// # }
/// ```
///
/// The client connects to the addresses that this resolver returns, so DNS rebinding, where a name changes its
/// address between two lookups, has no effect. A connector does not resolve a host that is an IP address; the
/// sender checks those itself. A connector that uses a proxy does not resolve names either: in that case, the
/// proxy must block private addresses.
#[derive(Clone, Debug)]
pub struct PublicOnlyResolver<R> {
    resolver: R,
    rules: EndpointRules,
}

impl<R> PublicOnlyResolver<R> {
    /// Wraps a resolver, and filters its addresses by these rules.
    pub fn new(resolver: R, rules: EndpointRules) -> Self {
        Self { resolver, rules }
    }
}

impl<R, N> Service<N> for PublicOnlyResolver<R>
where
    R: Service<N>,
    R::Response: IntoIterator<Item = SocketAddr>,
    R::Error: Into<Box<dyn Error + Send + Sync>>,
    N: fmt::Display,
{
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = ResolveFuture<R::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        self.resolver
            .poll_ready(context)
            .map_err(ResolveError::unresolved)
    }

    fn call(&mut self, name: N) -> Self::Future {
        ResolveFuture {
            host: name.to_string(),
            rules: self.rules.clone(),
            addresses: self.resolver.call(name),
        }
    }
}

pin_project! {
    /// The response future of [`PublicOnlyResolver`].
    #[derive(Debug)]
    pub struct ResolveFuture<F> {
        host: String,
        rules: EndpointRules,
        #[pin]
        addresses: F,
    }
}

impl<F, A, E> Future for ResolveFuture<F>
where
    F: Future<Output = Result<A, E>>,
    A: IntoIterator<Item = SocketAddr>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<vec::IntoIter<SocketAddr>, ResolveError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let addresses = ready!(this.addresses.poll(context)).map_err(ResolveError::unresolved)?;
        let mut kept: Vec<_> = addresses.into_iter().collect();
        let known = !kept.is_empty();
        kept.retain(|address| this.rules.admits(this.host, address.ip()));
        if known && kept.is_empty() {
            return Poll::Ready(Err(ResolveError::new(ResolveErrorKind::NotPublic)));
        }
        Poll::Ready(Ok(kept.into_iter()))
    }
}

/// An error of [`PublicOnlyResolver`].
#[derive(Debug)]
pub struct ResolveError {
    kind: ResolveErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ResolveError {
    fn new(kind: ResolveErrorKind) -> Self {
        let source = None;
        Self { kind, source }
    }

    fn unresolved(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = Some(source.into());
        let kind = ResolveErrorKind::Unresolved;
        Self { kind, source }
    }

    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> ResolveErrorKind {
        self.kind
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ResolveErrorKind::NotPublic => "the host has no public address",
            ResolveErrorKind::Unresolved => "the host cannot be resolved",
        })
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The kind of a [`ResolveError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveErrorKind {
    /// The host has addresses, but none of them is allowed.
    NotPublic,
    /// The wrapped resolver failed.
    Unresolved,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn resolve(
        rules: EndpointRules,
        host: &'static str,
        answer: &[&str],
    ) -> Result<Vec<String>, ResolveErrorKind> {
        let answer: Vec<SocketAddr> = answer
            .iter()
            .map(|address| format!("{address}:0").parse().unwrap())
            .collect();
        let resolver = service_fn(move |_: &'static str| {
            let answer = answer.clone();
            async { Ok::<_, Infallible>(answer) }
        });
        let found = PublicOnlyResolver::new(resolver, rules).oneshot(host).await;
        let found = found.map_err(|error| error.kind())?;
        Ok(found.map(|address| address.ip().to_string()).collect())
    }

    #[tokio::test]
    async fn returns_only_public_addresses() {
        let ask = |answer| resolve(EndpointRules::new(), "acme.example", answer);
        for private in [
            &["127.0.0.1"][..],
            &["10.0.0.1", "192.168.0.1", "[::1]"],
            &["169.254.169.254"],
            &["[::ffff:169.254.169.254]"],
            &["[fd00:ec2::254]"],
            &["0.0.0.0"],
            &["168.63.129.16"],
            &["[64:ff9b::168.63.129.16]"],
        ] {
            let found = ask(private).await;
            assert_eq!(found, Err(ResolveErrorKind::NotPublic), "{private:?}");
        }
        assert_eq!(ask(&["10.0.0.1", "1.1.1.1"]).await.unwrap(), ["1.1.1.1"]);
        assert!(ask(&[]).await.unwrap().is_empty());
        let named = EndpointRules::new().insecure_private_host("acme.example");
        let found = resolve(named.clone(), "acme.example", &["10.0.0.1"]).await;
        assert_eq!(found.unwrap(), ["10.0.0.1"]);
        let found = resolve(named, "other.example", &["10.0.0.1"]).await;
        assert_eq!(found, Err(ResolveErrorKind::NotPublic));
    }

    #[tokio::test]
    async fn a_name_that_changes_its_address_is_judged_each_time() {
        let mut answers = ["1.1.1.1:0", "127.0.0.1:0"].into_iter().cycle();
        let mut rebound = PublicOnlyResolver::new(
            service_fn(move |_: &'static str| {
                let address: SocketAddr = answers.next().unwrap().parse().unwrap();
                async move { Ok::<_, Infallible>([address]) }
            }),
            EndpointRules::new(),
        );
        for _ in 0..3 {
            let given: Vec<_> = rebound.call("acme.example").await.unwrap().collect();
            assert_eq!(given, ["1.1.1.1:0".parse().unwrap()]);
            let error = rebound.call("acme.example").await.unwrap_err();
            assert_eq!(error.kind(), ResolveErrorKind::NotPublic);
        }
    }

    #[tokio::test]
    async fn a_resolver_that_fails_is_the_source_of_the_error() {
        let fails = service_fn(async |_: &'static str| Err::<Vec<SocketAddr>, _>("no such name"));
        let error = PublicOnlyResolver::new(fails, EndpointRules::new()).oneshot("acme.example");
        let error = error.await.unwrap_err();
        assert_eq!(error.kind(), ResolveErrorKind::Unresolved);
        assert_eq!(error.source().unwrap().to_string(), "no such name");
    }
}
