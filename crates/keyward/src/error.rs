//! The error of everything that is parsed from text.

use std::error::Error;
use std::fmt;

/// Text that is not what it should be.
///
/// It names the kind of value and the rule it breaks, never the text itself: the text may be a
/// secret.
///
/// ```
/// use keyward::Environment;
/// use keyward::error::ParseErrorKind;
///
/// let error = Environment::parse("Live").unwrap_err();
/// assert_eq!(error.kind(), ParseErrorKind::Character);
/// assert_eq!(error.to_string(), "invalid environment: holds a character that is not allowed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    subject: &'static str,
    kind: ParseErrorKind,
    entry: Option<usize>,
    advice: Option<&'static str>,
}

impl ParseError {
    /// Creates an error about a kind of value, such as `"webhook secret"`, and the rule it breaks.
    ///
    /// ```
    /// use keyward::error::{ParseError, ParseErrorKind};
    ///
    /// let error = ParseError::new("invoice number", ParseErrorKind::TooLong).advise("drop the prefix");
    /// assert_eq!(error.to_string(), "invalid invoice number: is too long: drop the prefix");
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

    /// Adds what to do instead.
    #[must_use]
    pub const fn advise(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    pub(crate) const fn at(mut self, entry: usize) -> Self {
        self.entry = Some(entry);
        self
    }

    /// The rule that is broken.
    #[must_use]
    pub const fn kind(&self) -> ParseErrorKind {
        self.kind
    }

    /// The entry of a list of origins or scopes that is wrong, counted from 0.
    ///
    /// ```
    /// let error = keyward::OriginPolicy::listed(["shop.example", "*shop.example"]).unwrap_err();
    /// assert_eq!(error.entry(), Some(1));
    /// let text = "invalid origin pattern at index 1: holds a wildcard where none may stand";
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

/// Why text was refused. See [`ParseError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// There is nothing to parse, or too little.
    Empty,
    /// It is longer than its bound.
    TooLong,
    /// It holds a character that is not allowed, or not allowed there.
    Character,
    /// A wildcard stands where only a plain value may.
    Wildcard,
    /// There are more entries than the bound.
    TooMany,
    /// It has less than 112 bits of randomness: no secret (NIST SP 800-63B-4 §3.1.2.2).
    TooWeak,
    /// It is `null`, the origin that stands for every opaque origin (RFC 6454 §4).
    Null,
    /// It has a path, query, fragment or userinfo; an origin has none (RFC 6454 §4).
    NotAnOrigin,
    /// The scheme is neither `http` nor `https`; of an origin, nor that of an app or a browser extension.
    Scheme,
    /// The host is not a host name or an IP address.
    Host,
    /// The port is not a number from 1 to 65535.
    Port,
    /// It is `http://`, in a live key: anybody on the way can change such a page.
    Http,
    /// Its wildcard stands before a public suffix, where anybody can have a domain.
    PublicSuffix,
    /// It is not a JSON object.
    Json,
    /// It is a number that is too small or too large.
    Range,
    /// It is neither an address nor a network such as `10.0.0.0/8`, or one that holds everybody.
    Network,
    /// It has userinfo or a fragment; an endpoint has neither.
    NotAnEndpoint,
    /// The host is not on the public Internet.
    NotPublic,
    /// It is there already.
    Repeated,
    /// It is not in the list of known values.
    Unknown,
    /// It has a meaning of its own, to browsers, proxies, caches or servers.
    Reserved,
    /// A prefix of keys goes on after `{env}` with nothing, or with what could belong to an environment.
    NoSeparator,
    /// Some text has the form of two formats of a [`KeyScheme`](crate::KeyScheme).
    Ambiguous,
    /// The secret begins with a byte order mark, as some editors write it.
    ByteOrderMark,
    /// The secret ends in a newline, mostly that of the file it was read from.
    Newline,
    /// The secret begins or ends with white space.
    Blank,
    /// The secret stands in quotation marks.
    Quoted,
    /// The secret holds a line break, a tab or another character that is not seen.
    Invisible,
    /// The secret begins like another one, or with a label; the message says what to do.
    WrongPrefix,
}

impl ParseErrorKind {
    const fn rule(self) -> &'static str {
        match self {
            Self::Empty => "is empty or too short",
            Self::TooLong => "is too long",
            Self::Character => "holds a character that is not allowed",
            Self::Wildcard => "holds a wildcard where none may stand",
            Self::TooMany => "has too many entries",
            Self::TooWeak => "has less than 112 bits of randomness",
            Self::Null => "null stands for every opaque origin",
            Self::NotAnOrigin => "has a path, query, fragment or userinfo",
            Self::Scheme => "the scheme is not http or https",
            Self::Host => "the host is not a host name or an IP address",
            Self::Port => "the port is not a number from 1 to 65535",
            Self::Http => "http is for test environments",
            Self::PublicSuffix => "anybody can have a domain for which the wildcard stands",
            Self::Json => "is not a JSON object",
            Self::Range => "is out of range",
            Self::Network => "is no address and no network, or one that holds everybody",
            Self::NotAnEndpoint => "has userinfo or a fragment",
            Self::NotPublic => "the host is not public",
            Self::Repeated => "is there already",
            Self::Unknown => "is not a known value",
            Self::Reserved => "is reserved: it has a meaning of its own",
            Self::NoSeparator => "lacks a separator such as `_` after `{env}`",
            Self::Ambiguous => "its keys could be confused with those of another format",
            Self::ByteOrderMark => "begins with a byte order mark",
            Self::Newline => "ends in a newline",
            Self::Blank => "begins or ends with white space",
            Self::Quoted => "stands in quotation marks",
            Self::Invisible => "holds a line break, tab or other invisible character",
            Self::WrongPrefix => "has the wrong prefix",
        }
    }
}

/// Gives an enum its names: `as_str` and `parse`.
macro_rules! named {
    ($type:ident, $subject:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// Its name, as stores keep it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Parses what [`as_str`](Self::as_str) gives.
            ///
            /// # Errors
            /// When the text is none of the names.
            pub fn parse(text: &str) -> Result<Self, $crate::error::ParseError> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::error::ParseError::new($subject, $crate::error::ParseErrorKind::Unknown)),
                }
            }
        }
    };
}

pub(crate) use named;
