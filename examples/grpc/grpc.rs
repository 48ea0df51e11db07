//! A gRPC service behind API keys, and a client of it.
//!
//! One layer stands before the whole server, and asks for a key; another before one of its services, and
//! asks for a scope too. Both are told that they guard gRPC, so that a refusal arrives as a status of gRPC.
//!
//! ```text
//! cargo run --example grpc
//! ```
//!
//! `verifier.rs` is made from `verifier.proto` by `protox` and `tonic-prost-build`, and is there so that
//! nothing has to be installed.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Principal,
    RateLimit, Requirement, Scopes,
};
use keyward_sqlite::SqliteStore;
use keyward_tower::RequireKeyLayer;
use tokio::net::TcpListener;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::metadata::MetadataValue;
use tonic::service::LayerExt;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tower::ServiceBuilder;

use verifier::verifier_client::VerifierClient;
use verifier::verifier_server::{Verifier, VerifierServer};
use verifier::{VerifyReply, VerifyRequest};

#[expect(clippy::pedantic, reason = "made by a program")]
mod verifier;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let service = Service::start(&folder.path().join("grpc.db")).await?;
    for (whose, key) in [
        ("no key", None),
        (
            "an unknown key",
            Some(service.format.generate(Environment::LIVE)?),
        ),
        (
            "a key without the scope",
            Some(service.key("plain", &[]).await?),
        ),
        (
            "a key with the scope",
            Some(service.key("kyc", &["kyc"]).await?),
        ),
    ] {
        let mut client = VerifierClient::new(service.channel().await?);
        let told = match client.verify(call(key.as_ref())?).await {
            Ok(reply) => format!("{:?}", reply.into_inner()),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        println!("{whose}:\n    {told}");
    }
    Ok(())
}

/// The server, and what manages its keys.
struct Service {
    format: KeyFormat,
    admin: KeyAdmin,
    operator: Actor,
    account: AccountId,
    address: SocketAddr,
}

impl Service {
    async fn start(database: &std::path::Path) -> Result<Self, Failure> {
        let format = KeyFormat::new("demo_{env}_")?;
        let scheme = KeyScheme::new(format.clone());
        let store = Arc::new(SqliteStore::open(database)?);
        let gate = Gate::builder(&store, &scheme)
            .rate_limits(Environment::LIVE, RateLimit::per_minute(5))
            .build()?;
        let admin = KeyAdmin::new(&store, &scheme);
        let (operator, account) = (Actor::operator("grpc"), AccountId::parse("customer-1")?);
        admin.open_account(&operator, &account).await?;

        let verifier = ServiceBuilder::new()
            .layer(RequireKeyLayer::new(
                &gate,
                Requirement::new().grpc().scope("kyc"),
            ))
            .named_layer(VerifierServer::new(Checks));
        let server = Server::builder()
            .layer(RequireKeyLayer::new(&gate, Requirement::new().grpc()))
            .add_service(verifier);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self {
            format,
            admin,
            operator,
            account,
            address,
        })
    }

    async fn key(&self, name: &str, scopes: &[&str]) -> Result<ApiKey, Failure> {
        let new = NewKey::new(self.account.clone(), Environment::LIVE, name);
        let new = new.scopes(Scopes::parse(scopes)?);
        let created = self.admin.create(&self.operator, new).await?;
        Ok(created.key.ok_or("no key")?)
    }

    async fn channel(&self) -> Result<Channel, Failure> {
        let address = format!("http://{}", self.address);
        Ok(Channel::from_shared(address)?.connect().await?)
    }
}

fn call(key: Option<&ApiKey>) -> Result<Request<VerifyRequest>, Failure> {
    let document = "passport".to_owned();
    let mut call = Request::new(VerifyRequest { document });
    if let Some(key) = key {
        let mut value = MetadataValue::try_from(key.expose_secret())?;
        value.set_sensitive(true);
        call.metadata_mut().insert("x-api-key", value);
    }
    Ok(call)
}

