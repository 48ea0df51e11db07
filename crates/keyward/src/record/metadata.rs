//! The service's own data about a key.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;

use serde_core::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_core::ser::Serialize;
use serde_json::{Map, Value};

use crate::error::{ParseError, ParseErrorKind};

const MAX_LEN: usize = 4096;

/// The service's own data about a key: a JSON object of at most 4096 bytes.
///
/// No object in it may have two members of the same name, because JSON readers disagree about which
/// of them counts.
///
/// ```
/// use keyward::record::Metadata;
///
/// let metadata = Metadata::parse(r#"{"powered_by":true}"#)?;
/// assert_eq!(metadata.as_str(), r#"{"powered_by":true}"#);
/// assert!(Metadata::parse("[1]").is_err());
/// assert!(Metadata::parse(r#"{"a":1,"a":2}"#).is_err());
/// assert_eq!(Metadata::default().as_str(), "{}");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// Parses a JSON object and keeps it as written.
    ///
    /// # Errors
    /// Returns an error if the text is longer than 4096 bytes, is not a JSON object, or has two
    /// members of the same name in an object.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let metadata = Self::stored(text)?;
        if metadata.texts().repeated {
            return Err(ParseError::new("metadata", ParseErrorKind::Repeated));
        }
        Ok(metadata)
    }

    /// Parses stored metadata, which may have members of the same name.
    ///
    /// Version 0.1.0 did not reject them.
    ///
    /// ```
    /// use keyward::record::Metadata;
    ///
    /// let kept = r#"{"a":1,"a":2}"#;
    /// assert_eq!(Metadata::stored(kept)?.as_str(), kept);
    /// assert!(Metadata::parse(kept).is_err());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the text is longer than 4096 bytes or not a JSON object.
    pub fn stored(text: &str) -> Result<Self, ParseError> {
        let kind = if text.len() > MAX_LEN {
            ParseErrorKind::TooLong
        } else if serde_json::from_str::<Map<String, Value>>(text).is_ok() {
            return Ok(Self(text.into()));
        } else {
            ParseErrorKind::Json
        };
        Err(ParseError::new("metadata", kind))
    }

    /// Serializes a value of the service's own type, which must become a JSON object.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use keyward::record::Metadata;
    ///
    /// // Or a struct that derives `serde::Serialize`.
    /// let metadata = Metadata::new(&BTreeMap::from([("team", "billing")]))?;
    /// assert_eq!(metadata.as_str(), r#"{"team":"billing"}"#);
    /// assert!(Metadata::new(&["billing"]).is_err());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the value cannot be serialized, or for the reasons of
    /// [`parse`](Self::parse).
    pub fn new<T: Serialize + ?Sized>(value: &T) -> Result<Self, ParseError> {
        let error = ParseError::new("metadata", ParseErrorKind::Json);
        Self::parse(&serde_json::to_string(value).map_err(|_| error)?)
    }

    /// Deserializes the metadata into the service's own type.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use keyward::record::Metadata;
    ///
    /// let metadata = Metadata::parse(r#"{"team":"billing"}"#)?;
    /// // Or a struct that derives `serde::Deserialize`.
    /// let read: BTreeMap<&str, &str> = metadata.read()?;
    /// assert_eq!(read["team"], "billing");
    /// assert!(metadata.read::<BTreeMap<&str, u64>>().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the metadata does not have the form of the type.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, MetadataError> {
        serde_json::from_str(&self.0).map_err(MetadataError)
    }

    /// Returns the JSON object.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Collects all names and strings, unescaped.
    pub(crate) fn texts(&self) -> Texts {
        let mut texts = Texts::default();
        let mut json = serde_json::Deserializer::from_str(&self.0);
        // The text is valid JSON.
        drop(Walk(&mut texts).deserialize(&mut json));
        texts
    }
}

/// All names and strings of a JSON text, including hidden duplicates.
///
/// A later member of the same name hides an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(crate) all: Vec<String>,
    /// True if an object has two members of the same name.
    pub(crate) repeated: bool,
}

struct Walk<'a>(&'a mut Texts);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.all.push(text.to_owned());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Walk(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            self.0.all.push(name.clone());
            self.0.repeated |= !names.insert(name);
            members.next_value_seed(Walk(&mut *self.0))?;
        }
        Ok(())
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({})", self.as_str())
    }
}

/// The error of [reading](Metadata::read) metadata into a type whose form it does not have.
///
/// ```
/// use std::error::Error;
/// use std::collections::BTreeMap;
/// use keyward::record::Metadata;
///
/// let error = Metadata::parse(r#"{"seats":"ten"}"#)?.read::<BTreeMap<&str, u64>>().unwrap_err();
/// assert_eq!(error.to_string(), "the metadata does not have the form of the type");
/// let source = error.source().unwrap().to_string();
/// assert!(source.starts_with(r#"invalid type: string "ten", expected u64"#));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Debug)]
pub struct MetadataError(serde_json::Error);

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the metadata does not have the form of the type")
    }
}

impl Error for MetadataError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
