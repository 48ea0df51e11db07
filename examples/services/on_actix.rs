//! The routes in actix-web.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::guard::{GuardContext, fn_guard};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, PayloadConfig, Query, ReqData, ServiceConfig};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, Responder};
use keyward_actix::{Principal, ReceiveWebhook, RequireKey};
use keyward_webhooks::receive::WebhookEvent;

use crate::call::MOST;
use crate::routes::{Behind, OTHER};
use crate::run::PATIENCE;
use crate::{Answer, Call, Opened, Route};

/// All routes, each behind its middleware.
pub(crate) fn configure(app: &mut ServiceConfig, routes: &[Route]) {
    app.app_data(PayloadConfig::new(MOST));
    let mut paths = BTreeMap::<_, Vec<_>>::new();
    for route in routes {
        paths.entry(route.path).or_default().push(route);
    }
    for (path, mut routes) in paths {
        if path == OTHER {
            app.default_service(mounted(routes[0]));
            continue;
        }
        // The first whose guard lets a request pass has it.
        routes.sort_by_key(|route| route.method == OTHER);
        let resource = web::resource(path);
        app.service(
            routes
                .into_iter()
                .fold(resource, |resource, route| resource.route(mounted(route))),
        );
    }
}

fn mounted(route: &Route) -> actix_web::Route {
    let method = route.method;
    let guard = fn_guard(move |context: &GuardContext<'_>| match method {
        OTHER => true,
        own => {
            let asked = &context.head().method;
            *asked == own || *asked == Method::HEAD && own == "GET"
        }
    });
    let to = web::route().guard(guard);
    match route.behind.clone() {
        Behind::Key(gate, requirement, handler) => {
            let layer = RequireKey::new(&gate, requirement);
            to.to(move |who: Principal, call: Call| handler(who.into_inner(), call))
                .wrap(layer)
        }
        Behind::Webhook(receiver, handler) => to
            .to(move |event: ReqData<WebhookEvent>| handler(event.into_inner()))
            .wrap(ReceiveWebhook::new(receiver)),
        Behind::Nothing(handler) => to.to(move |call: Call| handler(call)),
    }
}

impl FromRequest for Call {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let params = request.match_info().iter();
        let params = params
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let fields = request.headers().iter();
        let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let fields = fields.collect();
        let query = Query::from_query(request.query_string());
        let query = query.map(Query::into_inner).unwrap_or_default();
        let body = web::Bytes::from_request(request, payload);
        Box::pin(async {
            let body = body.await;
            Ok(Self {
                params,
                query,
                fields,
                is_whole: body.is_ok(),
                body: body.unwrap_or_default().into(),
            })
        })
    }
}

impl Responder for Answer {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let mut response = HttpResponse::build(status);
        for (name, value) in &self.fields {
            response.append_header((*name, &**value));
        }
        let (media_type, body) = self.body();
        if let Some(media_type) = media_type {
            response.content_type(media_type);
        }
        response.body(body)
    }
}

/// Serves them until the future is ready, and then what has begun.
pub(crate) fn serve(
    listener: TcpListener,
    opened: Opened,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes: Arc<[Route]> = opened.routes.into();
    let app = move || App::new().configure(|app| configure(app, &routes));
    actix_web::rt::System::new().block_on(async {
        if let Some(sending) = opened.sending {
            tokio::spawn(sending);
        }
        let server = HttpServer::new(app).workers(2).disable_signals();
        let server = server
            .shutdown_timeout(PATIENCE.as_secs())
            .listen(listener)?
            .run();
        let handle = server.handle();
        tokio::spawn(async move {
            end.await;
            handle.stop(true).await;
        });
        server.await
    })
}
