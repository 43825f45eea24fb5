//! Comparing a store with a picture of what it should hold.

use lapidary_engine::{
    Bookmark, Error, Facet, FacetId, FacetInfo, FacetName, Snapshot, Store, Version, VersionInfo,
    View,
};

use super::Catalog;
use super::change::Picture;
use super::facet::{FacetState, Kept, VersionState};
use super::settings::Settings;
use crate::content::Damage;
use crate::failure::{Failure, wrong};

/// Compares everything, also that nothing is set on names that only `latest` has something set on;
/// returns the picture with identities and incarnations as the store has them,
/// where the model did not know.
pub(super) fn compare_picture(
    expected: &Picture,
    latest: &Settings,
    store: &Store,
    damage: Damage,
) -> Result<Picture, Failure> {
    compare_listing(&expected.facets, store)?;
    if damage == Damage::None {
        expected.settings.compare(&expected.facets, latest.named.iter(), store)?;
    }
    let mut found = expected.clone();
    for (name, facet) in &mut found.facets {
        compare_facet(name, facet, store, View::Latest, damage)?;
        compare_facet(name, facet, store, View::Durable, damage)?;
        match store.open_facet(name) {
            Ok(opened) => {
                facet.id = opened.id();
                if damage == Damage::None {
                    let newest = opened.bookmark()?;
                    if facet.incarnation.is_some_and(|known| known != newest.incarnation) {
                        return wrong(format!("{name} is {newest}, of another time"));
                    }
                    facet.newest.incarnation = Some(newest.incarnation);
                    compare_past(name, facet, facet, &opened)?;
                }
            }
            Err(error) if damage.explains(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Compares names, versions and sizes, listing a few at a time.
pub(super) fn compare_listing(expected: &Catalog, store: &Store) -> Result<(), Failure> {
    const LISTED_AT_ONCE: usize = 3;
    let mut listed: Vec<FacetInfo> = Vec::new();
    loop {
        let after = listed.last().map(|info| info.name.clone());
        let more = store.list_facets(None, after.as_ref(), LISTED_AT_ONCE)?;
        let is_last = more.len() < LISTED_AT_ONCE;
        listed.extend(more);
        if is_last {
            break;
        }
    }
    let found: Vec<String> = listed.iter().map(|info| line(&info.name, info.version)).collect();
    let wanted: Vec<String> =
        expected.iter().map(|(name, facet)| line(name, facet.version)).collect();
    if found != wanted {
        return wrong(format!("it lists {found:?} where {wanted:?} is expected"));
    }
    for (info, (name, facet)) in listed.iter().zip(expected) {
        if facet.id != FacetId(0) && info.id != facet.id {
            return wrong(format!("{name} is facet {} where it was {}", info.id, facet.id));
        }
        if info.page_count != facet.content.page_count() {
            return wrong(format!(
                "{name} lists {} pages where {} were committed",
                info.page_count,
                facet.content.page_count()
            ));
        }
    }
    Ok(())
}

fn line(name: &FacetName, version: Version) -> String {
    format!("{name}@{version}")
}

pub(super) fn compare_facet(
    name: &FacetName,
    expected: &VersionState,
    store: &Store,
    view: View,
    damage: Damage,
) -> Result<(), Failure> {
    let compare = || -> Result<(), Failure> {
        let facet = match store.open_facet(name) {
            Ok(facet) => facet,
            Err(error) if damage.explains(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let snapshot = facet.snapshot(view)?;
        if snapshot.version() != expected.version {
            return wrong(format!(
                "version {} where {} is expected",
                snapshot.version(),
                expected.version
            ));
        }
        expected.content.compare_damaged_snapshot(&snapshot, damage)
    };
    compare().map_err(|difference| difference.within(format!("{name} ({view:?})")))
}

/// Compares the versions that a facet keeps with those that it should: its list of them, which of
/// them open, and what some of them hold. `latest` and `durable` are what the model has of the
/// facet with all changes, and with the acknowledged ones.
pub(super) fn compare_past(
    name: &FacetName,
    latest: &FacetState,
    durable: &FacetState,
    facet: &std::sync::Arc<Facet>,
) -> Result<(), Failure> {
    let listed = facet.versions()?;
    compare_versions(&listed, facet)
        .map_err(|difference| difference.within(format!("versions of {name}")))?;
    let middle = durable.past.len() / 2;
    let mut read = 0;
    for (index, (version, _)) in durable.past.iter().enumerate() {
        let Some(bookmark) = version.bookmark(durable.id) else { continue };
        let Some((version, kept)) = expected(latest, durable, &bookmark) else { continue };
        // Reading every page of all of them would take too long.
        let in_full = read == 0 || index == middle || index + 1 == durable.past.len();
        let opened = open_version(facet, &bookmark, version, kept, in_full)
            .map_err(|difference| difference.within(format!("{name} at {bookmark}")))?;
        read += u32::from(opened.is_some());
        if opened.is_some() != listed.iter().any(|info| info.bookmark == bookmark) {
            return wrong(format!("{name} at {bookmark} is not as its list of versions has it"));
        }
    }
    Ok(())
}

/// The version that a bookmark names, and whether it must open.
pub(super) fn expected<'a>(
    latest: &FacetState,
    durable: &'a FacetState,
    bookmark: &Bookmark,
) -> Option<(&'a VersionState, Kept)> {
    let (version, kept) = durable.find(bookmark)?;
    if version.version == durable.version {
        return Some((version, Kept::Surely));
    }
    let now = latest.find(bookmark).map_or(Kept::Maybe, |(_, kept)| kept);
    Some((version, kept.and(now)))
}

/// The list is one of versions that follow each other, as they were committed.
fn compare_versions(listed: &[VersionInfo], facet: &Facet) -> Result<(), Failure> {
    let Some(newest) = listed.first() else { return wrong("it is empty") };
    if newest.bookmark != facet.bookmark()? {
        return wrong(format!("it begins with {}", newest.bookmark));
    }
    for pair in listed.windows(2) {
        if pair[1].bookmark.version.next() != pair[0].bookmark.version
            || pair[1].bookmark >= pair[0].bookmark
        {
            return wrong(format!("{} is followed by {}", pair[0].bookmark, pair[1].bookmark));
        }
    }
    for info in listed {
        let found = facet.bookmark_at(info.wall_ms)?;
        let first = listed.iter().find(|other| other.wall_ms <= info.wall_ms);
        if first.is_none_or(|first| first.bookmark != found) {
            return wrong(format!("{found} is found by the time of {}", info.bookmark));
        }
    }
    Ok(())
}

/// Opens a version of the past, which must be what `version` says if it is there. `None` if it is
/// not, and need not be.
///
/// # Errors
/// What is not so.
pub fn open_version(
    facet: &std::sync::Arc<Facet>,
    bookmark: &Bookmark,
    version: &VersionState,
    kept: Kept,
    in_full: bool,
) -> Result<Option<Snapshot>, Failure> {
    let snapshot = match (facet.snapshot_at(bookmark), kept) {
        (Ok(_), Kept::Gone) => return wrong("it is kept, and must not be"),
        (Ok(snapshot), _) => snapshot,
        (Err(Error::BookmarkUnknown { .. }), Kept::Gone | Kept::Maybe) => return Ok(None),
        (Err(error), _) => return Err(error.into()),
    };
    if snapshot.bookmark() != *bookmark {
        return wrong(format!("it opens as {}", snapshot.bookmark()));
    }
    if snapshot.page_count() != version.content.page_count() {
        return wrong(format!(
            "it has {} pages where {} were committed",
            snapshot.page_count(),
            version.content.page_count()
        ));
    }
    if in_full {
        version.content.compare_snapshot(&snapshot)?;
    }
    Ok(Some(snapshot))
}

/// A version that was lost, or never was, must not open.
pub(super) fn refused(facet: &std::sync::Arc<Facet>, bookmark: &Bookmark) -> Result<(), Failure> {
    match facet.snapshot_at(bookmark) {
        Err(Error::BookmarkUnknown { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(snapshot) => wrong(format!(
            "{bookmark}, which a crash took, opens as {} pages of {}",
            snapshot.page_count(),
            facet.name()
        )),
    }
}
