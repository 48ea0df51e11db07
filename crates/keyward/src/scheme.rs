//! The formats, peppers and scopes that a service's keys have in common.

use std::iter;
use std::ops::Range;

use crate::error::{ParseError, ParseErrorKind};
use crate::key::{KeyFormat, KeyKind, Peppers};
use crate::scope::ScopeCatalog;

/// The formats, peppers and scope catalog of a service's keys.
///
/// [`Gate`](crate::gate::Gate) and [`KeyAdmin`](crate::admin::KeyAdmin) both take it, so that the keys which
/// the admin creates are the keys which the gate accepts.
///
/// By default, both kinds of keys have the same format, keys are hashed with SHA-256 without a pepper, and
/// every scope is allowed.
///
/// ```
/// # keyward::testing::block_on(async {
/// # use keyward::{AccountId, Actor, Environment, NewKey};
/// use keyward::{Gate, KeyAdmin, KeyFormat, KeyKind, KeyScheme, MemoryStore, ScopeCatalog};
///
/// let scheme = KeyScheme::new(KeyFormat::new("sk_{env}_")?)
///     .format(KeyKind::Publishable, KeyFormat::new("pk_{env}_")?)?
///     .catalog(ScopeCatalog::new(["kyc"])?);
///
/// let store = MemoryStore::new();
/// let gate = Gate::new(&store, &scheme)?;
/// let admin = KeyAdmin::new(&store, &scheme);
/// # drop(gate);
/// # let operator = Actor::operator("docs");
///
/// let new = NewKey::new(AccountId::parse("acme")?, Environment::LIVE, "widget");
/// let created = admin.bootstrap(&operator, new.kind(KeyKind::Publishable)).await?;
/// assert!(created.key.is_some_and(|key| key.expose_secret().starts_with("pk_live_")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyScheme {
    secret: KeyFormat,
    publishable: KeyFormat,
    /// Every accepted format, in the order in which they are tried: those with a checksum first.
    accepted: Vec<KeyFormat>,
    pub(crate) peppers: Peppers,
    pub(crate) catalog: Option<ScopeCatalog>,
}

impl KeyScheme {
    /// Creates a scheme in which every key has this format.
    pub fn new(format: KeyFormat) -> Self {
        Self {
            secret: format.clone(),
            publishable: format.clone(),
            accepted: vec![format],
            peppers: Peppers::none(),
            catalog: None,
        }
    }

