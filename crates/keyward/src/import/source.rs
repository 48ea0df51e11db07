//! The systems from whose exports keys are imported.

use std::time::{Duration, SystemTime};

use crate::address::AddressPolicy;
use crate::credits::{Credits, Refill, RefillSchedule};
use crate::error::ParseError;
use crate::import::fields::Fields;
use crate::import::{ImportRow, Skipped};
use crate::key::{DigestScheme, Hint, KeyDigest};
use crate::limit::{RateLimit, RateLimits};
use crate::origin::OriginPolicy;

const UTC: &str = "UTC";

const DAY: Duration = Duration::from_secs(86_400);

/// The most of a key's secret part that the beginning of a hint shows, in bytes.
const MAX_SHOWN: usize = 6;

/// The longest prefix in bytes, where a system does not say where the secret part begins.
const MAX_PREFIX: usize = 16;

/// A system from whose export keys are imported: lines of JSON, a row of its table each.
///
/// The [guide](https://github.com/keyward-rs/keyward/blob/main/docs/importing.md) has, for each
/// system, the command that writes the export, and what is not taken over.
///
/// ```
/// use keyward::import::ImportSource;
/// use keyward::key::DigestScheme;
///
/// let source = ImportSource::django_rest_framework_api_key();
/// // A gate finds its keys with `Peppers::accepting` this scheme.
/// assert_eq!(source.digest_scheme(), DigestScheme::Sha512);
/// ```
#[derive(Clone, Debug)]
pub struct ImportSource(System);

#[derive(Clone, Debug)]
enum System {
    BetterAuth,
    Unkey,
    Sanctum,
    Django,
    PrefixedApiKey(Box<str>),
    ApiKeysGem,
    Table(DigestScheme),
}

impl ImportSource {
    /// Reads the table `apikey` of [Better Auth](https://www.better-auth.com).
    ///
    /// The digest is in `key`. Owner: `referenceId`, or `userId` of older versions.
    #[must_use]
    pub fn better_auth() -> Self {
        Self(System::BetterAuth)
    }

    /// Reads the table `keys` of [Unkey](https://www.unkey.com).
    ///
    /// The digest is in `hash`. Owner: `external_id`, or `owner_id` of older versions.
    #[must_use]
    pub fn unkey() -> Self {
        Self(System::Unkey)
    }

    /// Reads the table `personal_access_tokens` of [Laravel Sanctum](https://laravel.com/docs/sanctum).
    ///
    /// The digest is in `token`. Owner: `tokenable_id`.
    #[must_use]
    pub fn sanctum() -> Self {
        Self(System::Sanctum)
    }

    /// Reads `dumpdata --format jsonl` of [djangorestframework-api-key].
    ///
    /// The digest is in `hashed_key`. The library knows no owner: map a column of your own model,
    /// or the name. Rows with digests of PBKDF2, which it wrote before version 3, are skipped.
    ///
    /// [djangorestframework-api-key]: https://florimondmanca.github.io/djangorestframework-api-key/
    #[must_use]
    pub fn django_rest_framework_api_key() -> Self {
        Self(System::Django)
    }

    /// Reads a table of keys made by `prefixed-api-key`, the crate or the npm package.
    ///
    /// The library has no table, so export yours with the columns of [`table`](Self::table), and
    /// `long_token_hash` in place of `digest`. With `short_token`, the hint is complete but for the
    /// secret. `prefix` is that of the keys, without the underscore.
    #[must_use]
    pub fn prefixed_api_key(prefix: &str) -> Self {
        Self(System::PrefixedApiKey(prefix.into()))
    }

    /// Reads the table `api_keys` of the gem [`api_keys`](https://github.com/rameerez/api_keys).
    ///
    /// The digest is in `token_digest`. Owner: `owner_id`. Rows with digests of bcrypt are skipped.
    #[must_use]
    pub fn api_keys_gem() -> Self {
        Self(System::ApiKeysGem)
    }

    /// Reads a table of your own.
    ///
    /// The columns are `digest`, in hexadecimal or base64, and those of these that you have:
    /// `owner`, `name`, `environment`, `scopes` and `metadata` (JSON), `expires_at`, `enabled`,
    /// and `prefix` and `last4` for the hint.
    #[must_use]
    pub fn table(digests: DigestScheme) -> Self {
        Self(System::Table(digests))
    }

