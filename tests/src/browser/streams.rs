//! A page that reads events and opens a WebSocket, whose key is revoked meanwhile.

use crate::browser::driver::Browser;
use crate::streams::{SOON, serve_example};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_sees_the_end_of_its_events_soon_after_its_key_is_revoked() {
    for stack in ["axum", "actix"] {
        let Some(browser) = Browser::start().await else {
            return;
        };
        let (port, _) = serve_example(stack).await;
        browser.open(&format!("http://localhost:{port}/")).await;
        let seen = browser
            .run(
                "const at = id => document.getElementById(id); \
                 const until = async is => { while (!is()) await new Promise(done => setTimeout(done, 10)); }; \
                 await until(() => Number(at('count').value) >= 3); \
                 const since = performance.now(); at('revoke').click(); \
                 await until(() => at('state').value !== 'open'); \
                 const took = performance.now() - since; \
                 await until(() => at('state').value.includes('then')); \
                 return [took, at('state').value];",
                &[],
            )
            .await;
        assert_eq!(seen[1], "ended, then 401", "{stack}: {seen}");
        let took = seen[0].as_f64().unwrap();
        println!("{stack}: the page saw the end after {took:.0} ms");
        assert!(took < SOON.as_secs_f64() * 1000.0, "{stack}: {took} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_opens_a_web_socket_with_its_key_and_none_with_a_wrong_one() {
    for stack in ["axum", "actix"] {
        let Some(browser) = Browser::start().await else {
            return;
        };
        let (port, _) = serve_example(stack).await;
        browser.open(&format!("http://localhost:{port}/")).await;
        let seen = browser
            .run(
                "const at = id => document.getElementById(id); \
                 const shown = async (id, text) => { \
                     while (!at(id).value.startsWith(text)) await new Promise(done => setTimeout(done, 10)); \
                     return at(id).value; }; \
                 const seen = []; \
                 at('bearer').click(); seen.push(await shown('socket', 'open')); \
                 at('text').value = 'first'; at('send').click(); seen.push(await shown('heard', 'first')); \
                 at('wrong').click(); seen.push(await shown('socket', 'closed')); \
                 at('chat').click(); seen.push(await shown('socket', 'open')); \
                 at('text').value = 'second'; at('send').click(); seen.push(await shown('heard', 'second')); \
                 at('revoke').click(); seen.push(await shown('socket', 'closed')); \
                 at('bearer').click(); at('socket').value = ''; seen.push(await shown('socket', 'closed')); \
                 return seen;",
                &[],
            )
            .await;
        let expected = [
            "open, bearer",
            "first",
            "closed, 1006 ",
            "open, chat",
            "second",
            "closed, 1008 the API key has died",
            "closed, 1006 ",
        ];
        assert_eq!(seen, serde_json::json!(expected), "{stack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_page_cannot_open_a_web_socket_with_the_key() {
    for stack in ["axum", "actix"] {
        let Some(browser) = Browser::start().await else {
            return;
        };
        let (port, key) = serve_example(stack).await;
        browser
            .open(&format!("http://copycat.localhost:{port}/"))
            .await;
        let seen = browser
            .run(
                "return await new Promise(done => { \
                     const socket = new WebSocket(url, ['bearer', key]); \
                     socket.onopen = () => done('open'); socket.onclose = () => done('closed'); })",
                &[
                    ("url", &format!("ws://localhost:{port}/socket")),
                    ("key", &key),
                ],
            )
            .await;
        assert_eq!(seen, "closed", "{stack}");
    }
}
