//! The builder of a receiver.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use keyward::error::{ParseError, ParseErrorKind};
use keyward::gate::KeyHeaderAction;
use keyward::log_limit::LogLimit;
use keyward::reply::{Replies, Reply};
use keyward::request::{Credential, KeyLocation, RequestHead};
use keyward::secret_text::check_text;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::code::ReceiverReplies;
use crate::error::{ReceiverError, ReceiverErrorKind, WebhookError, WebhookErrorKind};
use crate::receive::receiver::Inner;
use crate::receive::{RecentWebhooks, ReplayMemory, WebhookReceiver};
use crate::signature::WebhookVerifier;

/// A builder for a [`WebhookReceiver`], created by [`WebhookReceiver::builder`].
///
/// ```
/// use std::time::Duration;
/// use keyward::{KeyLocation, Replies};
/// use keyward::reply::ErrorJson;
/// use keyward_webhooks::WebhookReceiver;
/// use keyward_webhooks::receive::RecentWebhooks;
/// use keyward_webhooks::WebhookVerifier;
///
/// let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let receiver = WebhookReceiver::builder(verifier)
///     .api_key(KeyLocation::x_api_key(), "hk_5a8ac1b2c0ae4dd7")?
///     .memory(RecentWebhooks::new(1000))
///     .body_limit(64 * 1024)
///     .body_timeout(Duration::from_secs(5))
///     .total_body_limit(16 << 20)
///     .replies(Replies::new(ErrorJson))
///     .build()?;
/// assert!(!format!("{receiver:?}").contains("hk_5a8ac1b2c0ae4dd7"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct WebhookReceiverBuilder {
    verifier: WebhookVerifier,
    keys: ExpectedKeys,
    memory: Option<Arc<dyn ReplayMemory>>,
    limit: usize,
    total_limit: usize,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    replies: Replies,
}

impl WebhookReceiverBuilder {
    pub(crate) fn new(verifier: WebhookVerifier) -> Self {
        Self {
            verifier,
            keys: ExpectedKeys::default(),
            memory: Some(Arc::new(RecentWebhooks::default())),
            limit: 1 << 20,
            total_limit: 64 << 20,
            timeout: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            replies: Replies::default(),
        }
    }

    /// Requires an API key, which the sender must send with every delivery.
    ///
    /// Call it again to accept another key or another location, up to 16. If senders have API keys
    /// of this service, put a gate in front of the receiver instead.
    ///
    /// # Errors
    /// Returns an error if the key has fewer than 16 bytes or is surrounded by extra characters,
    /// such as a newline, quotation marks or `Bearer `, or if there are 16 already.
    pub fn api_key(mut self, location: KeyLocation, key: &str) -> Result<Self, ParseError> {
        self.keys.add(location, key)?;
        Ok(self)
    }

