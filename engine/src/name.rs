//! Facet names: a tree of UTF-8 path segments.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Longest name in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// Most levels in a name.
pub const NAME_LEVELS_MAX: usize = 16;

/// The checked name of a facet, such as `tenants/acme/agent-7`.
///
/// A name is UTF-8, 1 to 512 bytes, 1 to 16 levels separated by `/`. A level is not empty, not `.`
/// and not `..`; no byte of it is a control character (NUL among them).
///
/// ```
/// use lapidary_engine::FacetName;
/// let name = FacetName::new("tenants/acme/agent-7")?;
/// assert_eq!(name.root(), "tenants");
/// assert!(name.is_within(&FacetName::new("tenants/acme")?));
/// assert!(FacetName::new("tenants//acme").is_err());
/// # Ok::<(), lapidary_engine::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FacetName(Arc<str>);

impl FacetName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`Error::InvalidName`] says which rule it breaks.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        match Self::broken_rule(name) {
            None => Ok(Self(Arc::from(name))),
            Some(reason) => {
                Err(Error::InvalidName { name: name.chars().take(128).collect(), reason })
            }
        }
    }

    fn broken_rule(name: &str) -> Option<&'static str> {
        if name.is_empty() {
            return Some("it is empty");
        }
        if name.len() > NAME_BYTES_MAX {
            return Some("it is longer than 512 bytes");
        }
        if name.starts_with('/') {
            return Some("it starts with a slash");
        }
        if name.ends_with('/') {
            return Some("it ends with a slash");
        }
        if name.chars().any(char::is_control) {
            return Some("it has a NUL or another control character");
        }
        let mut levels = 0;
        for level in name.split('/') {
            levels += 1;
            match level {
                "" => return Some("it has an empty level (two slashes in a row)"),
                "." | ".." => return Some("it has a level '.' or '..'"),
                _ => {}
            }
        }
        (levels > NAME_LEVELS_MAX).then_some("it has more than 16 levels")
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first level, which decides the core that a host serves the facet from.
    #[must_use]
    pub fn root(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// This name and those above it, from the longest on, as text.
    pub(crate) fn and_above(&self) -> impl Iterator<Item = &str> {
        let text = self.as_str();
        let above = text.rmatch_indices('/').map(|(at, _)| &text[..at]);
        std::iter::once(text).chain(above)
    }

    /// Whether this is `ancestor` itself or a name below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.0
            .strip_prefix(ancestor.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// This name with its leading `from` replaced by `to`; `None` if it is not within `from`.
    ///
    /// # Errors
    /// [`Error::InvalidName`] if the result breaks a rule (too long, too deep).
    pub fn moved(&self, from: &Self, to: &Self) -> Result<Option<Self>> {
        if !self.is_within(from) {
            return Ok(None);
        }
        let rest = &self.0[from.0.len()..];
        Self::new(format!("{to}{rest}")).map(Some)
    }
}

impl fmt::Debug for FacetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for FacetName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for FacetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As its text.
#[cfg(feature = "serde")]
impl serde::Serialize for FacetName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Borrow<str> for FacetName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["a", "a/b", "tenants/Zürich/agent 7", "a.b/..c", &"x".repeat(512)] {
            assert_eq!(FacetName::new(name).unwrap().as_str(), name);
        }
        assert!(FacetName::new(["d"; 16].join("/")).is_ok());
    }

    #[test]
    fn bad_names_say_why() {
        let deep = ["d"; 17].join("/");
        let long = "x".repeat(513);
        for (name, reason) in [
            ("", "empty"),
            ("/a", "starts with a slash"),
            ("a/", "ends with a slash"),
            ("a//b", "empty level"),
            ("a/../b", "'..'"),
            (".", "'.'"),
            ("a\0b", "NUL"),
            ("a\nb", "control"),
            (&long, "512 bytes"),
            (&deep, "16 levels"),
        ] {
            let error = FacetName::new(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name:?}: {error}");
        }
    }

    #[test]
    fn subtree() {
        let name = |text: &str| FacetName::new(text).unwrap();
        assert!(name("a/b").is_within(&name("a")));
        assert!(name("a").is_within(&name("a")));
        assert!(!name("ab").is_within(&name("a")));
        assert_eq!(name("a/b/c").moved(&name("a"), &name("x/y")).unwrap(), Some(name("x/y/b/c")));
        assert_eq!(name("ab").moved(&name("a"), &name("x")).unwrap(), None);
        let long = name(&format!("a/{}", "x".repeat(500)));
        assert!(long.moved(&name("a"), &name(&"y".repeat(100))).is_err());
    }
}