#[derive(Debug)]
struct Checks;

impl Checks {
    fn check(request: &Request<VerifyRequest>, result: &str) -> Result<VerifyReply, Status> {
        // The layer has left who calls, and no key.
        let principal = request.extensions().get::<Principal>();
        let principal = principal.ok_or_else(|| Status::internal("no layer covers this"))?;
        if request.metadata().contains_key("x-api-key") {
            return Err(Status::internal("the key is still there"));
        }
        Ok(VerifyReply {
            result: format!("{} {result}", request.get_ref().document),
            account: principal.account().to_string(),
        })
    }
}

#[tonic::async_trait]
impl Verifier for Checks {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<VerifyReply, Status>> + Send>>;

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyReply>, Status> {
        Ok(Response::new(Self::check(&request, "is genuine")?))
    }

    async fn follow(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let pages = ["page 1", "page 2"].map(|page| Self::check(&request, page));
        Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
    }
}

#[cfg(test)]
mod tests {
    use keyward::Grace;
    use tonic::Code;

    use super::*;

    async fn service() -> (tempfile::TempDir, Service) {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(&folder.path().join("test.db"))
            .await
            .unwrap();
        (folder, service)
    }

    #[tokio::test]
    async fn a_refusal_arrives_as_a_status_of_grpc() {
        let (_folder, service) = service().await;
        let unknown = service.format.generate(Environment::LIVE).unwrap();
        let plain = service.key("plain", &[]).await.unwrap();
        let mut client = VerifierClient::new(service.channel().await.unwrap());
        for (key, code, says) in [
            (None, Code::Unauthenticated, "Send an API key as"),
            (
                Some(&unknown),
                Code::Unauthenticated,
                "The API key is not valid.",
            ),
            (
                Some(&plain),
                Code::PermissionDenied,
                "lacks a scope that is required here: kyc.",
            ),
        ] {
            for _ in 0..2 {
                let status = client.verify(call(key).unwrap()).await.unwrap_err();
                assert_eq!(status.code(), code);
                assert!(status.message().contains(says), "{}", status.message());
                let streamed = client.follow(call(key).unwrap()).await.unwrap_err();
                assert_eq!(streamed.code(), code);
            }
        }
    }

    #[tokio::test]
    async fn what_passes_knows_who_calls_and_is_limited() {
        let (_folder, service) = service().await;
        let key = service.key("kyc", &["kyc"]).await.unwrap();
        let mut client = VerifierClient::new(service.channel().await.unwrap());
        let reply = client.verify(call(Some(&key)).unwrap()).await.unwrap();
        let left = reply.metadata().get("ratelimit").unwrap();
        assert_eq!(left, r#""minute";r=4"#, "two layers charge once");
        assert_eq!(reply.get_ref().account, "customer-1");
        let mut pages = client
            .follow(call(Some(&key)).unwrap())
            .await
            .unwrap()
            .into_inner();
        let mut seen = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            seen.push(page.result);
        }
        assert_eq!(seen, ["passport page 1", "passport page 2"]);
        for _ in 0..3 {
            client.verify(call(Some(&key)).unwrap()).await.unwrap();
        }
        let status = client.verify(call(Some(&key)).unwrap()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("retry-after").unwrap(), "12");
    }

    #[tokio::test]
    async fn a_revoked_key_is_dead_at_the_next_call() {
        let (_folder, service) = service().await;
        let new = NewKey::new(service.account.clone(), Environment::LIVE, "key");
        let new = new.scopes(Scopes::parse(["kyc"]).unwrap());
        let created = service.admin.create(&service.operator, new).await.unwrap();
        let key = created.key.unwrap();
        let mut client = VerifierClient::new(service.channel().await.unwrap());
        client.verify(call(Some(&key)).unwrap()).await.unwrap();
        let rotated = service
            .admin
            .rotate(&service.operator, created.record.id, Grace::None);
        rotated.await.unwrap();
        let status = client.verify(call(Some(&key)).unwrap()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}