    /// Sets the replay memory. It must be used for this sender alone, which chooses the ids.
    ///
    /// The default is [`RecentWebhooks`], which is sufficient for 166 deliveries a second. For
    /// more, size it by the rate:
    /// sized by the rate:
    ///
    /// ```
    /// use keyward_webhooks::WebhookReceiver;
    /// use keyward_webhooks::receive::RecentWebhooks;
    /// use keyward_webhooks::WebhookVerifier;
    ///
    /// let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    /// let memory = RecentWebhooks::per_second(1_000);
    /// assert!(WebhookReceiver::builder(verifier).memory(memory).build().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn memory(mut self, memory: impl ReplayMemory) -> Self {
        self.memory = Some(Arc::new(memory));
        self
    }

    /// Disables replay protection: a recorded delivery can be handled again.
    ///
    /// A replay is possible for 300 seconds, or forever if the scheme signs no timestamp. Insecure
    /// unless the handler itself keeps track of what it has handled.
    pub fn insecure_without_memory(mut self) -> Self {
        self.memory = None;
        self
    }

    /// Sets the maximum size of a body in bytes; 1 MiB by default. GitHub sends up to 25 MB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets the deadline for a body, counted from its head; 10 seconds by default.
    ///
    /// Any client that can reach the receiver may announce a body and send it byte by byte. Most
    /// senders give up an attempt after 5 to 30 seconds. A body that takes longer gets this
    /// response:
    ///
    /// ```text
    /// HTTP/1.1 408 Request Timeout
    /// cache-control: no-store
    /// connection: close
    /// content-type: application/problem+json
    ///
    /// {"type":"about:blank","title":"Request Timeout","status":408,"detail":"The body took too long to arrive. Send the delivery again.","code":"webhook_timeout"}
    /// ```
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the maximum total size of all bodies in transit, in bytes.
    ///
    /// The default is 64 MiB. Bytes count from their arrival until the signature has been verified;
    /// bytes that are only announced do not count. The limit is at least the [limit of one
    /// body](Self::body_limit). A delivery over the limit gets this response, and the sender tries
    /// again:
    ///
    /// ```text
    /// HTTP/1.1 503 Service Unavailable
    /// cache-control: no-store
    /// connection: close
    /// content-type: application/problem+json
    /// retry-after: 1
    ///
    /// {"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Deliveries cannot be taken at the moment: try again.","code":"webhook_unavailable"}
    /// ```
    pub fn total_body_limit(mut self, bytes: usize) -> Self {
        self.total_limit = bytes;
        self
    }

    /// Sets the clock, for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the format of refusals; `application/problem+json` by default.
    pub fn replies(mut self, replies: Replies) -> Self {
        self.replies = replies;
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    /// Returns an error if a status is mapped to another class, the content type of the body cannot
    /// be sent in a header, or two locations claim the same API key.
    pub fn build(self) -> Result<WebhookReceiver, ReceiverError> {
        if !self.replies.is_valid() {
            return Err(ReceiverError::new(ReceiverErrorKind::Replies));
        }
        let locations = &self.keys.locations;
        if KeyLocation::any_overlap(locations) {
            return Err(ReceiverError::new(ReceiverErrorKind::Locations));
        }
        let rendered = ReceiverReplies::rendered(&self.replies, locations);
        Ok(WebhookReceiver {
            inner: Arc::new(Inner {
                verifier: self.verifier,
                keys: self.keys,
                memory: self.memory,
                limit: self.limit,
                total_limit: self.total_limit.max(self.limit),
                under_way: AtomicUsize::new(0),
                log: LogLimit::default(),
                timeout: self.timeout,
                clock: self.clock,
                rendered,
                known: Reply::new(204, Vec::new()),
            }),
        })
    }
}

/// The API keys that the sender may send, and their locations.
#[derive(Default)]
pub(crate) struct ExpectedKeys {
    locations: Vec<KeyLocation>,
    /// The keys, each with the index of its location.
    keys: Vec<(usize, Zeroizing<String>)>,
}

impl ExpectedKeys {
    fn add(&mut self, location: KeyLocation, key: &str) -> Result<(), ParseError> {
        const SUBJECT: &str = "expected API key";
        let error = |kind| Err(ParseError::new(SUBJECT, kind));
        let alone = "give the key alone, without its header or scheme";
        let header = format!("{}:", location.header_name());
        let scheme = format!("{} ", location.challenge());
        let copied = [&*header, &scheme, "authorization:", "bearer ", "basic "];
        check_text(SUBJECT, key, &copied.map(|prefix| (prefix, alone)))?;
        match key.len() {
            0..16 => return error(ParseErrorKind::Empty),
            _ if self.keys.len() == 16 => return error(ParseErrorKind::TooMany),
            _ => {}
        }
        let at = self.locations.iter().position(|known| *known == location);
        let at = at.unwrap_or_else(|| {
            self.locations.push(location);
            self.locations.len() - 1
        });
        self.keys.push((at, Zeroizing::new(key.to_owned())));
        Ok(())
    }

    pub(crate) fn locations(&self) -> &[KeyLocation] {
        &self.locations
    }

    /// Checks the API key and returns what to do with its header.
    pub(crate) fn check<R: RequestHead>(&self, head: &R) -> Result<KeyHeaderAction, WebhookError> {
        if self.keys.is_empty() {
            return Ok(KeyHeaderAction::None);
        }
        let (key, location) = match Credential::find(head, &self.locations) {
            Credential::One(key, location) => (key, location),
            Credential::Absent | Credential::Empty => {
                return Err(WebhookError::new(WebhookErrorKind::MissingKey));
            }
            Credential::Several => return Err(WebhookError::new(WebhookErrorKind::MultipleKeys)),
        };
        let good = self.keys.iter().fold(false, |good, (at, expected)| {
            good | (*at == location && bool::from(expected.as_bytes().ct_eq(key)))
        });
        if good {
            Ok(KeyHeaderAction::Remove(location))
        } else {
            Err(WebhookError::new(WebhookErrorKind::WrongKey))
        }
    }
}

impl fmt::Debug for ExpectedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.locations).finish()
    }
}
