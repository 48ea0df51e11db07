//! Secrets that a file, a shell or a form has put something around are refused wherever they are given.

use ParseErrorKind::{Blank, ByteOrderMark, Invisible, Newline, Quoted, WrongPrefix};
use keyward::error::{ParseError, ParseErrorKind};
use keyward::key::{Pepper, Peppers};
use keyward::request::KeyLocation;
use keyward_webhooks::sealing::SealingKey;
use keyward_webhooks::signature::WebhookSecret;
use keyward_webhooks::{WebhookReceiver, WebhookVerifier};

/// 31 characters of base64, so that with a newline they are a sealing key; and 32.
const ODD: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS";
const EVEN: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

type Take<'a> = &'a dyn Fn(&str) -> Result<(), ParseError>;

fn take_texts(text: &str) -> Vec<Result<(), ParseError>> {
    let standard = || WebhookVerifier::standard(EVEN).unwrap();
    let key = |location| {
        let receiver = WebhookReceiver::builder(standard());
        receiver.api_key(location, text).map(drop)
    };
    vec![
        WebhookSecret::parse(text).map(drop),
        WebhookVerifier::standard(text).map(drop),
        WebhookVerifier::stripe(text).map(drop),
        WebhookVerifier::github(text).map(drop),
        standard().or(text).map(drop),
        key(KeyLocation::x_api_key()),
        key(KeyLocation::bearer()),
        key(KeyLocation::raw_authorization()),
    ]
}

fn take_bytes(bytes: &[u8]) -> [Result<(), ParseError>; 2] {
    [
        Pepper::new("2026", bytes).map(drop),
        SealingKey::new("2026", bytes).map(drop),
    ]
}

/// How a secret arrives, and why it is refused.
fn arrivals(secret: &str) -> Vec<(String, ParseErrorKind)> {
    let around = [
        ("", "\n", Newline),
        ("", "\r\n", Newline),
        ("", "\r", Newline),
        ("", " \n", Newline),
        ("", "\n\n", Newline),
        (" ", "", Blank),
        ("", " ", Blank),
        ("\n", "", Blank),
        ("", "\t", Blank),
        ("\u{a0}", "", Blank),
        ("", "\u{3000}", Blank),
        ("\"", "\"", Quoted),
        ("'", "'", Quoted),
        ("`", "`", Quoted),
        ("“", "”", Quoted),
        ("„", "“", Quoted),
        ("\u{feff}", "", ByteOrderMark),
        ("\u{feff}", "\n", ByteOrderMark),
        ("", "\u{feff}", Invisible),
        ("\u{200b}", "", Invisible),
    ];
    let around = around
        .iter()
        .map(|(before, after, kind)| (format!("{before}{secret}{after}"), *kind));
    around.collect()
}

#[test]
fn every_secret_text_is_refused_with_what_was_put_around_it() {
    for (text, kind) in arrivals(EVEN) {
        for taken in take_texts(&text) {
            let error = taken.unwrap_err();
            assert_eq!(error.kind(), kind, "{text:?}");
            let told = error.to_string();
            assert!(!told.contains(&EVEN[..4]), "{told}");
        }
    }
    for inside in ["\n", "\t", "\0", "\u{a0}", "\u{200b}", "\u{ad}"] {
        let text = EVEN.replace('r', inside);
        for taken in take_texts(&text) {
            assert_eq!(taken.unwrap_err().kind(), Invisible, "{text:?}");
        }
    }
    let error = WebhookVerifier::github("0123456789abcdef\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid webhook secret: ends in a newline"
    );
}

#[test]
fn bytes_of_a_secret_are_refused_where_they_are_such_a_text() {
    for (text, kind) in arrivals(EVEN).into_iter().chain(arrivals(ODD)) {
        for taken in take_bytes(text.as_bytes()) {
            let error = taken.unwrap_err();
            assert_eq!(error.kind(), kind, "{text:?}");
            let told = error.to_string();
            assert!(
                !told.contains(&EVEN[..4]) && told.contains("verbatim"),
                "{told}"
            );
        }
    }
    let wide = EVEN.encode_utf16();
    let little: Vec<u8> = wide.clone().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = wide.flat_map(u16::to_be_bytes).collect();
    for text in [
        [&[0xFF, 0xFE][..], &little].concat(),
        [&[0xFE, 0xFF][..], &big].concat(),
    ] {
        for taken in take_bytes(&text) {
            assert_eq!(taken.unwrap_err().kind(), ByteOrderMark);
        }
    }
}

