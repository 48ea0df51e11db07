//! The signature schemes of services: their headers and the signed text.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use keyward::request::RequestHead;
use keyward::request::trim;

use crate::error::{WebhookError, WebhookErrorKind};
use crate::signature::WebhookId;
use crate::signature::secret::MacKey;

/// The maximum length of a header. Two signatures need 100 bytes.
const MAX_FIELD: usize = 4096;
/// The maximum number of entries in a list of signatures.
const MAX_ENTRIES: usize = 32;

/// The header names of Standard Webhooks: id, timestamp, signatures.
const STANDARD: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];
/// The same headers as named by Svix, on which the standard is based.
const SVIX: [&str; 3] = ["svix-id", "svix-timestamp", "svix-signature"];

type Result<T> = std::result::Result<T, WebhookError>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Standard,
    Stripe,
    GitHub,
}

/// The claims in the headers of a request, each well formed and within its limit.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) scheme: Scheme,
    pub(crate) id: Option<WebhookId>,
    pub(crate) timestamp: Option<Timestamp>,
    signatures: Vec<[u8; 32]>,
}

/// Seconds since the Unix epoch, and the original text, which is what is signed.
#[derive(Debug)]
pub(crate) struct Timestamp {
    text: Box<str>,
    pub(crate) seconds: u64,
}

impl Claim {
    pub(crate) fn read<R: RequestHead>(scheme: Scheme, head: &R) -> Result<Self> {
        match scheme {
            Scheme::Standard => Self::standard(head),
            Scheme::Stripe => Self::stripe(head),
            Scheme::GitHub => Self::github(head),
        }
    }

    /// Returns the first MAC that equals one of the signatures, under one of the keys.
    ///
    /// Every signature is compared with every MAC, each in constant time.
    pub(crate) fn prove(&self, keys: &[MacKey], body: &[u8]) -> Result<[u8; 32]> {
        use subtle::ConstantTimeEq;

        let mut proved = None;
        for key in keys {
            let code = self.code(key, body);
            for signature in &self.signatures {
                if bool::from(signature.ct_eq(&code)) {
                    proved = proved.or(Some(code));
                }
            }
        }
        proved.ok_or(WebhookError::new(WebhookErrorKind::BadSignature))
    }

    fn code(&self, key: &MacKey, body: &[u8]) -> [u8; 32] {
        let id = self.id.as_ref().map_or("", WebhookId::as_str).as_bytes();
        let at = self.timestamp.as_ref().map_or("", |at| &at.text).as_bytes();
        match self.scheme {
            Scheme::Standard => key.sign(&[id, b".", at, b".", body]),
            Scheme::Stripe => key.sign(&[at, b".", body]),
            Scheme::GitHub => key.sign(&[body]),
        }
    }

    /// Reads the headers of Standard Webhooks, "Verifying webhook authenticity".
    fn standard<R: RequestHead>(head: &R) -> Result<Self> {
        // All three names are of one family. If a header of the standard's own is present, the
        // others are ignored, as the libraries of Standard Webhooks do not read them either. Svix
        // sends one family; its libraries take each header from whichever has it, which mixes the
        // claims of two senders.
        let is_there = |field: &&str| head.values(field).next().is_some();
        let family = if STANDARD.iter().any(is_there) {
            STANDARD
        } else {
            SVIX
        };
        let [id, at, list] = family.map(|field| one(head, field));
        let (id, at, list) = (id?, at?, list?);
        let (Some(id), Some(at), Some(list)) = (id, at, list) else {
            return Err(WebhookError::new(WebhookErrorKind::Missing));
        };
        let own = |entry: &str| {
            let signature = entry.strip_prefix("v1,")?;
            BASE64_STANDARD.decode(signature).ok()?.try_into().ok()
        };
        Ok(Self {
            scheme: Scheme::Standard,
            id: Some(parse_id(id)?),
            timestamp: Some(Timestamp::parse(at)?),
            signatures: bounded(list.split(' '))?.filter_map(own).collect(),
        })
    }

    /// Reads <https://docs.stripe.com/webhooks/signature>:
    /// `t=1492774577,v1=<hex>,v1=<hex>,v0=<hex>`
    fn stripe<R: RequestHead>(head: &R) -> Result<Self> {
        let list = one(head, "stripe-signature")?;
        let list = list.ok_or(WebhookError::new(WebhookErrorKind::Missing))?;
        let (mut timestamp, mut signatures) = (None, Vec::new());
        for entry in bounded(list.split(','))? {
            match entry.split_once('=') {
                Some(("t", _)) if timestamp.is_some() => {
                    return Err(WebhookError::new(WebhookErrorKind::RepeatedHeader));
                }
                Some(("t", text)) => timestamp = Some(Timestamp::parse(text)?),
                Some(("v1", signature)) => signatures.extend(decode_hex(signature)),
                // Another version, or a future extension.
                _ => {}
            }
        }
        if timestamp.is_none() {
            return Err(WebhookError::new(WebhookErrorKind::Missing));
        }
        Ok(Self {
            scheme: Scheme::Stripe,
            id: None,
            timestamp,
            signatures,
        })
    }

    /// Reads <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
    fn github<R: RequestHead>(head: &R) -> Result<Self> {
        let signature = one(head, "x-hub-signature-256")?;
        let signature = signature.ok_or(WebhookError::new(WebhookErrorKind::Missing))?;
        let own = signature.strip_prefix("sha256=").and_then(decode_hex);
        let id = one(head, "x-github-delivery")?.map(parse_id);
        Ok(Self {
            scheme: Scheme::GitHub,
            id: id.transpose()?,
            timestamp: None,
            signatures: own.into_iter().collect(),
        })
    }
}

impl Timestamp {
    /// Parses `1*DIGIT` that fits a `u64`: no sign, point or space.
    fn parse(text: &str) -> Result<Self> {
        let malformed = WebhookError::new(WebhookErrorKind::Malformed);
        if !(1..=20).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed);
        }
        Ok(Self {
            text: text.into(),
            seconds: text.parse().map_err(|_| malformed)?,
        })
    }
}

/// Returns the only line of a header, if it is not empty.
fn one<'a, R: RequestHead>(head: &'a R, field: &'a str) -> Result<Option<&'a str>> {
    let mut lines = head.values(field);
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(WebhookError::new(WebhookErrorKind::RepeatedHeader));
    }
    let line = trim(line);
    let text = std::str::from_utf8(line)
        .ok()
        .filter(|text| text.len() <= MAX_FIELD);
    let text = text.ok_or(WebhookError::new(WebhookErrorKind::Malformed))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn parse_id(text: &str) -> Result<WebhookId> {
    WebhookId::parse(text).map_err(|_| WebhookError::new(WebhookErrorKind::Malformed))
}

/// Returns a list, unless it has too many entries.
fn bounded<'a, I>(entries: I) -> Result<I>
where
    I: Iterator<Item = &'a str> + Clone,
{
    if entries.clone().nth(MAX_ENTRIES).is_some() {
        return Err(WebhookError::new(WebhookErrorKind::Malformed));
    }
    Ok(entries)
}

/// Decodes 32 bytes in hexadecimal digits of either case.
fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks();
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok();
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes.filter(|_| rest.is_empty())?.try_into().ok()
}
