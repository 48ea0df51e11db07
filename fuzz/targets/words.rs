//! All that is stored as text: what is parsed and written is parsed to the same.

#![no_main]

use std::fmt::{Debug, Display};

use keyward::RateLimit;
use keyward::credits::CreditOwner;
use keyward::error::ParseError;
use keyward::key::{Alphabet, DigestScheme, Hint, KeyDigest, PepperId};
use keyward::record::{AccountStatus, KeyStatus, Metadata};
use keyward::replica::Replica;
use keyward::scope::Scope;
use keyward::store::KeyCursor;
use keyward::{
    AccountId, Environment, Gate, KeyFormat, KeyId, KeyKind, KeyLocation, KeyScheme, RateLimits,
    ScopeCatalog, Scopes,
};
use keyward_webhooks::WebhookVerifier;
use keyward_webhooks::sealing::{SealedSecret, SealingKey, SealingKeys};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    same(text, RateLimit::parse, ToString::to_string);
    same(text, RateLimits::parse, ToString::to_string);
    same(text, Metadata::parse, |metadata| {
        metadata.as_str().to_owned()
    });
    same(text, KeyCursor::parse, ToString::to_string);
    same(text, CreditOwner::parse, ToString::to_string);
    same(text, Hint::parse, ToString::to_string);
    same(text, DigestScheme::parse, ToString::to_string);
    same(text, SealedSecret::parse, ToString::to_string);
    as_is(text, KeyId::parse);
    as_is(text, AccountId::parse);
    as_is(text, Environment::parse);
    as_is(text, WebhookId::parse);
    as_is(text, PepperId::parse);
    as_is(text, Scope::parse);
    same(text, KeyKind::parse, |value| value.as_str().to_owned());
    same(text, KeyStatus::parse, |value| value.as_str().to_owned());
    same(text, AccountStatus::parse, |value| {
        value.as_str().to_owned()
    });
    if let Ok(secret) = WebhookSecret::parse(text) {
        let again = WebhookSecret::parse(secret.expose_secret()).unwrap();
        assert_eq!(secret.expose_secret(), again.expose_secret());
        assert!(!format!("{secret:?}").contains(secret.expose_secret()));
        let keys = SealingKeys::new(SealingKey::new("1", &[7; 32]).unwrap());
        let sealed = keys.seal(&secret, text).unwrap();
        let sealed = SealedSecret::parse(&sealed.to_string()).unwrap();
        let opened = keys.open(&sealed, text).unwrap();
        assert_eq!(opened.expose_secret(), secret.expose_secret());
        assert!(keys.open(&sealed, &format!("{text}x")).is_err());
    }
    if let Ok(limit) = RateLimit::parse(text) {
        assert!(limit.covers(limit) && !limit.interval().is_zero());
    }
    if let Ok(sealed) = SealedSecret::parse(text) {
        let keys = SealingKeys::new(SealingKey::new("1", &[7; 32]).unwrap());
        assert!(keys.open(&sealed, "here").is_err(), "nobody sealed it");
    }
    let words = || text.split_ascii_whitespace();
    if let Ok(scopes) = Scopes::parse(words()) {
        let again = Scopes::parse(scopes.iter()).unwrap();
        assert_eq!(scopes, again);
        assert!(scopes.covers(&again) && scopes.covers(&Scopes::none()));
        for scope in words().filter_map(|word| Scope::parse(word).ok()) {
            assert!(scopes.allow(&scope), "{scope} of {scopes:?}");
        }
        if let Ok(catalog) = ScopeCatalog::new(words()) {
            let scope = Scope::parse(words().next().unwrap_or("a")).unwrap();
            assert_eq!(catalog.knows(&scope), words().next().is_some());
            assert!(catalog.covers(&scopes, &scopes));
        }
    }
    for scheme in [DigestScheme::Sha256, DigestScheme::Sha512] {
        let _ = KeyDigest::import(scheme, text);
    }
    let scheme = KeyScheme::new(KeyFormat::new("fuzz_").unwrap());
    let _ = Gate::builder_from_replica(&Replica::new(), &scheme).trusted_proxies(words());
    let _ = KeyLocation::header(text);
    let _ = KeyLocation::scheme(text);
    let _ = WebhookVerifier::standard(text);
    let _ = WebhookVerifier::stripe(text).and_then(|verifier| verifier.or(text));
    for alphabet in [Alphabet::Hex, Alphabet::Base64Url] {
        if let Ok(format) = KeyFormat::new(text) {
            let format = format.alphabet(alphabet).length(28).unwrap();
            let key = format.generate(Environment::TEST).unwrap();
            assert!(format.recognises(key.expose_secret().as_bytes()));
        }
    }
});

/// What is written is what was read, and reads the same.
fn as_is<T: PartialEq + Debug + Display>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) {
    same(text, &parse, ToString::to_string);
    if let Ok(value) = parse(text) {
        assert_eq!(value.to_string(), text);
    }
}

fn same<T: PartialEq + Debug>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, ParseError>,
    write: impl Fn(&T) -> String,
) {
    if let Ok(value) = parse(text) {
        let written = write(&value);
        let again = parse(&written).expect("what is written can be read");
        assert_eq!(value, again, "{written}");
        assert_eq!(write(&again), written);
    }
}
