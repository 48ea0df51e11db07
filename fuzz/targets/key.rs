//! Forms of keys, beside the regular expression that they give out.

#![no_main]

use std::sync::LazyLock;

use keyward::testing::block_on;
use keyward::{Actor, KeyAdmin, KeyFormat, MemoryStore};
use keyward::admin::Leak;
use keyward::key::{Alphabet, ForeignFormat};
use keyward_fuzz::{LIVE, format, scheme};
use libfuzzer_sys::fuzz_target;
use regex::bytes::Regex;

struct World {
    formats: Vec<(KeyFormat, Regex, bool)>,
    foreign: Vec<ForeignFormat>,
    admin: KeyAdmin,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let new = |prefix| KeyFormat::new(prefix).unwrap();
    let bare = new("cs_").alphabet(Alphabet::Base64Url).length(64).unwrap();
    let formats = [
        (format(), true),
        (new("sk_live_"), true),
        (bare.clone().without_checksum(), false),
        (bare, true),
        (
            new("hx-{env}_x_")
                .alphabet(Alphabet::Hex)
                .without_checksum(),
            false,
        ),
        (new("{env}_").without_checksum(), false),
    ];
    let foreign = |prefix| ForeignFormat::new(prefix).unwrap();
    World {
        formats: formats
            .map(|(format, checksum)| {
                let regex = Regex::new(&format!("^{}$", format.regex())).unwrap();
                (format, regex, checksum)
            })
            .into(),
        foreign: vec![
            foreign(""),
            foreign("old-").lengths(0..=64),
            foreign("").secret_after('|'),
            foreign("x").secret_after('é').lengths(0..=usize::MAX),
        ],
        admin: KeyAdmin::new(&MemoryStore::new(), &scheme()),
    }
});

fuzz_target!(|text: &[u8]| {
    for (format, regex, checksum) in &WORLD.formats {
        let recognised = format.recognises(text);
        if recognised || !checksum {
            // `$` of a regular expression of bytes is the end, without a last line feed.
            assert_eq!(recognised, regex.is_match(text), "{format:?}");
        }
    }
    for format in &WORLD.foreign {
        let _ = format.recognises(text);
    }
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    if let Ok(format) = KeyFormat::new(text) {
        let key = format.generate(keyward::Environment::LIVE).unwrap();
        assert!(format.recognises(key.expose_secret().as_bytes()));
    }
    if let Ok(format) = ForeignFormat::new(text) {
        let _ = format.recognises(text.as_bytes());
    }
    let operator = Actor::operator("fuzz");
    let leaks = block_on(WORLD.admin.leaks(&operator, text)).unwrap();
    let known = text.match_indices(LIVE).map(|(at, _)| at);
    for at in known {
        let told = |leak: &Leak| leak.positions.len() == 10 || leak.positions.contains(&at);
        assert!(leaks.iter().any(told), "missed at {at}");
    }
    for at in leaks.iter().flat_map(|leak| &leak.positions) {
        assert!(text[*at..].starts_with("fuzz_"));
    }
});
