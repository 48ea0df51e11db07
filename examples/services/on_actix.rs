//! The routes in actix-web.

use std::collections::HashMap;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::guard::{GuardContext, fn_guard};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, PayloadConfig, Query, ReqData, ServiceConfig};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, Responder};
use keyward::WebhookEvent;
use keyward_actix::{Principal, ReceiveWebhook, RequireKey};

use crate::routes::Behind;
use crate::{Answer, Call, Route};

/// All routes, each behind its middleware.
pub(crate) fn configure(app: &mut ServiceConfig, routes: &[Route]) {
    app.app_data(PayloadConfig::new(2 << 20));
    for route in routes {
        let method: Method = route.method.parse().expect("a method");
        // A preflight must reach the middleware, which answers it.
        let own = method.clone();
        let guard = fn_guard(move |context: &GuardContext<'_>| {
            let asked = &context.head().method;
            *asked == own || *asked == Method::OPTIONS
        });
        let resource = web::resource(route.path).guard(guard);
        let to = web::method(method);
        match route.behind.clone() {
            Behind::Key(gate, requirement, handler) => {
                let layer = RequireKey::new(gate).requirement(requirement);
                let handler = move |who: Principal, call: Call| handler(who.into_inner(), call);
                app.service(resource.wrap(layer).route(to.to(handler)));
            }
            Behind::Webhook(receiver, handler) => {
                let handler = move |event: ReqData<WebhookEvent>| handler(event.into_inner());
                let layer = ReceiveWebhook::new(receiver);
                app.service(resource.wrap(layer).route(to.to(handler)));
            }
            Behind::Nothing(handler) => {
                let handler = move |call: Call| handler(call);
                app.service(resource.route(to.to(handler)));
            }
        }
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
        let fields = request.headers().iter().filter_map(|(name, value)| {
            let value = value.to_str().ok()?;
            Some((name.as_str().to_owned(), value.to_owned()))
        });
        let fields = fields.collect();
        let query = Query::<HashMap<_, _>>::from_query(request.query_string());
        let body = web::Bytes::from_request(request, payload);
        Box::pin(async {
            Ok(Self {
                params,
                query: query?.into_inner(),
                fields,
                body: body.await?.into(),
            })
        })
    }
}

impl Responder for Answer {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let mut response = HttpResponse::build(status);
        if !self.json.is_null() {
            response.content_type("application/json");
        }
        for (name, value) in &self.fields {
            response.append_header((*name, &**value));
        }
        response.body(self.body())
    }
}

/// Serves them; for as long as the process runs.
pub(crate) fn serve(listener: TcpListener, routes: &Arc<[Route]>) -> std::io::Result<()> {
    let routes = Arc::clone(routes);
    let app = move || App::new().configure(|app| configure(app, &routes));
    actix_web::rt::System::new().block_on(async {
        HttpServer::new(app)
            .workers(2)
            .disable_signals()
            .listen(listener)?
            .run()
            .await
    })
}
