//! Deliveries: only what was signed is handed on, in each of the three forms.
//!
//! A request as text, an empty line, and the body.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use keyward::testing::block_on;
use keyward::KeyLocation;
use keyward::clock::ManualClock;
use keyward_webhooks::WebhookReceiver;
use keyward_webhooks::receive::WebhookVerdict;
use keyward_webhooks::WebhookVerifier;
use keyward_fuzz::{Head, NOW};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What was signed with the secret, at `NOW` and, in the first form, as `msg_1`.
const BODY: &[u8] = br#"{"type":"key.revoked"}"#;

static RECEIVERS: LazyLock<[(WebhookReceiver, WebhookVerifier); 4]> = LazyLock::new(|| {
    let receiver = |verifier: &WebhookVerifier| {
        let clock = Arc::new(ManualClock::at(NOW));
        let receiver = WebhookReceiver::builder(verifier.clone()).clock(clock);
        receiver.insecure_without_memory().body_limit(256)
    };
    let open = |verifier| (receiver(&verifier).build().unwrap(), verifier);
    let standard = WebhookVerifier::standard(SECRET).unwrap();
    let keyed = receiver(&standard).api_key(KeyLocation::x_api_key(), "hook_key_of_the_sender");
    [
        (keyed.unwrap().build().unwrap(), standard.clone()),
        open(standard),
        open(WebhookVerifier::stripe(SECRET).unwrap()),
        open(WebhookVerifier::github(SECRET).unwrap()),
    ]
});

fuzz_target!(|text: &[u8]| {
    let end = text.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = text.split_at(end.unwrap_or(text.len()));
    let (head, body) = (Head::read(head), body.get(2..).unwrap_or_default());
    for (at, (receiver, verifier)) in RECEIVERS.iter().enumerate() {
        let verified = verifier.verify(&head, body, SystemTime::UNIX_EPOCH + NOW);
        let delivered = match receiver.check(&head) {
            Err(answer) => {
                assert!(answer.reply.status() >= 400);
                false
            }
            Ok(awaited) => {
                drop((awaited.too_slow(), awaited.unreadable()));
                match block_on(awaited.verify(body.to_vec())) {
                    WebhookVerdict::Deliver(delivery) => {
                        assert_eq!(delivery.event.body(), BODY);
                        assert!(delivery.event.json::<Vec<u8>>().is_err());
                        true
                    }
                    WebhookVerdict::Answer(answer) => {
                        assert!(answer.error.is_some(), "nothing is remembered");
                        false
                    }
                }
            }
        };
        if let Ok(signed) = &verified {
            assert_eq!(body, BODY, "nothing else was signed");
            if at < 2 {
                assert_eq!(signed.id().unwrap().as_str(), "msg_1");
            }
            if at < 3 {
                assert_eq!(signed.timestamp(), Some(SystemTime::UNIX_EPOCH + NOW));
            }
        }
        assert!(verified.is_ok() || !delivered);
        let key = |line: &[u8]| line.trim_ascii() == b"hook_key_of_the_sender";
        assert!(at > 0 || !delivered || head.lines(&["x-api-key"]).all(key));
    }
});