    /// Returns the scheme of the system's digests.
    #[must_use]
    pub fn digest_scheme(&self) -> DigestScheme {
        match &self.0 {
            System::BetterAuth | System::Unkey | System::ApiKeysGem => DigestScheme::Sha256,
            System::Sanctum | System::PrefixedApiKey(_) => DigestScheme::Sha256OfSecret,
            System::Django => DigestScheme::Sha512,
            System::Table(digests) => digests.clone(),
        }
    }

    /// Reads a line of the export.
    pub(super) fn row(&self, line: &[u8], now: SystemTime) -> Result<ImportRow, Skipped> {
        let mut fields = Fields::parse(line)?;
        let row = match &self.0 {
            System::BetterAuth => self.better_auth_row(fields)?,
            System::Unkey => self.unkey_row(fields)?,
            System::Sanctum => {
                let mut row = self.read(fields, "token")?;
                row.owner = row.column("tokenable_id");
                row.grants = row.fields.list("abilities")?;
                row.expires_at = row.fields.time("expires_at")?;
                if let Some(id) = row.fields.filled("id") {
                    row.hint = hint(&format!("{id}|"), None)?;
                }
                row
            }
            System::Django => {
                fields.flatten("fields");
                let revoked = fields.flag("revoked")?;
                if revoked == Some(true) {
                    return Err(Skipped::Revoked);
                }
                let mut row = self.read(fields, "hashed_key")?;
                row.expires_at = row.fields.time("expiry_date")?;
                if let Some(prefix) = row.fields.filled("prefix") {
                    row.hint = hint(&format!("{prefix}."), None)?;
                }
                row
            }
            System::PrefixedApiKey(prefix) => {
                let mut row = self.table_row(fields, "long_token_hash")?;
                row.hint = match row.fields.filled("short_token") {
                    Some(short) => hint(&format!("{prefix}_{short}_"), None)?,
                    None => hint(&format!("{prefix}_"), None)?,
                };
                row
            }
            System::ApiKeysGem => self.gem_row(fields)?,
            System::Table(_) => self.table_row(fields, "digest")?,
        };
        if row.expires_at.is_some_and(|at| at <= now) {
            return Err(Skipped::Expired);
        }
        Ok(row)
    }

    fn better_auth_row(&self, fields: Fields) -> Result<ImportRow, Skipped> {
        check_enabled(&fields)?;
        let mut row = self.read(fields, "key")?;
        let fields = &row.fields;
        row.owner = fields
            .filled("referenceId")
            .or_else(|| fields.filled("userId"));
        row.grants = fields.list("permissions")?;
        row.metadata = fields.metadata("metadata")?;
        row.hint = started(fields)?;
        row.expires_at = fields.time("expiresAt")?;
        row.credits = fields.number("remaining")?.map(Credits::new);
        let interval = fields.number("refillInterval")?.map(Duration::from_millis);
        let refill = interval.zip(fields.number("refillAmount")?);
        match refill.filter(|_| row.credits.is_some()) {
            // Better Auth counts the interval from the last refill, and the calendar from midnight.
            Some((DAY, amount)) => {
                row.credits = refilled(row.credits, RefillSchedule::daily(UTC), amount)?;
            }
            other => row.refill = other,
        }
        if fields.flag("rateLimitEnabled")? == Some(true) {
            let limit = limit(fields, ["rateLimitMax", "rateLimitTimeWindow"])?;
            row.rate_limits = limits(limit, "rateLimitMax")?;
        }
        Ok(row)
    }

    fn unkey_row(&self, fields: Fields) -> Result<ImportRow, Skipped> {
        check_enabled(&fields)?;
        let deleted = [fields.text("deleted_at"), fields.text("deleted_at_m")];
        if deleted.iter().any(Option::is_some) {
            return Err(Skipped::Revoked);
        }
        // Keys that are being moved to Unkey have a digest of yet another system.
        if fields.filled("pending_migration_id").is_some() {
            return Err(Skipped::UnsupportedDigest);
        }
        let mut row = self.read(fields, "hash")?;
        let fields = &row.fields;
        row.owner = fields
            .filled("external_id")
            .or_else(|| fields.filled("owner_id"));
        row.environment = fields.filled("environment");
        row.grants = fields.list("permissions")?;
        row.metadata = fields.metadata("meta")?;
        row.hint = started(fields)?;
        row.expires_at = fields.time("expires")?;
        row.credits = fields.number("remaining_requests")?.map(Credits::new);
        if let Some(amount) = fields.number("refill_amount")? {
            let schedule = match fields.number("refill_day")? {
                None => RefillSchedule::daily(UTC),
                // The last day of a month that has no such day, as in Unkey.
                Some(day) => RefillSchedule::monthly(UTC)
                    .and_then(|month| month.anniversary_of(&format!("1970-01-{day:02}"))),
            };
            row.credits = refilled(row.credits, schedule, amount)?;
        }
        let own = limit(fields, ["ratelimit_limit", "ratelimit_duration"])?;
        let mut all: Vec<_> = own.into_iter().collect();
        for one in fields.rows("ratelimits")? {
            all.extend(limit(&one, ["limit", "duration"])?);
        }
        row.rate_limits = limits(all, "ratelimits")?;
        Ok(row)
    }

