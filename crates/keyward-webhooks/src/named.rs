//! Enums whose variants have stable names in stores.

/// Implements `as_str` and `parse` for an enum, given the name of each variant.
macro_rules! named {
    ($type:ident, $subject:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// Returns the name that stores keep.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Parses a name returned by [`as_str`](Self::as_str).
            ///
            /// # Errors
            /// Returns an error if the text is not a known name.
            pub fn parse(text: &str) -> Result<Self, keyward::error::ParseError> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(keyward::error::ParseError::new($subject, keyward::error::ParseErrorKind::Unknown)),
                }
            }
        }
    };
}

pub(crate) use named;
