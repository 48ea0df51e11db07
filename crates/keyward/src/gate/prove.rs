//! Finds the key of a request and looks it up.

use std::sync::Arc;
use std::time::Duration;

use crate::denial::DenialKind;
use crate::gate::gate::Inner;
use crate::gate::{Gate, Requirement};
use crate::key::format::MAX_KEY_LEN;
use crate::replica::cached_key::CachedKey;
use crate::replica::freshness::Moment;
use crate::request::client::Client;
use crate::request::credential::Credential;
use crate::request::{KeyLocation, RequestHead};

/// A text in the format of a key, and its location.
pub(super) struct Presented<'a> {
    pub(super) key: &'a [u8],
    pub(super) location: usize,
    /// The environment in its text.
    pub(super) environment: Option<&'a [u8]>,
    /// The offset of the part after the prefix.
    pub(super) secret: usize,
    /// Set if the key may be an imported one.
    pub(super) is_foreign: bool,
    /// The client for which failures are counted.
    pub(super) client: Option<Client>,
}

/// A key that the client has proved to have.
pub(super) struct Proved {
    pub(super) entry: Arc<CachedKey>,
    pub(super) now: Moment,
}

impl Gate {
    /// Returns the only key, if its format is accepted.
    ///
    /// It is `None` if there is no key and none is required.
    pub(super) fn present<'a, R: RequestHead>(
        &'a self,
        request: &'a R,
        requirement: &Requirement,
    ) -> Result<Option<Presented<'a>>, DenialKind> {
        let found = if requirement.other_credential().is_accepted() {
            self.find_beside_other(request, requirement)?
        } else {
            match self.find_key(request, |_| true) {
                Credential::Absent if requirement.is_optional() => None,
                Credential::Absent | Credential::Empty => return Err(DenialKind::Missing),
                Credential::Several => return Err(DenialKind::MultipleKeys),
                Credential::One(key, location) => Some((key, location)),
            }
        };
        let Some((key, location)) = found else {
            return Ok(None);
        };
        let mut formats = self.inner.scheme.accepted().iter();
        let own = formats.find_map(|format| Some((format.parse(key)?, format.has_checksum())));
        let (recognised, is_foreign) = match own {
            Some((recognised, true)) => (recognised, false),
            // Without a checksum, another system may have created a key of this format.
            Some((recognised, false)) => {
                let mut foreign = self.inner.foreign.iter();
                (recognised, foreign.any(|format| format.recognises(key)))
            }
            // No format contains a comma: it joins what were two lines (RFC 9110 §5.3).
            None if key.contains(&b',') => return Err(DenialKind::MultipleKeys),
            None if key.len() > MAX_KEY_LEN => return Err(DenialKind::Malformed),
            None => {
                let mut foreign = self.inner.foreign.iter();
                let recognised = foreign.find_map(|format| format.parse(key));
                (recognised.ok_or_else(|| self.what_is_wrong(key))?, true)
            }
        };
        // If only the secret part counts, the text before it is not part of the key.
        let (key, secret) = match key.get(recognised.secret..) {
            Some(rest) if recognised.secret_alone => (rest, 0),
            _ => (key, recognised.secret),
        };
        Ok(Some(Presented {
            key,
            location,
            environment: recognised.environment,
            secret,
            is_foreign,
            client: None,
        }))
    }

    /// Finds the key of a request in some of the locations.
    pub(super) fn find_key<'a, R: RequestHead>(
        &'a self,
        request: &'a R,
        is_searched: impl Fn(&KeyLocation) -> bool,
    ) -> Credential<'a> {
        let is_claimed = |text: &[u8]| self.is_protocol_claimed(text);
        Credential::find_where(request, &self.inner.locations, is_searched, is_claimed)
    }

    /// Returns the reason why a text is not a key, judging by its ends.
    fn what_is_wrong(&self, text: &[u8]) -> DenialKind {
        if let [first, .., last] = text
            && [b"\"\"", b"''", b"``", b"<>"].contains(&&[*first, *last])
        {
            return DenialKind::QuotedKey;
        }
        let mut words = text.split(|byte| *byte == b' ');
        let (first, more) = (words.next().unwrap_or_default(), words.next().is_some());
        let schemes = self.inner.locations.iter().map(KeyLocation::challenge);
        let mut schemes = schemes.chain(["Bearer", "ApiKey"]);
        if more && schemes.any(|scheme| first.eq_ignore_ascii_case(scheme.as_bytes())) {
            return DenialKind::SchemeInKey;
        }
        DenialKind::Malformed
    }

    /// Looks the key up in memory, and checks that the memory is fresh enough.
    ///
    /// The order matters: an entry that is read after the freshness is at least that fresh, and a
    /// clock that is read last cannot make it look fresher than it was when it was read.
    pub(super) fn look(
        &self,
        presented: &Presented<'_>,
        max_staleness: Duration,
    ) -> Result<(usize, Arc<CachedKey>, Moment), DenialKind> {
        let replica = &self.inner.replica;
        let fresh_as_of = replica.fresh_as_of();
        let Presented {
            key,
            secret,
            is_foreign,
            ..
        } = *presented;
        let moves = replica.moves();
        let clock = &**replica.clock();
        let look = || {
            let peppers = &self.inner.scheme.peppers;
            let mut candidates = peppers.candidates(key, secret, is_foreign, clock);
            candidates.find_map(|(way, digest)| Some((way, replica.find(&digest)?)))
        };
        let mut entry = look();
        // A key that is moving to another digest may have been missed at both. It is added at its
        // new place before it is removed from the old one, so a second look finds it.
        if entry.is_none() && (moves % 2 == 1 || moves != replica.moves()) {
            entry = look();
        }
        let now = Moment::now(clock);
        if fresh_as_of.is_older_than(max_staleness, now) {
            return Err(DenialKind::Unavailable);
        }
        let (way, entry) = entry.ok_or(DenialKind::Unknown)?;
        Ok((way, entry, now))
    }

    /// Finds the key, and schedules a rehash if it is stored under an old digest.
    pub(super) fn prove(
        &self,
        presented: &Presented<'_>,
        max_staleness: Duration,
    ) -> Result<Proved, DenialKind> {
        let (way, entry, now) = self.look(presented, max_staleness)?;
        let Inner {
            scheme, replica, ..
        } = &*self.inner;
        let peppers = &scheme.peppers;
        if peppers.is_old(way) {
            replica.redigest(&entry, || peppers.digest_text(presented.key));
        }
        Ok(Proved { entry, now })
    }
}
