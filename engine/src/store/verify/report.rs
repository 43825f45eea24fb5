//! What verification found.

use std::fmt;

use crate::types::{PageNo, SegmentId};

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A page is not what was written. Its facet, and facets forked from it, cannot read it.
    Page,
    /// A part of a facet's page map or history cannot be read.
    Map,
    /// A part of the catalog, or of what the whole store depends on, cannot be read.
    Catalog,
    /// A batch of records in a segment is damaged. If nothing in it is needed any more, no facet is
    /// concerned.
    Record,
    /// What is counted as live, or as shared, is not what is there.
    Accounting,
    /// A facet leads to a page that was written for one that it is not related to.
    Foreign,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The facet concerned, if it is one.
    pub facet: Option<String>,
    /// The page concerned, if it is one.
    pub page: Option<PageNo>,
    /// The file.
    pub path: String,
    /// The segment, if it is known.
    pub segment: Option<SegmentId>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(facet) = &self.facet {
            write!(f, "facet {facet}: ")?;
        }
        if let Some(page) = self.page {
            write!(f, "page {page}: ")?;
        }
        write!(f, "{} at offset {}", self.path, self.offset)?;
        if let Some(segment) = self.segment {
            write!(f, " (segment {segment})")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// What verification looked at, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Facets in the catalog.
    pub facets: u64,
    /// Pages that were read, those of versions of the past included. Shared ones count once.
    pub pages: u64,
    /// Parts of page maps, histories and of the catalog that were read.
    pub parts: u64,
    /// Segments whose records were all read.
    pub segments: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// What is wrong; empty if nothing is.
    pub findings: Vec<Finding>,
    /// Findings beyond the first 1,000 are counted and not kept.
    pub more_findings: u64,
}

/// Findings that are kept.
const FINDINGS_MAX: usize = 1000;

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn push(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// How far verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Bytes looked at so far.
    pub done_bytes: u64,
    /// Bytes there are to look at, about.
    pub total_bytes: u64,
}
