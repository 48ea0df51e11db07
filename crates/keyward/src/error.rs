//! Errors of parsing.

use std::error::Error;
use std::fmt;

/// The error returned when text cannot be parsed.
///
/// It names the kind of value and the violated rule, but never contains the text, which may be a
/// secret.
///
/// ```
/// use keyward::Environment;
/// use keyward::error::ParseErrorKind;
///
/// let error = Environment::parse("Live").unwrap_err();
/// assert_eq!(error.kind(), ParseErrorKind::Character);
/// assert_eq!(error.to_string(), "invalid environment: contains a character that is not allowed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    subject: &'static str,
    kind: ParseErrorKind,
    entry: Option<usize>,
    advice: Option<&'static str>,
}

impl ParseError {
    /// Creates an error from the kind of value, such as `"webhook secret"`, and the violated rule.
    ///
    /// ```
    /// use keyward::error::{ParseError, ParseErrorKind};
    ///
    /// let error = ParseError::new("invoice number", ParseErrorKind::TooLong).advise("drop the prefix");
    /// assert_eq!(error.to_string(), "invalid invoice number: is too long; drop the prefix");
    /// ```
    #[must_use]
    pub const fn new(subject: &'static str, kind: ParseErrorKind) -> Self {
        Self {
            subject,
            kind,
            entry: None,
            advice: None,
        }
    }

    /// Adds advice on what to do instead.
    #[must_use]
    pub const fn advise(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    pub(crate) const fn at(mut self, entry: usize) -> Self {
        self.entry = Some(entry);
        self
    }

    /// Returns the violated rule.
    #[must_use]
    pub const fn kind(&self) -> ParseErrorKind {
        self.kind
    }

    /// Returns the index of the invalid entry in a list, counted from 0.
    ///
    /// ```
    /// let error = keyward::OriginPolicy::listed(["shop.example", "*shop.example"]).unwrap_err();
    /// assert_eq!(error.entry(), Some(1));
    /// let text = "invalid origin pattern at index 1: contains a wildcard where none is allowed";
    /// assert_eq!(error.to_string(), text);
    /// ```
    #[must_use]
    pub const fn entry(&self) -> Option<usize> {
        self.entry
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}", self.subject)?;
        if let Some(entry) = self.entry {
            write!(f, " at index {entry}")?;
        }
        write!(f, ": {}", self.kind.rule())?;
        match self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl Error for ParseError {}

/// The rule that the text violates. See [`ParseError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// The text is empty or too short.
    Empty,
    /// The text is too long.
    TooLong,
    /// The text contains a character that is not allowed, or not allowed at its position.
    Character,
    /// The text contains a wildcard where none is allowed.
    Wildcard,
    /// There are too many entries.
    TooMany,
    /// The secret has less than 112 bits of randomness (NIST SP 800-63B-4 §3.1.2.2).
    TooWeak,
    /// The origin is `null`, which stands for every opaque origin (RFC 6454 §4).
    Null,
    /// The text has a path, query, fragment or userinfo, which an origin has not (RFC 6454 §4).
    NotAnOrigin,
    /// The scheme is neither `http` nor `https`.
    ///
    /// Origins may also have the scheme of an app framework or a browser extension.
    Scheme,
    /// The host is neither a host name nor an IP address.
    Host,
    /// The port is not a number from 1 to 65535.
    Port,
    /// The origin of a live key is `http://`.
    ///
    /// Anyone on the network path could change such a page.
    Http,
    /// The wildcard covers a public suffix, under which anyone can register a domain.
    ///
    /// Without the feature `psl`, every domain except `localhost` counts as one.
    PublicSuffix,
    /// The text is not a JSON object.
    Json,
    /// The number is too small or too large.
    Range,
    /// The text is neither an address nor a network.
    Network,
    /// The network has bits set after its prefix, as `10.1.2.3/8` has.
    HostBits,
    /// The network or list includes every IPv4 or every IPv6 address.
    EveryAddress,
    /// The URL has userinfo or a fragment, which an endpoint must not have.
    NotAnEndpoint,
    /// The host is not on the public Internet (SSRF protection).
    NotPublic,
    /// The value is already present.
    Repeated,
    /// The value is not in the list of known values.
    Unknown,
    /// The name is reserved, because browsers, proxies, caches or servers give it a meaning.
    Reserved,
    /// Nothing separates `{env}` in a key prefix from what follows.
    NoSeparator,
    /// Some text matches two key formats of a [`KeyScheme`](crate::KeyScheme).
    Ambiguous,
    /// The secret begins with a byte order mark, which some editors write.
    ByteOrderMark,
    /// The secret ends in a newline, usually that of the file it was read from.
    Newline,
    /// The secret begins or ends with white space.
    Blank,
    /// The secret is enclosed in quotation marks.
    Quoted,
    /// The secret contains a line break, a tab or another invisible character.
    Invisible,
    /// The secret begins like a different kind of secret or with a label; the message says what to
    /// do.
    WrongPrefix,
}

impl ParseErrorKind {
    const fn rule(self) -> &'static str {
        match self {
            Self::Empty => "is empty or too short",
            Self::TooLong => "is too long",
            Self::Character => "contains a character that is not allowed",
            Self::Wildcard => "contains a wildcard where none is allowed",
            Self::TooMany => "has too many entries",
            Self::TooWeak => "has less than 112 bits of randomness",
            Self::Null => "null stands for every opaque origin",
            Self::NotAnOrigin => "has a path, query, fragment or userinfo",
            Self::Scheme => "the scheme is not http or https",
            Self::Host => "the host is not a host name or an IP address",
            Self::Port => "the port is not a number from 1 to 65535",
            Self::Http => "http is for test environments",
            #[cfg(feature = "psl")]
            Self::PublicSuffix => "the wildcard covers domains that anyone can register",
            #[cfg(not(feature = "psl"))]
            Self::PublicSuffix => "a wildcard cannot be checked without the feature `psl`",
            Self::Json => "is not a JSON object",
            Self::Range => "is out of range",
            Self::Network => "is neither an address nor a network",
            Self::HostBits => "has bits set after its prefix",
            Self::EveryAddress => "includes every IPv4 or every IPv6 address",
            Self::NotAnEndpoint => "has userinfo or a fragment",
            Self::NotPublic => "the host is not public",
            Self::Repeated => "is already present",
            Self::Unknown => "is not a known value",
            Self::Reserved => "is reserved for another use",
            Self::NoSeparator => "lacks a separator such as `_` after `{env}`",
            Self::Ambiguous => "its keys could be confused with those of another format",
            Self::ByteOrderMark => "begins with a byte order mark",
            Self::Newline => "ends in a newline",
            Self::Blank => "begins or ends with white space",
            Self::Quoted => "stands in quotation marks",
            Self::Invisible => "contains a line break, tab or other invisible character",
            Self::WrongPrefix => "has the wrong prefix",
        }
    }
}

/// Implements `as_str` and `parse` for an enum.
#[doc(hidden)]
#[macro_export]
macro_rules! __named {
    ($type:ident, $subject:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// Returns the name under which stores keep this value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Parses the name that [`as_str`](Self::as_str) returns.
            ///
            /// # Errors
            /// Returns an error if the text is not one of the names.
            pub fn parse(text: &str) -> Result<Self, $crate::error::ParseError> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::error::ParseError::new($subject, $crate::error::ParseErrorKind::Unknown)),
                }
            }
        }
    };
}

pub(crate) use __named as named;
