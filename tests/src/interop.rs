//! The libraries of Standard Webhooks and of Svix accept what we sign, and we what they sign.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use keyward::request::RequestHead;
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookSigner, WebhookVerifier};

/// Reads `sign <secret> <id> <time>` or `verify <secret> <id> <time> <signature>` from its arguments
/// and the body from its input; writes the signature, or `good` or `bad`.
const PYTHON: &str = r#"
import sys
from datetime import datetime, timezone
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

what, secret, id, at, *signature = sys.argv[1:]
body = sys.stdin.buffer.read().decode()
webhook = Webhook(secret)
if what == "sign":
    print(webhook.sign(id, datetime.fromtimestamp(int(at), timezone.utc), body), end="")
else:
    fields = {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature[0]}
    try:
        webhook.verify(body, fields)
        print("good", end="")
    except WebhookVerificationError:
        print("bad", end="")
"#;

/// The same, after the library and how its names of fields begin.
const NODE: &str = r#"
const [library, family, what, secret, id, at, signature] = process.argv.slice(1);
const { Webhook, WebhookVerificationError } = require(library);

const body = require("fs").readFileSync(0).toString();
const webhook = new Webhook(secret);
if (what === "sign") {
    process.stdout.write(webhook.sign(id, new Date(Number(at) * 1000), body));
} else {
    const fields = {
        [`${family}-id`]: id,
        [`${family}-timestamp`]: at,
        [`${family}-signature`]: signature,
    };
    try {
        webhook.verify(body, fields);
        process.stdout.write("good");
    } catch (error) {
        if (!(error instanceof WebhookVerificationError)) throw error;
        process.stdout.write("bad");
    }
}
"#;

#[derive(Clone, Copy, Debug)]
enum Peer {
    Python,
    Node,
    Svix,
    Rust,
}

const PEERS: [Peer; 4] = [Peer::Python, Peer::Node, Peer::Svix, Peer::Rust];

impl Peer {
    /// The fields in which it sends.
    fn fields(self) -> [&'static str; 3] {
        match self {
            Self::Svix => ["svix-id", "svix-timestamp", "svix-signature"],
            _ => ["webhook-id", "webhook-timestamp", "webhook-signature"],
        }
    }

    fn sign(self, secret: &str, id: &str, at: u64, body: &str) -> String {
        if let Self::Rust = self {
            let peer = standardwebhooks::Webhook::new(secret).unwrap();
            return peer
                .sign(id, at.try_into().unwrap(), body.as_bytes())
                .unwrap();
        }
        self.run(&["sign", secret, id, &at.to_string()], body)
    }

    fn accepts(self, secret: &str, fields: &[(&'static str, String); 3], body: &str) -> bool {
        if let Self::Rust = self {
            let field = |(name, value): &(&'static str, String)| {
                let value = HeaderValue::from_str(value).unwrap();
                (HeaderName::from_static(name), value)
            };
            let fields: HeaderMap = fields.iter().map(field).collect();
            let peer = standardwebhooks::Webhook::new(secret).unwrap();
            return peer.verify(body.as_bytes(), &fields).is_ok();
        }
        let [(_, id), (_, at), (_, signature)] = fields;
        match &*self.run(&["verify", secret, id, at, signature], body) {
            "good" => true,
            "bad" => false,
            other => panic!("{self:?}: {other}"),
        }
    }

    fn run(self, arguments: &[&str], body: &str) -> String {
        let peers = peers();
        let mut command = match self {
            Self::Python => Command::new(peers.join("python/bin/python")),
            _ => Command::new("node"),
        };
        match self {
            Self::Python => command.args(["-c", PYTHON]),
            _ => command
                .env("NODE_PATH", peers.join("node/node_modules"))
                .args(["-e", NODE, "--"])
                .args(match self {
                    Self::Svix => ["svix", "svix"],
                    _ => ["standardwebhooks", "webhook"],
                }),
        };
        let command = command.args(arguments).stdin(Stdio::piped());
        let child = command.stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{self:?}: {error}: run scripts/test"));
        child
            .stdin
            .take()
            .unwrap()
            .write_all(body.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{self:?} failed: run scripts/test");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Returns the folder with the libraries of other languages.
pub(crate) fn peers() -> PathBuf {
    let peers = std::env::var_os("WEBHOOK_PEERS").map(PathBuf::from);
    peers.expect("WEBHOOK_PEERS names no folder: run scripts/test, which fills it")
}

struct Head([(&'static str, String); 3]);

impl RequestHead for Head {
    fn peer(&self) -> Option<std::net::IpAddr> {
        None
    }
    fn method(&self) -> &'static str {
        "POST"
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.iter().filter(move |(name, _)| *name == field);
        lines.map(|(_, value)| value.as_bytes())
    }
}

/// Secrets of every length class, with and without padding, and bodies in several scripts.
fn cases() -> Vec<(WebhookSecret, &'static str)> {
    let secret = |length: u8| {
        let bytes: Vec<_> = (0..length).map(|byte| byte.wrapping_mul(37)).collect();
        WebhookSecret::parse(&BASE64_STANDARD.encode(bytes)).unwrap()
    };
    vec![
        (secret(24), r#"{"test": 2432232314}"#),
        (secret(25), "{}"),
        (
            secret(32),
            r#"{"name":"Zoë 🦀","dots":"a.b.c","lines":"\n"}"#,
        ),
        (secret(64), "\t[1, 2.50, null]\r\n"),
        (WebhookSecret::random().unwrap(), "\"\u{7f}é\""),
    ]
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

#[test]
fn they_accept_what_we_sign() {
    let id = WebhookId::random().unwrap();
    for (secret, body) in cases() {
        let old = WebhookSecret::random().unwrap();
        let fields =
            WebhookSigner::new(&secret)
                .and(&old)
                .headers(&id, SystemTime::now(), body.as_bytes());
        let other = WebhookSecret::random().unwrap();
        for peer in PEERS {
            let accepts = |secret: &WebhookSecret, body: &str| {
                peer.accepts(secret.expose_secret(), &fields, body)
            };
            assert!(accepts(&secret, body), "{peer:?}, new secret: {body}");
            assert!(accepts(&old, body), "{peer:?}, old secret: {body}");
            assert!(!accepts(&other, body), "{peer:?}, no secret: {body}");
            assert!(!accepts(&secret, &format!("{body} ")), "{peer:?}: {body}");
        }
    }
}

#[test]
fn we_accept_what_they_sign() {
    let id = WebhookId::random().unwrap();
    for (secret, body) in cases() {
        let verifier = WebhookVerifier::standard(secret.expose_secret()).unwrap();
        for peer in PEERS {
            let at = now();
            let signature = peer.sign(secret.expose_secret(), id.as_str(), at, body);
            let [id_field, at_field, signature_field] = peer.fields();
            let head = Head([
                (id_field, id.to_string()),
                (at_field, at.to_string()),
                (signature_field, signature),
            ]);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            let signed = verifier.verify(&head, body.as_bytes(), time);
            assert_eq!(signed.unwrap().id(), Some(&id), "{peer:?}: {body}");
            let changed = verifier.verify(&head, format!("{body} ").as_bytes(), time);
            assert!(changed.is_err(), "{peer:?}: {body}");
        }
    }
}
