//! When the reply of one call may leave, where it says so itself.

#[cfg(feature = "bucket")]
use crate::bucket::Acknowledge;

/// What a call says of its own reply. The default leaves it to the host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// For a host whose store is in a bucket.
    #[cfg(feature = "bucket")]
    pub(crate) acknowledge: Option<Acknowledge>,
}
