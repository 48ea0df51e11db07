//! What pages can do and read, in one browser for each stack.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::testing::block_on;
use keyward::{AccountId, Actor};
use serde_json::{Value, json};

use crate::browser::driver::Browser;
use crate::browser::kinds;
use crate::browser::site::{Site, Stack};

struct World {
    site: Site,
    browser: Browser,
}

type Check = fn(Arc<World>) -> Pin<Box<dyn Future<Output = ()>>>;

/// Every promise with its sentence.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), (|world| Box::pin($name(world))) as Check)),*]
    };
}

#[tokio::test]
async fn a_browser_may_do_over_axum_what_a_key_allows() {
    all(Stack::Axum).await;
}

#[tokio::test]
async fn a_browser_may_do_over_actix_what_a_key_allows() {
    all(Stack::Actix).await;
}

async fn all(stack: Stack) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let site = Site::start(stack);
    let world = Arc::new(World { site, browser });
    let checks = checks![
        every_kind_of_request_gets_what_the_table_says,
        a_refused_page_reads_status_code_and_challenge,
        a_refused_page_reads_when_to_try_again,
        a_passed_page_reads_the_fields_that_are_named_and_no_others,
        subdomains_pass_and_the_apex_and_look_alikes_do_not,
        any_port_passes_where_the_pattern_says_so,
        put_delete_patch_and_named_fields_pass,
        a_field_that_is_not_named_stops_at_the_preflight,
        a_method_that_is_not_named_stops_at_the_preflight,
        cookies_and_their_like_stop_at_the_preflight,
        a_preflight_is_kept_as_long_as_the_gate_says,
        preflights_are_answered_alike_to_everyone,
        a_redirect_within_the_service_keeps_the_origin,
        both_places_for_publishable_keys_work_from_a_page,
        a_publishable_key_passes_only_where_route_and_place_are_meant_for_it,
        a_secret_key_in_a_page_is_refused_and_recorded,
        a_key_that_is_revoked_while_the_page_is_open_fails_at_the_next_click,
        a_client_of_grpc_web_reads_why_it_is_refused,
        another_cors_layer_outside_works_where_ours_is_off,
        without_any_cors_a_page_reads_nothing,
    ];
    let local = tokio::task::LocalSet::new();
    let mut failed = Vec::new();
    for (sentence, check) in checks {
        // On a task of its own, so that one that fails does not hide the others.
        let world = Arc::clone(&world);
        let done = local.run_until(async { tokio::task::spawn_local(check(world)).await });
        if done.await.is_err() {
            failed.push(sentence);
        }
    }
    assert!(failed.is_empty(), "{stack:?}: {failed:#?}");
}

impl World {
    /// A page on this host asks with a key: path and query, method, more fields.
    async fn ask(&self, host: &str, key: &str, target: &str, method: &str, more: Value) -> Value {
        self.browser.open(&self.site.url(host, "/page")).await;
        self.ask_again(key, target, method, more).await
    }

    /// The page that is open asks.
    async fn ask_again(&self, key: &str, target: &str, method: &str, more: Value) -> Value {
        let mut fields = json!({ "x-client-key": self.site.key(key) });
        fields
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap_or_default());
        self.ask_with(target, &json!({ "method": method, "headers": fields }))
            .await
    }

    /// The page that is open asks in its own way.
    async fn ask_with(&self, target: &str, init: &Value) -> Value {
        let url = self.site.url("api", target);
        let arguments = [("url", &*url), ("init", &init.to_string())];
        self.browser
            .run("return ask(url, JSON.parse(init))", &arguments)
            .await
    }

    /// The methods that came, with this tag.
    fn methods(&self, tag: &str) -> Vec<String> {
        self.site
            .seen(tag)
            .into_iter()
            .map(|seen| seen.method)
            .collect()
    }
}

fn assert_refused(answer: &Value, status: u16, code: &str) {
    assert_eq!(answer["status"], status, "{answer}");
    assert_eq!(answer["code"], code, "{answer}");
}

fn assert_blocked(answer: &Value) {
    assert!(answer["blocked"].as_str().is_some(), "{answer}");
}