#[test]
fn bytes_that_are_no_text_may_begin_and_end_with_any() {
    let mut bytes = [0x9C; 32];
    for end in [b'\n', b'\r', b' ', b'"', 0xEF, 0xFF, 0] {
        bytes[0] = end;
        bytes[31] = end;
        assert_eq!(take_bytes(&bytes), [Ok(()), Ok(())], "{end}");
    }
    assert_eq!(take_bytes(EVEN.as_bytes()), [Ok(()), Ok(())]);
    let marked = [&[0xFF, 0xFE][..], &[0x9C; 30]].concat();
    assert_eq!(take_bytes(&marked), [Ok(()), Ok(())]);
}

#[test]
fn a_newline_that_was_always_there_may_stay_by_name() {
    let bytes = format!("{ODD}\n");
    let key = keyward::key::KeyFormat::new("x_").unwrap();
    let key = key
        .generate(keyward::environment::Environment::LIVE)
        .unwrap();
    let digest = |pepper| Peppers::new(pepper).digest(&key);
    let kept = digest(Pepper::verbatim("2026", bytes.as_bytes()).unwrap());
    assert_ne!(kept, digest(Pepper::new("2026", ODD.as_bytes()).unwrap()));
    assert!(SealingKey::verbatim("2026", bytes.as_bytes()).is_ok());
    assert!(Pepper::verbatim("2026", b"too short\n").is_err());
}

#[test]
fn a_secret_may_hold_quotation_marks_and_spaces_of_its_own() {
    for text in [
        "It's a Secret to Everybody",
        "\"0123456789abcdef",
        "0123456789abcdef'",
        "'0123456789abcdef\"",
        "schlüssel-0123456789",
    ] {
        assert!(WebhookVerifier::github(text).is_ok(), "{text}");
        assert!(WebhookVerifier::stripe(text).is_ok(), "{text}");
    }
}

#[test]
fn a_secret_of_something_else_is_told_as_what_it_is() {
    let standard = |text: &str| WebhookVerifier::standard(text).map(drop);
    let stripe = |text: &str| WebhookVerifier::stripe(text).map(drop);
    let github = |text: &str| WebhookVerifier::github(text).map(drop);
    let key = |text: &str| {
        let receiver = WebhookReceiver::builder(WebhookVerifier::standard(EVEN).unwrap());
        receiver
            .api_key(KeyLocation::header("X-Hook-Key").unwrap(), text)
            .map(drop)
    };
    let table: [(Take, &str, &str); 18] = [
        (&standard, "v1,whsec_", "remove `v1,`"),
        (&standard, "whsec_whsec_", "repeated"),
        (&standard, "whsk_", "Ed25519"),
        (&standard, "v1a,whpk_", "Ed25519"),
        (&standard, "whpk_", "Ed25519"),
        (&stripe, "v1,whsec_", "remove `v1,`"),
        (&stripe, "sk_live_", "API key"),
        (&stripe, "rk_test_", "API key"),
        (&stripe, "we_", "whsec_"),
        (&github, "whsec_", "WebhookVerifier::standard"),
        (&github, "v1,whsec_", "WebhookVerifier::standard"),
        (&github, "sha256=", "signature"),
        (&github, "ghp_", "access token"),
        (&github, "github_pat_", "access token"),
        (&key, "Bearer ", "alone"),
        (&key, "basic ", "alone"),
        (&key, "Authorization: Bearer ", "alone"),
        (&key, "x-hook-key:", "alone"),
    ];
    for (take, prefix, advice) in table {
        let error = take(&format!("{prefix}{EVEN}")).unwrap_err();
        assert_eq!(error.kind(), WrongPrefix, "{prefix}");
        let told = error.to_string();
        assert!(told.contains(advice), "{told}");
        assert!(!told.contains(&EVEN[..4]), "{told}");
    }
    assert!(stripe(&format!("whsec_{EVEN}")).is_ok());
}

#[test]
fn a_sealing_key_that_is_still_text_is_told_to_be_decoded() {
    let base64 = "Bwb7yY4D0m9cZr1S5Qn8kq5b2k0kG3l1qjXo3tq0mXo=";
    let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    for text in [base64, base64.trim_end_matches('='), hex] {
        let error = SealingKey::new("2026", text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("decode"), "{error}");
    }
    let error = SealingKey::new("2026", &[0x9C; 44]).unwrap_err();
    assert!(!error.to_string().contains("decode"), "{error}");
}
