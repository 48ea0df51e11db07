//! How a receiver is put together.

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

/// Puts a receiver together; made by [`WebhookReceiver::builder`].
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

    /// Also demands this API key, which the sender sends with every delivery.
    ///
    /// Called again, another key is as good, or another place. Where the senders have keys of the
    /// service's own, put a gate in front of the receiver instead.
    ///
    /// # Errors
    /// When the key has fewer than 16 bytes, or has something around it that is no part of it, such as
    /// a newline, quotation marks or `Bearer `; or when there are 16 already.
    pub fn api_key(mut self, location: KeyLocation, key: &str) -> Result<Self, ParseError> {
        self.keys.add(location, key)?;
        Ok(self)
    }

    /// Remembers in this, which must be of this sender alone: ids are of his choice.
    ///
    /// [`RecentWebhooks`] unless said otherwise, which lasts for 166 deliveries a second. For more it is
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

    /// Remembers nothing: whoever records a delivery can have it handled again.
    ///
    /// For 300 seconds, or for ever where no time is signed. Insecure, unless the handler itself
    /// knows what it has handled.
    pub fn insecure_without_memory(mut self) -> Self {
        self.memory = None;
        self
    }

    /// Sets how many bytes a body may have; 1 MiB by default. GitHub sends up to 25 MB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets how long a body may take from its head to its end; 10 seconds by default.
    ///
    /// Whoever can reach the receiver may announce a body and send it byte by byte. Most senders give up
    /// an attempt after 5 to 30 seconds. A body that takes longer is answered:
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

    /// Sets how many bytes all bodies that are under way may have together; 64 MiB by default.
    ///
    /// Bytes count from their arrival until the signature has been verified, and those that are only
    /// announced do not. It is at least the [limit of one body](Self::body_limit). What is over it is
    /// answered 503, and the sender tries again:
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

    /// Reads the time here; for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Words refusals this way; problem+json unless said otherwise.
    pub fn replies(mut self, replies: Replies) -> Self {
        self.replies = replies;
        self
    }

    /// Builds the receiver.
    ///
    /// # Errors
    /// When a status is mapped to another class, the content type of the body cannot be sent in a
    /// header, or two locations claim the same API key.
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

/// The API keys that the sender may send, and where.
#[derive(Default)]
pub(crate) struct ExpectedKeys {
    locations: Vec<KeyLocation>,
    /// Each with the place of its location.
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

    /// What to do with the field of the key that was expected, and is there.
    pub(crate) fn check<R: RequestHead>(&self, head: &R) -> Result<KeyHeaderAction, WebhookError> {
        if self.keys.is_empty() {
            return Ok(KeyHeaderAction::None);
        }
        let (key, location) = match Credential::find(head, &self.locations) {
            Credential::One(key, location) => (key, location),
            Credential::Absent | Credential::Empty => {
                return Err(WebhookError::new(WebhookErrorKind::KeyMissing));
            }
            Credential::Several => return Err(WebhookError::new(WebhookErrorKind::KeySeveral)),
        };
        let good = self.keys.iter().fold(false, |good, (at, expected)| {
            good | (*at == location && bool::from(expected.as_bytes().ct_eq(key)))
        });
        if good {
            Ok(KeyHeaderAction::Remove(location))
        } else {
            Err(WebhookError::new(WebhookErrorKind::KeyWrong))
        }
    }
}

impl fmt::Debug for ExpectedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.locations).finish()
    }
}
