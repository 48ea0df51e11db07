//! Searches that find keys by an index.

use crate::ids::KeyId;
use crate::key::{Hint, KeyDigest};
use crate::record::KeyRecord;
use crate::scheme::KeyScheme;

/// A search for keys, as part of a [`KeyQuery`](crate::store::KeyQuery).
///
/// A store answers each from an index, in a time that does not depend on the number of its keys.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
/// # use keyward::admin::KeyFilter;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// # let key = created.key.unwrap();
/// # let pasted = key.expose_secret();
/// # let seen = key.hint().to_string();
/// use keyward::key::Hint;
/// use keyward::store::KeySearch;
///
/// // `seen` is a hint such as `vhk_live_…Tz7x`, and `pasted` is a whole key.
/// for search in [
///     KeySearch::Hint(Hint::parse(&seen)?),
///     KeySearch::of_key(&scheme, pasted),
///     KeySearch::Name("FIR".to_owned()),
/// ] {
///     let page = admin.keys(&operator, None, KeyFilter::new().search(search)).await?;
///     assert_eq!(page.keys[0].record.id, id);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store must handle every case, so a new one must not be missed"
)]
pub enum KeySearch {
    /// The key with this id.
    Id(KeyId),
    /// The keys of this chain of rotations, by [`KeyRecord::lineage`].
    Lineage(KeyId),
    /// The keys with these last four characters, whose prefix begins like that of the hint.
    ///
    /// `…Tz7x` has no prefix, so it finds every key that ends in these characters. A hint without
    /// the last characters finds nothing.
    Hint(Hint),
    /// The keys whose name begins with this text, in the order of their names.
    ///
    /// Upper and lower case are the same for the letters A to Z, and for no others: `ünal` does not
    /// find `ÜNAL`.
    Name(String),
    /// The key that has one of these digests.
    Digest(Vec<KeyDigest>),
}

impl KeySearch {
    /// Creates a search for a whole key, such as one that was found in a log.
    ///
    /// Only its digests are kept, under every scheme of the service, retired peppers and imported
    /// keys included. White space around the key is ignored. The key reaches no log, error or
    /// `Debug` output. Text that no key can be finds nothing.
    #[must_use]
    pub fn of_key(scheme: &KeyScheme, key: &str) -> Self {
        Self::Digest(scheme.peppers.digests_of(key.trim().as_bytes()))
    }

    /// Returns whether the search finds this key.
    #[must_use]
    pub fn finds(&self, record: &KeyRecord) -> bool {
        match self {
            Self::Id(id) => record.id == *id,
            Self::Lineage(first) => record.lineage == *first,
            Self::Hint(hint) => {
                let own = &record.hint;
                !hint.last().is_empty()
                    && own.last() == hint.last()
                    && own.prefix().starts_with(hint.prefix())
            }
            Self::Name(start) => folded(&record.name).starts_with(&folded(start)),
            Self::Digest(digests) => {
                let mut digests = digests.iter();
                digests.any(|own| own.expose_bytes() == record.digest.expose_bytes())
            }
        }
    }
}

/// Returns a name as it is searched for and sorted: without upper case of ASCII.
pub(crate) fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::key::{DigestScheme, KeyFormat, Pepper, Peppers};

    #[test]
    fn a_search_for_a_whole_key_shows_nothing_of_it() {
        let format = KeyFormat::new("vhk_{env}_").unwrap();
        let key = format.generate(Environment::LIVE).unwrap();
        let pepper = Pepper::new("2026", b"sixteen bytes or more").unwrap();
        let peppers = Peppers::new(pepper).accepting(DigestScheme::Sha256OfSecret);
        let scheme = KeyScheme::new(format).peppers(peppers.unwrap());
        let shown = format!("{:?}", KeySearch::of_key(&scheme, key.expose_secret()));
        assert!(
            shown.starts_with("Digest([KeyDigest(hmac-sha256:2026, ..)"),
            "{shown}"
        );
        assert!(!shown.contains(key.expose_secret()));
        let digest = scheme.peppers.digest(&key);
        let digest = format!("{:02x?}", digest.expose_bytes()).replace(", ", "");
        assert!(!shown.contains(digest.trim_matches(['[', ']'])));
    }

    #[test]
    fn a_text_that_is_too_long_for_a_key_is_not_digested() {
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        for (length, digests) in [(0, 0), (512, 1), (513, 0)] {
            let KeySearch::Digest(found) = KeySearch::of_key(&scheme, &"x".repeat(length)) else {
                unreachable!()
            };
            assert_eq!(found.len(), digests, "{length}");
        }
    }
}