async fn every_kind_of_request_gets_what_the_table_says(world: Arc<World>) {
    kinds::go_through(&world.site, &world.browser).await;
}

async fn a_refused_page_reads_status_code_and_challenge(world: Arc<World>) {
    let answer = world
        .ask("other", "listed", "/widget", "GET", Value::Null)
        .await;
    assert_refused(&answer, 403, "origin_not_allowed");
    let unknown = json!({ "headers": { "x-client-key": "vhk_test_unknown" } });
    let answer = world.ask_with("/widget", &unknown).await;
    assert_refused(&answer, 401, "invalid_api_key");
    let challenges = answer["fields"]["www-authenticate"].as_str().unwrap();
    assert!(
        challenges.contains(r#"ClientKey realm="api""#),
        "{challenges}"
    );
}

async fn a_refused_page_reads_when_to_try_again(world: Arc<World>) {
    let answer = world
        .ask("shop", "limited", "/widget", "GET", Value::Null)
        .await;
    assert_eq!(answer["status"], 200, "{answer}");
    let left = answer["fields"]["ratelimit"].as_str().unwrap();
    assert!(left.contains("r=0"), "{left}");
    let answer = world
        .ask_again("limited", "/widget", "GET", Value::Null)
        .await;
    assert_refused(&answer, 429, "rate_limited");
    let wait = answer["fields"]["retry-after"].as_str().unwrap();
    assert!((1..=60).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    assert!(answer["fields"]["ratelimit-policy"].is_string(), "{answer}");
    let answer = world
        .ask("shop", "listed", "/stale", "GET", Value::Null)
        .await;
    assert_refused(&answer, 503, "auth_unavailable");
    assert_eq!(answer["fields"]["retry-after"], "1");
}

async fn a_passed_page_reads_the_fields_that_are_named_and_no_others(world: Arc<World>) {
    let answer = world
        .ask("shop", "listed", "/widget", "GET", Value::Null)
        .await;
    assert_eq!(
        (&answer["status"], &answer["body"]),
        (&json!(200), &json!("in"))
    );
    assert_eq!(answer["fields"]["retry-after"], "7");
    assert_eq!(answer["fields"]["x-total-count"], "3");
    assert_eq!(answer["fields"]["x-internal"], Value::Null);
}

async fn subdomains_pass_and_the_apex_and_look_alikes_do_not(world: Arc<World>) {
    for (host, status) in [
        ("eu.shop", 200),
        ("a.b.shop", 200),
        ("shop", 403),
        ("evilshop", 403),
        ("shop.evil", 403),
    ] {
        let answer = world
            .ask(host, "subdomains", "/widget", "GET", Value::Null)
            .await;
        assert_eq!(answer["status"], status, "{host}: {answer}");
    }
}

async fn any_port_passes_where_the_pattern_says_so(world: Arc<World>) {
    for (key, port, host, status) in [
        ("ports", 0, "shop", 200),
        ("ports", 1, "shop", 200),
        ("listed", 1, "shop", 403),
        ("subdomains", 1, "eu.shop", 403),
    ] {
        let page = world.site.url_at(port, host, "/page");
        world.browser.open(&page).await;
        let answer = world.ask_again(key, "/widget", "GET", Value::Null).await;
        assert_eq!(answer["status"], status, "{key} {page}: {answer}");
    }
}

async fn put_delete_patch_and_named_fields_pass(world: Arc<World>) {
    for method in ["PUT", "DELETE", "PATCH", "POST"] {
        let target = format!("/widget?writes-{method}");
        let more = json!({ "x-session": "1", "content-type": "application/json" });
        let answer = world.ask("shop", "listed", &target, method, more).await;
        assert_eq!(answer["status"], 200, "{method}: {answer}");
        let came = world.methods(&format!("writes-{method}"));
        assert_eq!(came, ["OPTIONS", method]);
    }
}

async fn a_field_that_is_not_named_stops_at_the_preflight(world: Arc<World>) {
    let more = json!({ "x-other": "1" });
    let answer = world
        .ask("shop", "listed", "/widget?unnamed", "GET", more)
        .await;
    assert_blocked(&answer);
    assert_eq!(world.methods("unnamed"), ["OPTIONS"]);
}

async fn a_method_that_is_not_named_stops_at_the_preflight(world: Arc<World>) {
    let answer = world
        .ask(
            "shop",
            "listed",
            "/widget?propfind",
            "PROPFIND",
            Value::Null,
        )
        .await;
    assert_blocked(&answer);
    assert_eq!(world.methods("propfind"), ["OPTIONS"]);
}

async fn cookies_and_their_like_stop_at_the_preflight(world: Arc<World>) {
    world.browser.open(&world.site.url("shop", "/page")).await;
    let init = json!({
        "credentials": "include",
        "headers": { "x-client-key": world.site.key("listed") },
    });
    let answer = world.ask_with("/widget?cookies", &init).await;
    assert_blocked(&answer);
    assert_eq!(world.methods("cookies"), ["OPTIONS"]);
}

async fn a_preflight_is_kept_as_long_as_the_gate_says(world: Arc<World>) {
    world.browser.open(&world.site.url("shop", "/page")).await;
    for (target, came) in [
        ("/widget?kept", &["OPTIONS", "GET", "GET", "GET"][..]),
        (
            "/uncached?not-kept",
            &["OPTIONS", "GET", "OPTIONS", "GET", "OPTIONS", "GET"],
        ),
    ] {
        for _ in 0..3 {
            let answer = world.ask_again("listed", target, "GET", Value::Null).await;
            assert_eq!(answer["status"], 200, "{answer}");
        }
        assert_eq!(world.methods(target.split_once('?').unwrap().1), came);
    }
}

async fn preflights_are_answered_alike_to_everyone(world: Arc<World>) {
    for (host, key) in [("shop", "listed"), ("other", "listed"), ("other", "any")] {
        let tag = format!("alike-{host}-{key}");
        world
            .ask(host, key, &format!("/widget?{tag}"), "GET", Value::Null)
            .await;
        let preflight = world.site.seen(&tag).remove(0);
        assert_eq!((&*preflight.method, preflight.status), ("OPTIONS", 204));
        assert_eq!(preflight.denial, None);
    }
}

async fn a_redirect_within_the_service_keeps_the_origin(world: Arc<World>) {
    let answer = world
        .ask("shop", "listed", "/redirect?within", "GET", Value::Null)
        .await;
    assert_eq!(answer["status"], 200, "{answer}");
    let seen = world.site.seen("within");
    let last = seen.last().unwrap();
    assert_eq!(last.path, "/widget");
    assert_eq!(last.origin, Some(world.site.url("shop", "")));
}

async fn both_places_for_publishable_keys_work_from_a_page(world: Arc<World>) {
    world.browser.open(&world.site.url("shop", "/page")).await;
    let key = world.site.key("listed");
    for fields in [
        json!({ "x-client-key": key }),
        json!({ "authorization": format!("ClientKey {key}") }),
    ] {
        let answer = world
            .ask_with("/widget", &json!({ "headers": fields }))
            .await;
        assert_eq!(answer["status"], 200, "{answer}");
    }
}

async fn a_publishable_key_passes_only_where_route_and_place_are_meant_for_it(world: Arc<World>) {
    world.browser.open(&world.site.url("shop", "/page")).await;
    let fields = json!({ "x-api-key": world.site.key("listed") });
    let answer = world
        .ask_with("/widget", &json!({ "headers": fields }))
        .await;
    assert_refused(&answer, 403, "key_not_allowed");
    let answer = world
        .ask_again("listed", "/secret", "GET", Value::Null)
        .await;
    assert_refused(&answer, 403, "key_not_allowed");
}

async fn a_secret_key_in_a_page_is_refused_and_recorded(world: Arc<World>) {
    let (id, key) = &world.site.keys["secret"];
    world.browser.open(&world.site.url("shop", "/page")).await;
    for (tag, fields) in [
        ("leak-field", json!({ "x-client-key": key })),
        (
            "leak-scheme",
            json!({ "authorization": format!("ClientKey {key}") }),
        ),
    ] {
        for path in ["/widget", "/both"] {
            let init = json!({ "headers": fields });
            let answer = world.ask_with(&format!("{path}?{tag}"), &init).await;
            assert_refused(&answer, 403, "key_not_allowed");
            let last = world.site.seen(tag).pop().unwrap();
            // What the service's own layer outside sees, to sound an alarm or switch the key off.
            assert_eq!(last.denial, Some(("SecretExposed".to_owned(), Some(*id))));
        }
    }
    let operator = Actor::operator("tests");
    let account = AccountId::parse("shop").unwrap();
    let ever = SystemTime::UNIX_EPOCH..SystemTime::now() + Duration::from_secs(3600);
    let usage = world.site.admin.usage(&operator, &account, None, ever);
    let usage = block_on(usage).unwrap();
    let hours = usage.iter().filter(|hour| hour.key == *id);
    let refused: u64 = hours.map(|hour| hour.counts.refused).sum();
    assert_eq!(refused, 4);
}

async fn a_key_that_is_revoked_while_the_page_is_open_fails_at_the_next_click(world: Arc<World>) {
    let answer = world
        .ask("shop", "revoked", "/widget", "GET", Value::Null)
        .await;
    assert_eq!(answer["status"], 200);
    let operator = Actor::operator("tests");
    let id = world.site.keys["revoked"].0;
    block_on(world.site.admin.revoke(&operator, id, "")).unwrap();
    let answer = world
        .ask_again("revoked", "/widget", "GET", Value::Null)
        .await;
    assert_refused(&answer, 401, "invalid_api_key");
}

async fn a_client_of_grpc_web_reads_why_it_is_refused(world: Arc<World>) {
    let peers = std::env::var_os("WEBHOOK_PEERS");
    let peers = peers.expect("WEBHOOK_PEERS names no folder: run scripts/test, which fills it");
    let library = Path::new(&peers).join("node/node_modules/grpc-web/index.js");
    let library = std::fs::read_to_string(library).unwrap();
    world.browser.open(&world.site.url("other", "/page")).await;
    let call = "
        const module = { exports: {} };
        new Function('module', 'exports', library)(module, module.exports);
        const { GrpcWebClientBase, MethodDescriptor, MethodType } = module.exports;
        const path = '/demo.Verifier/Verify';
        const nothing = () => new Uint8Array();
        const verify = new MethodDescriptor(path, MethodType.UNARY, Object, Object, nothing, Object);
        const metadata = { deadline: String(Date.now() + 60000) };
        if (key) metadata['x-client-key'] = key;
        return new Promise(done => new GrpcWebClientBase({ format }).rpcCall(
            at + path, {}, metadata, verify,
            (error, reply) => done(error ? { code: error.code, says: error.message } : { reply })));
    ";
    let at = world.site.url("api", "");
    for (key, code, says) in [
        ("", 16, "Send an API key as"),
        ("vhk_test_unknown", 16, "The API key is not valid."),
        (
            world.site.key("listed"),
            7,
            "may not be used from this web page",
        ),
    ] {
        for format in ["text", "binary"] {
            let arguments = [
                ("library", &*library),
                ("at", &at),
                ("key", key),
                ("format", format),
            ];
            let answer = world.browser.run(call, &arguments).await;
            assert_eq!(answer["code"], code, "{answer}");
            let message = answer["says"].as_str().unwrap();
            assert!(message.contains(says), "{answer}");
        }
    }
}

async fn another_cors_layer_outside_works_where_ours_is_off(world: Arc<World>) {
    let answer = world
        .ask("shop", "listed", "/outer", "GET", Value::Null)
        .await;
    assert_eq!(answer["status"], 200, "{answer}");
    let answer = world
        .ask("other", "listed", "/outer", "GET", Value::Null)
        .await;
    assert_refused(&answer, 403, "origin_not_allowed");
}

async fn without_any_cors_a_page_reads_nothing(world: Arc<World>) {
    let answer = world
        .ask("shop", "listed", "/silent?silent", "GET", Value::Null)
        .await;
    assert_blocked(&answer);
    assert_eq!(world.methods("silent"), ["OPTIONS"]);
}
