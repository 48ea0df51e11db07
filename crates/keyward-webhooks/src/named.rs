//! Enums whose variants have names in stores.

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
