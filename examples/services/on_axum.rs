//! The routes in axum.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any, on};
use axum::{Extension, Router};
use keyward_tower::{Principal, ReceiveWebhookLayer, RequireKeyLayer};
use keyward_webhooks::receive::WebhookEvent;
use tokio::sync::Notify;

use crate::call::MOST;
use crate::routes::{Behind, OTHER};
use crate::run::PATIENCE;
use crate::{Answer, Call, Opened, Route};

/// All routes, each behind its layer.
pub(crate) fn router(routes: &[Route]) -> Router {
    let mut app = Router::new();
    for route in routes {
        let methods = match route.behind.clone() {
            Behind::Key(gate, requirement, handler) => {
                let layer = RequireKeyLayer::new(&gate, requirement);
                let handler = move |who: Principal, call: Call| handler(who.into_inner(), call);
                of_method(route, handler).layer(layer)
            }
            Behind::Webhook(receiver, handler) => {
                let handler = move |Extension(event): Extension<WebhookEvent>| handler(event);
                of_method(route, handler).layer(ReceiveWebhookLayer::new(receiver))
            }
            Behind::Nothing(handler) => of_method(route, move |call: Call| handler(call)),
        };
        app = match route.path {
            OTHER => app.fallback_service(methods),
            path => app.route(path, methods),
        };
    }
    app
}

fn of_method<H: Handler<T, ()>, T: 'static>(route: &Route, handler: H) -> MethodRouter {
    if route.method == OTHER {
        return any(handler);
    }
    let method: Method = route.method.parse().expect("a method");
    on(
        MethodFilter::try_from(method).expect("a known method"),
        handler,
    )
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Infallible> {
        let (mut parts, body) = request.into_parts();
        let params = Path::<HashMap<_, _>>::from_request_parts(&mut parts, state).await;
        let query = Query::try_from_uri(&parts.uri);
        let fields = parts.headers.iter();
        let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let body = to_bytes(body, MOST).await;
        Ok(Self {
            params: params.map(|Path(params)| params).unwrap_or_default(),
            query: query.map(|Query(pairs)| pairs).unwrap_or_default(),
            fields: fields.collect(),
            is_whole: body.is_ok(),
            body: body.unwrap_or_default().into(),
        })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.fields {
            response = response.header(*name, value);
        }
        let (media_type, body) = self.body();
        if let Some(media_type) = media_type {
            response = response.header("content-type", media_type);
        }
        let response = response.body(Body::from(body));
        response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

/// Serves them until the future is ready, and then what has begun.
pub(crate) fn serve(
    listener: TcpListener,
    opened: Opened,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        if let Some(sending) = opened.sending {
            tokio::spawn(sending);
        }
        let ended = Arc::new(Notify::new());
        let tell = Arc::clone(&ended);
        let served = axum::serve(listener, router(&opened.routes));
        let served = served.with_graceful_shutdown(async move {
            end.await;
            tell.notify_one();
        });
        tokio::select! {
            served = served.into_future() => served,
            () = async {
                ended.notified().await;
                tokio::time::sleep(PATIENCE).await;
            } => Ok(()),
        }
    })
}