    fn gem_row(&self, fields: Fields) -> Result<ImportRow, Skipped> {
        if fields.text("revoked_at").is_some() {
            return Err(Skipped::Revoked);
        }
        if fields.text("digest_algorithm").as_deref() != Some("sha256") {
            return Err(Skipped::UnsupportedDigest);
        }
        let mut row = self.read(fields, "token_digest")?;
        let fields = &row.fields;
        row.owner = fields.filled("owner_id");
        row.environment = fields.filled("environment");
        row.grants = fields.list("scopes")?;
        row.metadata = fields.metadata("metadata")?;
        if let Some(lists) = fields.object("restrictions", &["origins", "ips"])? {
            let malformed = |_| Skipped::Malformed("restrictions");
            let [origins, addresses] = [lists.list("origins")?, lists.list("ips")?];
            if !origins.is_empty() {
                row.origins = OriginPolicy::listed(origins).map_err(malformed)?;
            }
            if !addresses.is_empty() {
                row.addresses = AddressPolicy::listed(addresses).map_err(malformed)?;
            }
        }
        let prefix = fields.filled("prefix").unwrap_or_default();
        row.hint = hint(cut(&prefix, MAX_PREFIX), fields.filled("last4"))?;
        row.expires_at = fields.time("expires_at")?;
        Ok(row)
    }

    fn table_row(&self, fields: Fields, digest: &'static str) -> Result<ImportRow, Skipped> {
        check_enabled(&fields)?;
        let mut row = self.read(fields, digest)?;
        let fields = &row.fields;
        row.owner = fields.filled("owner");
        row.environment = fields.filled("environment");
        row.grants = fields.list("scopes")?;
        row.metadata = fields.metadata("metadata")?;
        let prefix = fields.filled("prefix").unwrap_or_default();
        row.hint = hint(cut(&prefix, MAX_PREFIX), fields.filled("last4"))?;
        row.expires_at = fields.time("expires_at")?;
        Ok(row)
    }

    /// Reads the digest from its column, and the name.
    fn read(&self, fields: Fields, column: &'static str) -> Result<ImportRow, Skipped> {
        let text = fields.filled(column).ok_or(Skipped::Malformed(column))?;
        let text = match self.0 {
            System::Django => text
                .strip_prefix("sha512$$")
                .ok_or(Skipped::UnsupportedDigest)?,
            System::PrefixedApiKey(_) | System::ApiKeysGem | System::Sanctum
                if text.len() != 64 =>
            {
                return Err(Skipped::UnsupportedDigest);
            }
            _ => &text,
        };
        let digest = KeyDigest::import(self.digest_scheme(), text);
        let mut row = ImportRow::new(digest.map_err(|_| Skipped::UnsupportedDigest)?, fields);
        row.name = row.fields.filled("name");
        Ok(row)
    }
}

/// Adds a refill to a balance, if there is one.
fn refilled(
    credits: Option<Credits>,
    schedule: Result<RefillSchedule, ParseError>,
    amount: u64,
) -> Result<Option<Credits>, Skipped> {
    let schedule = schedule.map_err(|_| Skipped::Malformed("refill_day"))?;
    Ok(credits.map(|credits| credits.refill(Refill::every(schedule, amount))))
}

fn check_enabled(fields: &Fields) -> Result<(), Skipped> {
    match fields.flag("enabled")? {
        Some(false) => Err(Skipped::Disabled),
        _ => Ok(()),
    }
}

