//! What a store needs of a bucket, behind one thin trait.
//!
//! The way of the engine's `Io`: a bucket by the crate `object_store` ([`RemoteObjects`](super::RemoteObjects)) and a
//! simulated one are interchangeable. Calls block; whoever implements the trait sees to time limits.

use std::fmt::Debug;
use std::ops::Range;

/// Identity of one content of an object (its `ETag`), for compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub String);

/// Under which condition an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Under none. For names that are written once.
    Always,
    /// If there is none of that name (`If-None-Match: *`).
    Absent,
    /// If its content is still that one (`If-Match`).
    Unchanged(&'a Tag),
}

/// What came of a request that failed, and so what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectErrorKind {
    /// There is no such object.
    NotFound,
    /// The condition did not hold; nothing was changed by this request. A request that was sent before
    /// and whose answer was lost may be what changed it.
    Condition,
    /// Nobody knows whether it was done: no answer, or one that says "later" (5xx, 429, time limits).
    /// It can be tried again.
    Unclear,
    /// It was refused, and will be again: credentials, permissions, no such bucket.
    Refused,
}

/// Why a request to a bucket failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {name} in {bucket}: {detail}")]
pub struct ObjectError {
    /// What can be done.
    pub kind: ObjectErrorKind,
    /// `get`, `put`, `list` or `delete`.
    pub operation: &'static str,
    /// The object.
    pub name: String,
    /// The bucket, as [`Objects::describe`] has it.
    pub bucket: String,
    /// What was said.
    pub detail: String,
}

/// Objects of one store: a bucket, or a part of one below a prefix.
///
/// What is required of it: an object that was written and answered for is read by whoever asks
/// afterwards, whole, with the content of the last write; conditional writes of one object are
/// atomic, each against every other write of it; equal tags mean equal content. Listing may lag.
pub trait Objects: Send + Sync + Debug {
    /// The bucket, for messages.
    fn describe(&self) -> String;

    /// An object and its tag.
    ///
    /// # Errors
    /// `NotFound`, `Unclear` or `Refused`.
    fn get(&self, name: &str) -> Result<(Vec<u8>, Tag), ObjectError>;

    /// An object and its tag, unless it still is the one of `tag` (`If-None-Match`). Unless there is a way
    /// that saves sending it, it is [`get`](Self::get).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_if_changed(&self, name: &str, tag: &Tag) -> Result<Option<(Vec<u8>, Tag)>, ObjectError> {
        let found = self.get(name)?;
        Ok((found.1 != *tag).then_some(found))
    }

    /// A part of an object, which has that part.
    ///
    /// # Errors
    /// `NotFound`, `Unclear` or `Refused`.
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError>;

    /// Writes an object, whole, and tells its tag.
    ///
    /// # Errors
    /// `Condition`, `Unclear` or `Refused`.
    fn put(&self, name: &str, bytes: &[u8], condition: Condition<'_>) -> Result<Tag, ObjectError>;

    /// Names of objects that begin with `prefix`, in any order. Those written or deleted lately may be
    /// missing or still there.
    ///
    /// # Errors
    /// `Unclear` or `Refused`.
    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError>;

    /// As [`list`](Self::list), with the bytes of each. Unless a listing tells them, the objects are read.
    ///
    /// # Errors
    /// As [`list`](Self::list) and [`get`](Self::get).
    fn list_with_bytes(&self, prefix: &str) -> Result<Vec<(String, u64)>, ObjectError> {
        let mut found = Vec::new();
        for name in self.list(prefix)? {
            match self.get(&name) {
                Ok((bytes, _)) => found.push((name, bytes.len() as u64)),
                Err(error) if error.kind == ObjectErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Deletes an object; that there is none is no error.
    ///
    /// # Errors
    /// `Unclear` or `Refused`.
    fn delete(&self, name: &str) -> Result<(), ObjectError>;
}