    /// Sets the format of new keys of one kind.
    ///
    /// Keys in the formats that were set before remain valid.
    ///
    /// # Errors
    /// Returns an error if the format could be confused with another one of the scheme: some text would have
    /// the form of both, and no checksum decides which one it is.
    ///
    /// ```
    /// use keyward::{KeyFormat, KeyKind, KeyScheme};
    /// use keyward::error::ParseErrorKind;
    ///
    /// let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
    /// let error = scheme.format(KeyKind::Publishable, KeyFormat::new("acme_live_")?).unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::Ambiguous);
    /// let text = "invalid key format: its keys could be confused with those of another format";
    /// assert_eq!(error.to_string(), text);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn format(mut self, kind: KeyKind, format: KeyFormat) -> Result<Self, ParseError> {
        self.accept(format.clone())?;
        match kind {
            KeyKind::Secret => self.secret = format,
            KeyKind::Publishable => self.publishable = format,
        }
        Ok(self)
    }

    /// Also accepts keys in this format, which new keys no longer have.
    ///
    /// For keys that another system created, see
    /// [`GateBuilder::foreign_format`](crate::gate::GateBuilder::foreign_format).
    ///
    /// # Errors
    /// Returns an error in the same cases as [`format`](Self::format).
    ///
    /// ```
    /// use keyward::{KeyFormat, KeyScheme};
    ///
    /// let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
    /// assert!(scheme.retired_format(KeyFormat::new("ak_")?.without_checksum()).is_ok());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn retired_format(mut self, format: KeyFormat) -> Result<Self, ParseError> {
        self.accept(format)?;
        Ok(self)
    }

    /// Sets the peppers with which keys are hashed. The default is SHA-256 without a pepper.
    ///
    /// ```
    /// use keyward::{KeyFormat, KeyScheme, Peppers};
    /// use keyward::key::Pepper;
    ///
    /// let pepper = Pepper::new("2026", b"sixteen bytes or more")?;
    /// let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?).peppers(Peppers::new(pepper));
    /// assert!(!format!("{scheme:?}").contains("sixteen bytes"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peppers(mut self, peppers: Peppers) -> Self {
        self.peppers = peppers;
        self
    }

    /// Sets the scopes that the service has, and what they imply. By default, every scope is allowed.
    ///
    /// New keys get only scopes that the catalog permits, including the scopes by which keys manage others:
    /// see [`ScopeCatalog::new`]. A layer panics when it is created if it requires a scope that is not in the
    /// catalog: see [`Gate::assert_meetable`](crate::gate::Gate::assert_meetable).
    pub fn catalog(mut self, catalog: ScopeCatalog) -> Self {
        self.catalog = Some(catalog);
        self
    }

    /// Returns the format of new keys of this kind.
    pub(crate) fn format_of(&self, kind: KeyKind) -> &KeyFormat {
        match kind {
            KeyKind::Secret => &self.secret,
            KeyKind::Publishable => &self.publishable,
        }
    }

    /// Returns every accepted format, in the order in which they are tried.
    pub(crate) fn accepted(&self) -> &[KeyFormat] {
        &self.accepted
    }

    /// Returns whether a text contains a key.
    pub(crate) fn is_key_in(&self, text: &str) -> bool {
        self.find_from(text, 0..text.len()).next().is_some()
    }

    /// Finds the keys that begin in this part of a text: where each begins, the key, and its prefix.
    pub(crate) fn find_from<'a>(
        &'a self,
        text: &'a str,
        mut part: Range<usize>,
    ) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
        iter::from_fn(move || {
            part.find_map(|at| {
                let formats = self.accepted.iter();
                let found =
                    formats.filter_map(|own| Some((own.has_checksum(), own.find_at(text, at)?)));
                // Without a checksum, a longer key may begin like one of a shorter format.
                let (_, (key, prefix)) =
                    found.max_by_key(|(is_sure, (key, _))| (*is_sure, key.len()))?;
                Some((at, key, prefix))
            })
        })
    }

    fn accept(&mut self, format: KeyFormat) -> Result<(), ParseError> {
        if self.accepted.contains(&format) {
            return Ok(());
        }
        if self.accepted.iter().any(|own| own.is_like(&format)) {
            return Err(ParseError::new("key format", ParseErrorKind::Ambiguous));
        }
        let place = if format.has_checksum() {
            self.accepted.partition_point(KeyFormat::has_checksum)
        } else {
            self.accepted.len()
        };
        self.accepted.insert(place, format);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::key::{Alphabet, Hint};
    use crate::scheme::KeyScheme;

    fn format(prefix: &str) -> KeyFormat {
        KeyFormat::new(prefix).unwrap()
    }

    /// The format that a gate takes a new key of this format for.
    fn taken_for(scheme: &KeyScheme, made: &KeyFormat) -> KeyFormat {
        let key = made.generate(Environment::LIVE).unwrap();
        let text = key.expose_secret().as_bytes();
        let mut accepted = scheme.accepted().iter();
        accepted.find(|own| own.recognises(text)).unwrap().clone()
    }

    #[test]
    fn each_kind_has_its_format_and_earlier_ones_stay_accepted() {
        let (sk, pk, old) = (format("sk_{env}_"), format("pk_{env}_"), format("acme_"));
        let scheme = KeyScheme::new(old.clone());
        assert_eq!(scheme.format_of(KeyKind::Publishable), &old);
        let scheme = scheme.format(KeyKind::Secret, sk.clone()).unwrap();
        assert_eq!(scheme.format_of(KeyKind::Publishable), &old);
        let scheme = scheme.format(KeyKind::Publishable, pk.clone()).unwrap();
        assert_eq!(scheme.format_of(KeyKind::Secret), &sk);
        assert_eq!(scheme.format_of(KeyKind::Publishable), &pk);
        let scheme = scheme.retired_format(old.clone()).unwrap();
        for made in [sk, pk, old] {
            assert_eq!(taken_for(&scheme, &made), made);
        }
    }

    #[test]
    fn formats_that_share_a_text_are_refused_unless_a_checksum_tells_them_apart() {
        let bare = |prefix| format(prefix).without_checksum();
        let hex = |prefix| format(prefix).alphabet(Alphabet::Hex);
        let long = |prefix, length| bare(prefix).length(length).unwrap();
        for (one, other, distinct) in [
            (format("sk_{env}_"), format("sk_live_"), false),
            (format("sk_{env}_"), format("{env}_"), true),
            (format("sk_{env}_"), format("sk_LIVE_"), true),
            (bare("sk_"), long("sk_a", 31), false),
            (bare("sk_"), long("sk_a", 32), true),
            (bare("sk_"), bare("sk_").alphabet(Alphabet::Hex), false),
            (long("sk_", 38), format("sk_"), true),
            (format("sk_"), hex("sk_").length(30).unwrap(), true),
        ] {
            for [first, second] in [[&one, &other], [&other, &one]] {
                let scheme = KeyScheme::new(first.clone()).retired_format(second.clone());
                assert_eq!(scheme.is_ok(), distinct, "{first:?} and {second:?}");
                let Ok(scheme) = scheme else { continue };
                assert_eq!(taken_for(&scheme, first), *first);
                assert_eq!(taken_for(&scheme, second), *second);
            }
        }
    }

    #[test]
    fn finds_keys_in_a_text_by_form_and_checksum() {
        let (secret, publishable) = (format("sk_{env}_"), format("pk_{env}_"));
        let scheme = KeyScheme::new(secret.clone());
        let scheme = scheme.format(KeyKind::Publishable, publishable.clone());
        let scheme = scheme.unwrap();
        let one = secret.generate(Environment::LIVE).unwrap();
        let two = publishable.generate(Environment::TEST).unwrap();
        let mistyped = one.expose_secret().replace("live", "life");
        let text = format!(
            "é sk_ sk_live_ {mistyped}\n\"{}\",{}{}",
            one.expose_secret(),
            two.expose_secret(),
            one.expose_secret(),
        );
        let found: Vec<_> = scheme.find_from(&text, 0..text.len()).collect();
        let keys: Vec<_> = found.iter().map(|(_, key, _)| *key).collect();
        assert_eq!(
            keys,
            [
                one.expose_secret(),
                two.expose_secret(),
                one.expose_secret()
            ]
        );
        assert!(scheme.is_key_in(&text));
        assert!(!scheme.is_key_in(&mistyped));
        for (at, key, prefix) in &found {
            assert!(text[*at..].starts_with(key));
            assert!([one.hint(), two.hint()].contains(&&Hint::of(key, prefix)));
        }
        // However the text is cut, each is found in the part in which it begins.
        for cut in 0..=text.len() {
            let parts = [0..cut, cut..text.len()];
            let parts = parts
                .into_iter()
                .flat_map(|part| scheme.find_from(&text, part));
            assert!(parts.eq(found.iter().copied()), "{cut}");
        }
        let first = format("{env}_");
        let key = first.generate(Environment::LIVE).unwrap();
        assert!(KeyScheme::new(first).is_key_in(key.expose_secret()));
    }

    #[test]
    fn finds_a_key_whole_that_begins_like_a_key_of_a_shorter_format() {
        let bare = |length| format("sk_").without_checksum().length(length).unwrap();
        for lengths in [[28, 64], [64, 28]] {
            let [first, second] = lengths.map(bare);
            let scheme = KeyScheme::new(first.clone()).retired_format(second.clone());
            let scheme = scheme.unwrap();
            for made in [first, second, format("sk_")] {
                let scheme = scheme.clone().retired_format(made.clone()).unwrap();
                let key = made.generate(Environment::LIVE).unwrap();
                let text = format!("key={}\n", key.expose_secret());
                let found: Vec<_> = scheme.find_from(&text, 0..text.len()).collect();
                assert_eq!(found, [(4, key.expose_secret(), "sk_")], "{made:?}");
            }
        }
    }
}
