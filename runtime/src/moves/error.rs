//! What can go wrong with a move, beside what can go wrong with a store.

use lapidary_engine::FacetName;

use super::MoveId;
use crate::error::HostErrorKind;

/// Why a move cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The stream is not what a source has sent. Nothing of it was kept.
    #[error("the copy on its way is damaged: {reason}; nothing of it was kept: send it again")]
    Stream {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The stream could not be read or written.
    #[error("{doing} the copy on its way failed: {source}; send it again")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What was said.
        source: std::io::Error,
    },
    /// A text is no id, receipt or proof.
    #[error("this is no id, receipt or proof of a move: it is 32 or 96 hexadecimal digits")]
    Token,
    /// What is stored is not what was sent.
    #[error(
        "facet {facet}: what was stored of it is not what was sent; nothing was kept: send it again"
    )]
    Differs {
        /// The facet, by the name it is to have.
        facet: FacetName,
    },
    /// The name is on its way already.
    #[error(
        "facet {facet}: is on its way to {destination} already; go on with that move, or cancel it"
    )]
    AlreadyDeparting {
        /// The facet.
        facet: FacetName,
        /// Where to.
        destination: String,
    },
    /// The source and the destination are one store.
    #[error(
        "facet {facet}: the destination is the store it is in; to give it another name use `rename`"
    )]
    SameStore {
        /// The facet.
        facet: FacetName,
    },
    /// The store does not know of that move, or not any more.
    #[error(
        "move {id}: there is none such at this store; see `Host::departures` and `Host::arrivals`"
    )]
    Unknown {
        /// The move.
        id: MoveId,
    },
    /// A receipt or proof is of another move, or of another copy.
    #[error("move {id}: the receipt or proof is of another move, or of another copy")]
    NotOfThis {
        /// The move.
        id: MoveId,
    },
    /// It cannot be cancelled any more.
    #[error(
        "facet {facet}: has gone to {destination} and may be served there; move it back from there"
    )]
    HasDeparted {
        /// The facet.
        facet: FacetName,
        /// Where to.
        destination: String,
    },
    /// It has not gone yet.
    #[error("facet {facet}: has not gone yet, and this store has the only copy; `depart` first")]
    HasNotDeparted {
        /// The facet.
        facet: FacetName,
    },
    /// What had the name is still here.
    #[error("facet {facet}: what it had is still in this store; `forget_content` first")]
    ContentLeft {
        /// The facet.
        facet: FacetName,
    },
    /// The copy is stored already, or is being stored.
    #[error("move {id}: its copy is here already, or on its way in; see `Host::arrivals`")]
    AlreadyArrived {
        /// The move.
        id: MoveId,
    },
    /// Nobody is served the facet meanwhile.
    #[error("facet {facet}: is on its way, and served when it has a name again")]
    Hidden {
        /// The facet, by the name that it has meanwhile.
        facet: FacetName,
    },
}

impl MoveError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> HostErrorKind {
        match self {
            Self::Stream { .. } | Self::Differs { .. } => HostErrorKind::Corruption,
            Self::Io { .. } => HostErrorKind::Io,
            Self::AlreadyDeparting { .. } | Self::HasDeparted { .. } => HostErrorKind::Moved,
            Self::Unknown { .. } => HostErrorKind::NotFound,
            Self::AlreadyArrived { .. } => HostErrorKind::AlreadyExists,
            Self::Hidden { .. } => HostErrorKind::Retry,
            Self::Token
            | Self::SameStore { .. }
            | Self::NotOfThis { .. }
            | Self::HasNotDeparted { .. }
            | Self::ContentLeft { .. } => HostErrorKind::InvalidInput,
        }
    }
}
