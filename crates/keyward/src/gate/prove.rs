//! Finds the key of a request and looks it up.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use crate::denial::DenialKind;
use crate::gate::gate::Inner;
use crate::gate::{Gate, Requirement};
use crate::key::ForeignFormat;
use crate::key::format::{MAX_KEY_LEN, Recognised};
use crate::replica::cached_key::CachedKey;
use crate::replica::freshness::Moment;
use crate::request::client::Client;
use crate::request::credential::Credential;
use crate::request::{KeyLocation, RequestHead};

/// A text in the format of a key, and its location.
pub(super) struct Presented<'a> {
    pub(super) text: &'a [u8],
    pub(super) location: usize,
    /// The environment in its text.
    pub(super) environment: Option<&'a [u8]>,
    pub(super) reading: Reading,
    /// Set if the key may be an imported one.
    pub(super) is_foreign: bool,
    /// The client for which failures are counted.
    pub(super) client: Option<Client>,
}

/// The parts of a text that identify the key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// The offset of the key. The text before it is arbitrary.
    key: usize,
    /// The offset in the key of the part after the prefix.
    secret: usize,
}

impl Reading {
    fn of(recognised: &Recognised<'_>) -> Self {
        // If only the secret part counts, the text before it is not part of the key.
        let (key, secret) = if recognised.secret_alone {
            (recognised.secret, 0)
        } else {
            (0, recognised.secret)
        };
        Self { key, secret }
    }

    fn key_in(self, text: &[u8]) -> &[u8] {
        text.get(self.key..).unwrap_or(text)
    }
}

/// An entry that was found, and how.
pub(super) struct Found {
    /// The index of the digest method.
    way: usize,
    reading: Reading,
    pub(super) entry: Arc<CachedKey>,
    pub(super) now: Moment,
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
        let (key, location) = if requirement.other_credential().is_accepted() {
            match self.find_beside_other(request, requirement)? {
                Some(found) => found,
                None => return Ok(None),
            }
        } else {
            match self.find_key(request, |_| true) {
                Credential::One(key, location) => (key, location),
                Credential::Absent if requirement.is_optional() => return Ok(None),
                Credential::Absent | Credential::Empty => return Err(DenialKind::Missing),
                Credential::Several => return Err(DenialKind::MultipleKeys),
            }
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
        Ok(Some(Presented {
            text: key,
            location,
            environment: recognised.environment,
            reading: Reading::of(&recognised),
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
    ) -> Result<Found, DenialKind> {
        let replica = &self.inner.replica;
        let fresh_as_of = replica.fresh_as_of();
        let moves = replica.moves();
        let clock = &**replica.clock();
        let look = || {
            let peppers = &self.inner.scheme.peppers;
            self.readings(presented).find_map(|reading| {
                let key = reading.key_in(presented.text);
                let is_foreign = presented.is_foreign;
                let mut candidates = peppers.candidates(key, reading.secret, is_foreign, clock);
                candidates.find_map(|(way, digest)| Some((way, reading, replica.find(&digest)?)))
            })
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
        let (way, reading, entry) = entry.ok_or(DenialKind::Unknown)?;
        Ok(Found {
            way,
            reading,
            entry,
            now,
        })
    }

    /// Yields the different readings of a text, the first one first.
    ///
    /// Only an imported key has more than one: several systems may have created keys that look
    /// alike.
    fn readings(&self, presented: &Presented<'_>) -> impl Iterator<Item = Reading> {
        let (first, text) = (presented.reading, presented.text);
        let foreign: &[_] = if presented.is_foreign {
            &self.inner.foreign
        } else {
            &[]
        };
        let read = move |format: &ForeignFormat| Some(Reading::of(&format.parse(text)?));
        let others = foreign
            .iter()
            .enumerate()
            .filter_map(move |(place, format)| {
                let reading = read(format)?;
                let mut before = foreign.iter().take(place).filter_map(read);
                let is_new = reading != first && before.all(|other| other != reading);
                is_new.then_some(reading)
            });
        iter::once(first).chain(others)
    }

    /// Finds the key, and schedules a rehash if it is stored under an old digest.
    pub(super) fn prove(
        &self,
        presented: &Presented<'_>,
        max_staleness: Duration,
    ) -> Result<Proved, DenialKind> {
        let found = self.look(presented, max_staleness)?;
        let Inner {
            scheme, replica, ..
        } = &*self.inner;
        let peppers = &scheme.peppers;
        if peppers.is_old(found.way) {
            let key = found.reading.key_in(presented.text);
            replica.redigest(&found.entry, || peppers.digest_text(key));
        }
        let Found { entry, now, .. } = found;
        Ok(Proved { entry, now })
    }
}
