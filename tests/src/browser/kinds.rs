//! What each kind of request sends as `Origin`, and what the service answers: the table of
//! `docs/browser.md`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::browser::driver::Browser;
use crate::browser::site::{PAGE, Site};

/// A row of the table.
struct Kind {
    about: &'static str,
    from: From,
    method: &'static str,
    /// Which `Origin` comes to the service.
    origin: Origin,
    /// What is answered to a key with a list, with a list or no origin, and with none.
    answers: [&'static str; 3],
}

/// Who asks.
enum From {
    /// A page on this host and port, by this code. It has `url`, `init` and `key`.
    Page(usize, &'static str, &'static str),
    /// A page from the disk.
    File,
    /// Anything that is no browser, with these lines of its own.
    Program(&'static str),
}

/// What the table calls it; `Page` is the one of the page that asks.
#[derive(Clone, Copy)]
enum Origin {
    None,
    Null,
    Page,
    Forged,
}

const ASK: &str = "return ask(url, init)";
const BLIND: &str =
    "await fetch(url, { mode: 'no-cors', headers: { 'x-client-key': key } }); return {}";
const IMAGE: &str = "const image = new Image(); \
    await new Promise(done => { image.onerror = done; image.onload = done; image.src = url }); return {}";
const FORM: &str = "const frame = document.createElement('iframe'); frame.name = 'target'; \
    const form = document.createElement('form'); \
    Object.assign(form, { method: 'POST', action: url, target: 'target' }); \
    document.body.append(frame, form); \
    await new Promise(done => { frame.onload = done; form.submit() }); return {}";
const SANDBOXED: &str =
    "return askInFrame(html => ({ sandbox: 'allow-scripts', srcdoc: html }), url, init)";
const DATA: &str =
    "return askInFrame(html => ({ src: 'data:text/html,' + encodeURIComponent(html) }), url, init)";
const FRAMED: &str = "return askInFrame(html => ({ srcdoc: html }), url, init)";
const WORKER: &str = "return askInWorker(url, init)";
const REDIRECTED: &str = "return ask(url.replace('/widget', '/redirect'), init)";
const UNREFERRED: &str = "return ask(url, { ...init, referrerPolicy: 'no-referrer' })";

const NOT_ALLOWED: [&str; 3] = [
    "403 `origin_not_allowed`",
    "403 `origin_not_allowed`",
    "200",
];
const REQUIRED: [&str; 3] = ["403 `origin_required`", "200", "200"];
const PASSED: [&str; 3] = ["200"; 3];
const NO_KEY: [&str; 3] = ["401 `missing_api_key`"; 3];

#[rustfmt::skip]
fn kinds() -> Vec<Kind> {
    use From::{File, Page, Program};
    let table = [
        ("`fetch` from a page on the list", Page(0, "shop", ASK), "GET", Origin::Page, PASSED),
        ("the same with `PUT`", Page(0, "shop", ASK), "PUT", Origin::Page, PASSED),
        ("the same with `referrerPolicy: \"no-referrer\"`", Page(0, "shop", UNREFERRED), "GET", Origin::Page, PASSED),
        ("`fetch` from another page", Page(0, "other", ASK), "GET", Origin::Page, NOT_ALLOWED),
        ("`fetch` from a listed host on another port", Page(1, "shop", ASK), "GET", Origin::Page, NOT_ALLOWED),
        ("a frame of a listed page (`srcdoc`)", Page(0, "shop", FRAMED), "GET", Origin::Page, PASSED),
        ("a worker of a listed page", Page(0, "shop", WORKER), "GET", Origin::Page, PASSED),
        ("a sandboxed frame of a listed page", Page(0, "shop", SANDBOXED), "GET", Origin::Null, NOT_ALLOWED),
        ("a `data:` frame of a listed page", Page(0, "shop", DATA), "GET", Origin::Null, NOT_ALLOWED),
        ("a page from the disk (`file://`)", File, "GET", Origin::Null, NOT_ALLOWED),
        ("`fetch` from a listed page, redirected to another origin", Page(0, "shop", REDIRECTED), "GET", Origin::Null, NOT_ALLOWED),
        ("the service's own page, `GET`", Page(0, "api", ASK), "GET", Origin::None, REQUIRED),
        ("the service's own page, `HEAD`", Page(0, "api", ASK), "HEAD", Origin::None, REQUIRED),
        ("the service's own page, `POST`", Page(0, "api", ASK), "POST", Origin::Page, PASSED),
        ("`fetch` with `mode: \"no-cors\"`, which drops the key", Page(0, "shop", BLIND), "GET", Origin::None, NO_KEY),
        ("`<img>`, which cannot carry a key", Page(0, "shop", IMAGE), "GET", Origin::None, NO_KEY),
        ("`<form method=\"post\">`, which cannot carry a key", Page(0, "shop", FORM), "POST", Origin::Page, NO_KEY),
        ("a server, an app on a phone, `curl`", Program(""), "GET", Origin::None, REQUIRED),
        ("a program that writes a listed `Origin` itself", Program("origin: {shop}\r\n"), "GET", Origin::Forged, PASSED),
    ];
    table.map(|(about, from, method, origin, answers)| Kind { about, from, method, origin, answers }).into()
}

/// Asks, and gives what came to the service and, where a page may read it, the answer.
async fn ask(kind: &Kind, key: &str, tag: &str, site: &Site, browser: &Browser) -> Option<Value> {
    let url = site.url("api", &format!("/widget?{tag}"));
    let (method, text) = (kind.method, site.key(key));
    let init =
        format!("const init = {{ method: '{method}', headers: {{ 'x-client-key': key }} }}; ");
    let arguments = [("url", &*url), ("key", text)];
    match kind.from {
        From::Page(port, host, code) => {
            browser.open(&site.url_at(port, host, "/page")).await;
            Some(browser.run(&(init + code), &arguments).await)
        }
        From::File => {
            let file = tempfile::Builder::new().suffix(".html").tempfile().unwrap();
            fs::write(&file, PAGE).unwrap();
            browser
                .open(&format!("file://{}", file.path().display()))
                .await;
            Some(browser.run(&(init + ASK), &arguments).await)
        }
        From::Program(lines) => {
            let lines = lines.replace("{shop}", &site.url("shop", ""));
            let mut stream = TcpStream::connect(("127.0.0.1", site.ports[0])).unwrap();
            write!(
                stream,
                "{method} /widget?{tag} HTTP/1.1\r\nhost: api.localhost:{}\r\n\
                 connection: close\r\nx-client-key: {text}\r\n{lines}\r\n",
                site.ports[0]
            )
            .unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
            None
        }
    }
}

/// Goes through the table in a browser.
pub async fn go_through(site: &Site, browser: &Browser) {
    for (row, kind) in kinds().iter().enumerate() {
        for (column, key) in ["listed", "or none", "any"].into_iter().enumerate() {
            let about = format!("{}, {key}", kind.about);
            let tag = format!("table-{row}-{column}");
            let page = ask(kind, key, &tag, site, browser).await;
            let seen = site.seen(&tag);
            let arrived = seen.iter().rfind(|seen| seen.method == kind.method);
            let arrived = arrived.unwrap_or_else(|| panic!("{about}: {seen:?} {page:?}"));

            let own = match kind.from {
                From::Page(port, host, _) => site.url_at(port, host, ""),
                _ => site.url("shop", ""),
            };
            let origin = match kind.origin {
                Origin::None => None,
                Origin::Null => Some("null"),
                Origin::Page | Origin::Forged => Some(&*own),
            };
            assert_eq!(arrived.origin.as_deref(), origin, "{about}");
            let (status, code) = expected(kind.answers[column]);
            assert_eq!(arrived.status.to_string(), status, "{about}");
            // Where the page may read an answer at all, it reads the same.
            if let Some(page) = page.filter(|page| *page != serde_json::json!({})) {
                assert_eq!(page["status"].to_string(), status, "{about}: {page}");
                if kind.method != "HEAD" {
                    assert_eq!(page["code"].as_str(), code, "{about}: {page}");
                }
            }
        }
    }
}

/// Status and code of a cell.
fn expected(cell: &str) -> (&str, Option<&str>) {
    match cell.split_once(' ') {
        Some((status, code)) => (status, Some(code.trim_matches('`'))),
        None => (cell, None),
    }
}

#[test]
fn the_table_of_the_docs_is_the_one_that_is_tested() {
    let row = |kind: &Kind| {
        let [one, two, three] = kind.answers;
        let origin = match kind.origin {
            Origin::None => "none",
            Origin::Null => "`null`",
            Origin::Page => "the page's",
            Origin::Forged => "the one it wrote",
        };
        format!("| {} | {origin} | {one} | {two} | {three} |\n", kind.about)
    };
    let table: String = kinds().iter().map(row).collect();
    let docs = include_str!("../../../docs/browser.md");
    assert!(docs.contains(&table), "docs/browser.md lacks:\n{table}");
}
