//! Bookmarks: names of versions, to be kept outside of the store.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::types::{FacetId, Incarnation, Version};

/// Names one version of one facet for good: also after the facet was renamed, and never a version
/// that a crash took away and another commit took the number of.
///
/// As text it has a fixed length, and later versions of a facet are greater, as text and as values.
///
/// ```
/// use lapidary_engine::Bookmark;
/// let text = "00000001-0000000000000007-000000000000002a";
/// let bookmark: Bookmark = text.parse()?;
/// assert_eq!(bookmark.version.0, 7);
/// assert_eq!(bookmark.to_string(), text);
/// # Ok::<(), lapidary_engine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bookmark {
    /// The opening of the store in which the version was committed.
    pub incarnation: Incarnation,
    /// The version.
    pub version: Version,
    /// The facet.
    pub facet: FacetId,
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { incarnation, version, facet } = self;
        write!(f, "{:08x}-{:016x}-{:016x}", incarnation.0, version.0, facet.0)
    }
}

impl FromStr for Bookmark {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidInput`] if the text is not one that [`Display`](fmt::Display) makes.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut fields = text.split('-');
            let (incarnation, version, facet) = (fields.next()?, fields.next()?, fields.next()?);
            let is_hex = |field: &str, len: usize| {
                let digits = field.bytes();
                field.len() == len && digits.clone().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            };
            let is_good = fields.next().is_none()
                && is_hex(incarnation, 8)
                && is_hex(version, 16)
                && is_hex(facet, 16);
            is_good.then_some(())?;
            Some(Self {
                incarnation: Incarnation(u32::from_str_radix(incarnation, 16).ok()?),
                version: Version(u64::from_str_radix(version, 16).ok()?),
                facet: FacetId(u64::from_str_radix(facet, 16).ok()?),
            })
        };
        parse().ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            Error::InvalidInput(format!(
                "{text:?} is no bookmark: one has three hexadecimal numbers of 8, 16 and 16 digits, \
                 such as 00000001-0000000000000007-000000000000002a"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The order of texts is the order of bookmarks, and of versions in one facet.
        #[test]
        fn texts_are_ordered(a in any::<(u32, u64, u64)>(), b in any::<(u32, u64, u64)>()) {
            let bookmark = |(incarnation, version, facet)| Bookmark {
                incarnation: Incarnation(incarnation),
                version: Version(version),
                facet: FacetId(facet),
            };
            let (a, b) = (bookmark(a), bookmark(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.to_string().parse::<Bookmark>().unwrap(), a);
        }

        #[test]
        fn any_text_is_survived(text in ".{0,60}") {
            if let Ok(bookmark) = text.parse::<Bookmark>() {
                prop_assert_eq!(bookmark.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_bookmark_says_so() {
        for text in [
            "",
            "latest",
            "1-2-3",
            "0000000G-0000000000000007-000000000000002a",
            "00000001-0000000000000007-000000000000002a-",
        ] {
            let error = text.parse::<Bookmark>().unwrap_err().to_string();
            assert!(error.contains("no bookmark"), "{error}");
        }
    }
}