/// Returns a hint from the columns `prefix` and `start`, the beginning of the key.
///
/// How much `start` holds is a setting of the other system, and may be the whole key.
fn started(fields: &Fields) -> Result<Hint, Skipped> {
    let start = fields.filled("start").unwrap_or_default();
    let prefix = fields.filled("prefix").unwrap_or_else(|| {
        let start = cut(&start, MAX_PREFIX);
        cut(start, start.rfind('_').map_or(0, |at| at + 1)).to_owned()
    });
    let prefix = cut(&prefix, MAX_PREFIX);
    if start.starts_with(prefix) {
        hint(cut(&start, prefix.len() + MAX_SHOWN), None)
    } else {
        hint(prefix, None)
    }
}

/// Returns the first bytes of a text that is ASCII.
fn cut(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or(text)
}

fn hint(beginning: &str, last: Option<String>) -> Result<Hint, Skipped> {
    let text = format!("{beginning}…{}", last.unwrap_or_default());
    Hint::parse(&text).map_err(|_| Skipped::Malformed("prefix"))
}

/// Returns a limit from the columns of its requests and its window in milliseconds.
fn limit(
    fields: &Fields,
    [count, window]: [&'static str; 2],
) -> Result<Option<RateLimit>, Skipped> {
    let (Some(requests), Some(millis)) = (fields.number(count)?, fields.number(window)?) else {
        return Ok(None);
    };
    let seconds = Duration::from_millis(millis);
    if seconds.subsec_millis() != 0 {
        return Err(Skipped::Malformed(window));
    }
    let (Ok(requests), Ok(seconds)) = (u32::try_from(requests), u32::try_from(seconds.as_secs()))
    else {
        return Err(Skipped::Malformed(count));
    };
    let limit = RateLimit::new(requests, seconds, requests);
    limit.map(Some).map_err(|_| Skipped::Malformed(count))
}

fn limits(
    all: impl IntoIterator<Item = RateLimit>,
    column: &'static str,
) -> Result<RateLimits, Skipped> {
    RateLimits::new(all).map_err(|_| Skipped::Malformed(column))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::NewKey;
    use crate::environment::Environment;
    use crate::gate::{Gate, Requirement, Verdict};
    use crate::ids::AccountId;
    use crate::import::Importer;
    use crate::import::tests::sha256;
    use crate::key::{ForeignFormat, KeyFormat, Peppers};
    use crate::record::KeyRecord;
    use crate::scheme::KeyScheme;
    use crate::store::Store;
    use crate::testing::{TestRequest, World, block_on, decided};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn world() -> World {
        let peppers = Peppers::none()
            .accepting(DigestScheme::Sha256OfSecret)
            .and_then(|peppers| peppers.accepting(DigestScheme::Sha512));
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        World::with_scheme(scheme.peppers(peppers.unwrap()))
    }

    /// Imports one line into `acme`.
    fn import(world: &World, source: ImportSource, line: &str) -> KeyRecord {
        let (operator, mut ids) = (world.operator(), Vec::new());
        let importer = Importer::new(world.admin(), &operator, source);
        let map = |row: &mut ImportRow| -> Result<NewKey, Skipped> {
            row.name.get_or_insert_with(|| "imported".to_owned());
            row.new_key(AccountId::parse("acme")?, Environment::LIVE)
        };
        let report = |report: crate::import::ImportReport| match report.outcome {
            crate::import::ImportOutcome::Imported(id) => ids.push(id),
            other => panic!("{other}"),
        };
        block_on(importer.run(line.as_bytes(), map, report)).unwrap();
        block_on(world.store().key(ids[0])).unwrap().unwrap()
    }

    fn admits(gate: &Gate, key: &str) -> bool {
        let request = TestRequest::get().key(key);
        let decision = gate.check(&request, &Arc::new(Requirement::new()), None);
        matches!(decided(decision), Verdict::Admit(_))
    }

    #[test]
    fn a_key_of_unkey_works() {
        // internal/hash/src/sha256.test.ts of github.com/unkeyed/unkey.
        let (key, hash) = (
            "3ZFeSzZi4bAHLaADiPyJy7BN",
            "Af0t8Qg3G7oLwGHlkgMYIeloGL2dNBfcLxOLp3IDROY=",
        );
        let (world, format) = (world(), ForeignFormat::new("").unwrap());
        let gate = world.builder().foreign_format(format).build().unwrap();
        // Columns as in its schema, numbers and JSON as MySQL's JSON_OBJECT writes them.
        let line = format!(
            r#"{{"id":"key_1","hash":"{hash}","start":"3ZFe","name":null,"enabled":1,
            "external_id":"acme","environment":"live","meta":"{{\"plan\":\"pro\"}}",
            "expires":"2100-01-01 00:00:00.000","deleted_at_m":null,"remaining_requests":100,"refill_amount":500,"refill_day":31,
            "permissions":["docs.read"],"ratelimits":[{{"limit":10,"duration":60000}}]}}"#
        );
        let line = line.replace('\n', "");
        let row = ImportSource::unkey().row(line.as_bytes(), NOW).unwrap();
        assert_eq!(row.owner.as_deref(), Some("acme"));
        assert_eq!(
            (row.environment.as_deref(), &*row.grants),
            (Some("live"), &["docs.read".to_owned()][..])
        );
        let record = import(&world, ImportSource::unkey(), &line);
        assert_eq!(
            (record.hint.to_string(), &*record.name),
            ("3ZFe…".to_owned(), "imported")
        );
        assert_eq!(record.metadata.as_str(), r#"{"plan":"pro"}"#);
        assert_eq!(
            record.rate_limits.to_string(),
            RateLimit::per_minute(10).to_string()
        );
        assert!(record.expires_at.is_some());
        let owner = crate::credits::CreditOwner::Key(record.id);
        let credits = block_on(world.store().credits(owner)).unwrap().unwrap();
        let refill = credits.refill.unwrap();
        assert_eq!((credits.left, refill.to), (100, 500));
        assert_eq!(refill.schedule.unwrap().to_string(), "month UTC 1970-01-31");
        assert!(admits(&gate, key) && !admits(&gate, "3ZFeSzZi4bAHLaADiPyJy7BM"));

        let skipped = |more: &str| {
            let line = line.replace(r#""enabled":1"#, more);
            ImportSource::unkey().row(line.as_bytes(), NOW).unwrap_err()
        };
        assert_eq!(skipped(r#""enabled":0"#), Skipped::Disabled);
        assert_eq!(
            skipped(r#""deleted_at":"2024-01-01 00:00:00""#),
            Skipped::Revoked
        );
        let pending = r#""pending_migration_id":"mig_1""#;
        assert_eq!(skipped(pending), Skipped::UnsupportedDigest);
    }

    #[test]
    fn a_token_of_sanctum_works_with_its_number_and_without() {
        // As `createToken` of laravel/sanctum makes them: the number, `|`, 40 letters and digits, and
        // their CRC-32; `token` is `hash('sha256', …)` of what follows the `|`.
        let secret = "s3cr3tOfFortyLettersAndDigits0123456789Ab8f1c7e2a";
        let token = sha256(secret);
        let world = world();
        let line = format!(
            r#"{{"id":12,"tokenable_type":"App\\Models\\User","tokenable_id":7,"name":"laptop",
            "token":"{token}","abilities":"[\"orders:read\",\"orders:write\"]","last_used_at":null,
            "expires_at":"2100-01-01 00:00:00"}}"#
        );
        let line = line.replace('\n', "");
        let row = ImportSource::sanctum().row(line.as_bytes(), NOW).unwrap();
        assert_eq!(
            (
                row.owner.as_deref(),
                row.column("tokenable_type").as_deref()
            ),
            (Some("7"), Some("App\\Models\\User"))
        );
        assert_eq!(row.grants, ["orders:read", "orders:write"]);
        let record = import(&world, ImportSource::sanctum(), &line);
        assert_eq!(
            (record.hint.to_string(), &*record.name),
            ("12|…".to_owned(), "laptop")
        );
        assert!(record.expires_at.is_some());
        let expired = line.replace("2100-01-01", "1970-01-01");
        let expired = ImportSource::sanctum().row(expired.as_bytes(), NOW);
        assert_eq!(expired.unwrap_err(), Skipped::Expired);
        let gate = world
            .builder()
            .foreign_format(ForeignFormat::new("").unwrap().secret_after('|'))
            .foreign_format(ForeignFormat::new("").unwrap())
            .build()
            .unwrap();
        assert!(admits(&gate, &format!("12|{secret}")) && admits(&gate, secret));
        assert!(!admits(&gate, &format!("12|{secret}x")));
    }

    #[test]
    fn a_key_of_the_gem_api_keys_works_unless_its_digest_is_of_bcrypt() {
        // lib/api_keys of github.com/rameerez/api_keys: the token is the prefix and base58, `last4` its
        // end, `token_digest` is `Digest::SHA256.hexdigest(token)`.
        let key = "ak_live_2FNbTmVRYmZLUfMtqUHfP5wYdtVqCwW9zKkR7d8Gs3Hc";
        let digest = sha256(key);
        let world = world();
        let line = format!(
            r#"{{"id":3,"prefix":"ak_live_","token_digest":"{digest}","digest_algorithm":"sha256",
            "last4":"s3Hc","name":"ci","owner_type":"User","owner_id":7,"scopes":["read"],
            "metadata":{{"a":1}},"expires_at":null,"revoked_at":null,"environment":"live"}}"#
        );
        let line = line.replace('\n', "");
        let record = import(&world, ImportSource::api_keys_gem(), &line);
        assert_eq!(record.hint.to_string(), "ak_live_…s3Hc");
        let format = ForeignFormat::new("ak_").unwrap();
        let gate = world.builder().foreign_format(format).build().unwrap();
        assert!(admits(&gate, key) && !admits(&gate, &key.replace("s3Hc", "s3Hd")));

        let source = ImportSource::api_keys_gem();
        let skipped = |from: &str, to: &str| {
            source
                .row(line.replace(from, to).as_bytes(), NOW)
                .unwrap_err()
        };
        assert_eq!(
            skipped("\"sha256\"", "\"bcrypt\""),
            Skipped::UnsupportedDigest
        );
        let revoked = skipped("\"revoked_at\":null", "\"revoked_at\":\"2024-01-01\"");
        assert_eq!(revoked, Skipped::Revoked);
        let restricted = |restrictions: &str| {
            let to = format!("\"id\":3,\"restrictions\":{restrictions}");
            source.row(line.replace("\"id\":3", &to).as_bytes(), NOW)
        };
        let row = restricted(r#"{"origins":["*.example.com"],"ips":["10.0.0.0/8"]}"#).unwrap();
        assert_eq!(
            row.origins,
            OriginPolicy::listed(["*.example.com"]).unwrap()
        );
        assert_eq!(
            row.addresses,
            AddressPolicy::listed(["10.0.0.0/8"]).unwrap()
        );
        assert_eq!(restricted("{}").unwrap().origins, OriginPolicy::Any);
        for unknown in [
            r#"{"countries":["DE"]}"#,
            r#"{"ips":["anywhere"]}"#,
            r#"["10.0.0.1"]"#,
        ] {
            let skipped = restricted(unknown).unwrap_err();
            assert_eq!(skipped, Skipped::Malformed("restrictions"), "{unknown}");
        }
    }

    #[test]
    fn a_hint_shows_little_of_a_key_however_much_the_export_has() {
        let digest = "Af0t8Qg3G7oLwGHlkgMYIeloGL2dNBfcLxOLp3IDROY=";
        let hint = |source: ImportSource, column: &str, more: &str| {
            let line = format!(r#"{{"{column}":"{digest}"{more}}}"#);
            source.row(line.as_bytes(), NOW).unwrap().hint.to_string()
        };
        let unkey = |start: &str| {
            hint(
                ImportSource::unkey(),
                "hash",
                &format!(r#","start":"{start}""#),
            )
        };
        assert_eq!(unkey("re_3ZFe"), "re_3ZFe…");
        assert_eq!(unkey("re_3ZFeSzZi4bAHLaADiPyJy7BN"), "re_3ZFeSz…");
        assert_eq!(unkey("3ZFeSzZi4bAHLaADiPyJy7BN"), "3ZFeSz…");
        assert_eq!(unkey(""), "…");
        let better_auth = |more: &str| hint(ImportSource::better_auth(), "key", more);
        assert_eq!(
            better_auth(r#","prefix":"acme_live_","start":"acme_l""#),
            "acme_live_…"
        );
        assert_eq!(
            better_auth(r#","prefix":"ba_","start":"ba_ETt""#),
            "ba_ETt…"
        );
        assert_eq!(better_auth(r#","prefix":null,"start":null"#), "…");
        let table = hint(
            ImportSource::table(DigestScheme::Sha256),
            "digest",
            r#","prefix":"a_whole_key_that_is_in_the_wrong_column","last4":"x7Qd""#,
        );
        assert_eq!(table, "a_whole_key_that…x7Qd");
    }
}
