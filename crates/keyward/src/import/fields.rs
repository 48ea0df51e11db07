//! The columns of an exported row.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::import::{Skipped, time};
use crate::record::Metadata;

/// The columns of an exported row. An absent column counts as `null`.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Skipped> {
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line); // a byte order mark
        let text = std::str::from_utf8(line).map_err(|_| Skipped::NotUtf8)?;
        let object: Map<_, _> = serde_json::from_str(text).map_err(|_| Skipped::NotJson)?;
        Ok(Self(object))
    }

    /// Moves the columns of an inner object beside the others, as Django's `dumpdata` nests them.
    pub(super) fn flatten(&mut self, name: &str) {
        if let Some(Value::Object(inner)) = self.0.remove(name) {
            self.0.extend(inner);
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Returns a text or number as text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Returns a text that is not empty.
    pub(super) fn filled(&self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.trim().is_empty())
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Skipped> {
        let number = |value: &Value| match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        self.optional(name, number)
    }

    /// Returns a truth value, which some databases export as a number or a letter.
    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, Skipped> {
        let flag = |value: &Value| match value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => number.as_u64().filter(|n| *n < 2).map(|n| n == 1),
            Value::String(text) => match &*text.to_ascii_lowercase() {
                "1" | "t" | "true" => Some(true),
                "0" | "f" | "false" => Some(false),
                _ => None,
            },
            _ => None,
        };
        self.optional(name, flag)
    }

    pub(super) fn time(&self, name: &'static str) -> Result<Option<SystemTime>, Skipped> {
        let time = |value: &Value| match value {
            Value::Number(number) => time::from_number(number.as_u64()?),
            Value::String(text) => match text.parse() {
                Ok(number) => time::from_number(number),
                Err(_) => time::from_text(text),
            },
            _ => None,
        };
        self.optional(name, time)
    }

    /// Returns a JSON column, which many databases export as the text of the JSON.
    fn json(&self, name: &'static str) -> Result<Option<Value>, Skipped> {
        let json = |value: &Value| match value {
            Value::String(text) if text.trim().is_empty() => Some(Value::Null),
            Value::String(text) => serde_json::from_str(text).ok(),
            value => Some(value.clone()),
        };
        Ok(self.optional(name, json)?.filter(|value| !value.is_null()))
    }

    /// Returns an object as metadata.
    pub(super) fn metadata(&self, name: &'static str) -> Result<Metadata, Skipped> {
        let metadata = match self.json(name)? {
            None => return Ok(Metadata::default()),
            // Some systems encode the text of the JSON once more.
            Some(Value::String(text)) => Metadata::parse(&text),
            Some(value) => Metadata::new(&value),
        };
        metadata.map_err(|_| Skipped::Malformed(name))
    }

    /// Returns a list of texts, or an object of such lists as `name:entry`.
    pub(super) fn list(&self, name: &'static str) -> Result<Vec<String>, Skipped> {
        let malformed = || Skipped::Malformed(name);
        let texts = |list: &[Value]| {
            let texts = list.iter().map(|entry| entry.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().ok_or_else(malformed)
        };
        match self.json(name)? {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => texts(&list),
            Some(Value::Object(lists)) => {
                let mut all = Vec::new();
                for (of, list) in &lists {
                    let list = texts(list.as_array().ok_or_else(malformed)?)?;
                    all.extend(list.iter().map(|entry| format!("{of}:{entry}")));
                }
                Ok(all)
            }
            Some(_) => Err(malformed()),
        }
    }

    /// Returns the columns of an object, which must be no others than these.
    pub(super) fn object(
        &self,
        name: &'static str,
        columns: &[&str],
    ) -> Result<Option<Self>, Skipped> {
        match self.json(name)? {
            None => Ok(None),
            Some(Value::Object(object)) if object.keys().all(|key| columns.contains(&&**key)) => {
                Ok(Some(Self(object)))
            }
            Some(_) => Err(Skipped::Malformed(name)),
        }
    }

    /// Returns a list of objects.
    pub(super) fn rows(&self, name: &'static str) -> Result<Vec<Self>, Skipped> {
        let malformed = Skipped::Malformed(name);
        match self.json(name)? {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let rows = list.into_iter().map(|entry| match entry {
                    Value::Object(object) => Ok(Self(object)),
                    _ => Err(malformed),
                });
                rows.collect()
            }
            Some(_) => Err(malformed),
        }
    }

    fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Skipped> {
        let value = self.get(name);
        let read = value.map(|value| read(value).ok_or(Skipped::Malformed(name)));
        read.transpose()
    }
}
