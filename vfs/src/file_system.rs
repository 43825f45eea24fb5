//! The file system that SQLite sees: facets as main databases, scratch files for all else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lapidary_engine::{Bookmark, Error, ErrorKind, Facet, FacetName, Store};

use crate::database::{DatabaseFile, Durability, Groups};
use crate::error::{Failure, Operation};
use crate::ffi::{Generation, OPENED_BEFORE_FORK};
use crate::file::{Access, FileKind, FileSystem, OpenRequest, Opened};
use crate::gate::{GATE_PARAMETER, GateState};
use crate::names;
use crate::scratch::{ScratchFile, ScratchSpace};
use crate::side_files::{self, KnownFacets};

/// URI parameter that names the version to be read.
pub(crate) const AT_PARAMETER: &str = "at";

/// How the names of URI parameters begin that are this crate's, now or in a later release.
const OWN_PREFIX: &str = "lapidary";

/// What an error adds of something that is not there.
pub(crate) const CREATES: &str = " (SQLITE_OPEN_CREATE creates it)";

/// A store, seen as a file system.
#[derive(Debug)]
pub(crate) struct FacetFileSystem {
    store: Arc<Store>,
    scratch: ScratchSpace,
    groups: Arc<Groups>,
    gates: Mutex<HashMap<String, Weak<GateState>>>,
    generation: Generation,
}

impl FacetFileSystem {
    /// `groups` are of all stores that a connection can have facets of.
    pub(crate) fn new(store: Arc<Store>, scratch: ScratchSpace, groups: Arc<Groups>) -> Self {
        let generation = Generation::current();
        Self { store, scratch, groups, gates: Mutex::default(), generation }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn add_gate(&self, token: &str, gate: &Arc<GateState>) {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        gates.insert(token.to_owned(), Arc::downgrade(gate));
    }

    fn gate(&self, token: &str) -> Result<Arc<GateState>, Failure> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.get(token).and_then(Weak::upgrade).ok_or_else(|| {
            refused(format!(
                "URI parameter {GATE_PARAMETER}: no gate has this token; gated connections are \
                 opened with Gate::open alone"
            ))
        })
    }

    pub(crate) fn open_database(&self, request: &OpenRequest<'_>) -> Result<DatabaseFile, Failure> {
        if self.generation != Generation::current() {
            return Err(refused(format!("{}: {OPENED_BEFORE_FORK}", self.store.describe())));
        }
        let name = request
            .name
            .ok_or_else(|| refused("a main database without a name was asked for".into()))?;
        let name = names::facet_name(name)?;
        refuse_parameters(&name, request)?;
        let durability = match (request.parameter)(GATE_PARAMETER) {
            Some(token) => Durability::Gated(self.gate(&token)?),
            None => Durability::Sync,
        };
        if let Some(at) = (request.parameter)(AT_PARAMETER) {
            return self.open_version(&name, &at);
        }
        let facet = open_facet(&self.store, &name, request.access, &durability)?;
        let read_only = !request.access.write;
        let (store, groups) = (Arc::clone(&self.store), Arc::clone(&self.groups));
        Ok(DatabaseFile::new(store, groups, facet, durability, read_only))
    }

    /// Opens the version of a facet that the bookmark `at` names, for reading. Never creates one.
    fn open_version(&self, name: &FacetName, at: &str) -> Result<DatabaseFile, Failure> {
        let engine = |error| Failure::from_engine(Operation::Open, &error);
        let facet = find_facet(&self.store, name, &Durability::Sync).map_err(engine)?;
        let no_version = |reason: String| {
            refused(format!("facet {name}: URI parameter `at`: {reason}; {}", kept(&facet)))
        };
        let bookmark: Bookmark =
            at.parse().map_err(|error: Error| no_version(error.to_string()))?;
        if bookmark.facet != facet.id() {
            return Err(no_version(format!("{bookmark} is of another facet")));
        }
        let version = facet.snapshot_at(&bookmark).map_err(engine)?;
        let (store, groups) = (Arc::clone(&self.store), Arc::clone(&self.groups));
        Ok(DatabaseFile::at_version(store, groups, facet, version))
    }
}

/// What an error says of the versions that can be opened.
fn kept(facet: &Facet) -> String {
    match facet.versions().as_deref() {
        Ok([newest, .., oldest]) => {
            format!(
                "the oldest version kept is {}, the newest {}",
                oldest.bookmark, newest.bookmark
            )
        }
        Ok([only]) => format!("the only version kept is {}", only.bookmark),
        Ok([]) => "no version is kept".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Finds the facet `name`. It tells of how it came by its name, so that is durable on return, unless
/// a gate holds back what it tells.
fn find_facet(
    store: &Store,
    name: &FacetName,
    durability: &Durability,
) -> Result<Arc<Facet>, Error> {
    let facet = store.open_facet(name)?;
    let named = facet.name_ticket();
    if matches!(durability, Durability::Sync) && !store.is_durable(named)? {
        store.wait_durable(named)?;
    }
    Ok(facet)
}

/// Finds or creates the facet `name`, as `access` has it.
pub(crate) fn open_facet(
    store: &Store,
    name: &FacetName,
    access: Access,
    durability: &Durability,
) -> Result<Arc<Facet>, Failure> {
    let found = || find_facet(store, name, durability);
    let opened = match access {
        Access { create: true, exclusive: true, .. } => store.create_facet(name),
        Access { create: true, .. } => match found() {
            Err(Error::FacetNotFound { .. }) => match store.create_facet(name) {
                // Somebody else was faster.
                Err(Error::FacetExists { .. }) => found(),
                created => created,
            },
            found => found,
        },
        _ => found(),
    };
    opened.map_err(|error: Error| {
        let mut failure = Failure::from_engine(Operation::Open, &error);
        if error.kind() == ErrorKind::NotFound {
            failure.message.push_str(CREATES);
        }
        failure
    })
}

fn refused(message: String) -> Failure {
    Failure::of(Operation::Open, message)
}

/// Refuses URI parameters that would make SQLite do without what a facet needs, and those that look
/// like this crate's own but are not. SQLite ignores what it does not know, and who meant to read the
/// past, or to use what only a later release has, would get something else without a word.
fn refuse_parameters(name: &FacetName, request: &OpenRequest<'_>) -> Result<(), Failure> {
    for (key, reason) in [
        ("nolock", "locks pin the version that is read; leave the parameter out"),
        ("immutable", "facets change; use `mode=ro` to open one for reading"),
    ] {
        if (request.parameter)(key).is_some_and(|value| is_true(&value)) {
            return Err(refused(format!(
                "facet {name}: URI parameter `{key}` is refused: {reason}"
            )));
        }
    }
    for key in (request.parameter_names)() {
        if looks_own(&key) && ![AT_PARAMETER, GATE_PARAMETER].contains(&key.as_str()) {
            let key: String = key.chars().take(64).collect();
            return Err(refused(format!(
                "facet {name}: URI parameter `{key}` is refused: no such parameter; this release \
                 has `{AT_PARAMETER}`, in lower case"
            )));
        }
    }
    Ok(())
}

/// Whether a parameter was meant for this crate.
fn looks_own(key: &str) -> bool {
    let prefix = key.get(..OWN_PREFIX.len());
    key.eq_ignore_ascii_case(AT_PARAMETER)
        || prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(OWN_PREFIX))
}

/// As `sqlite3_uri_boolean` has it: a number that is not zero, or `yes`, `true`, `on`.
fn is_true(value: &str) -> bool {
    let is_nonzero = value.bytes().next().is_some_and(|digit| digit.is_ascii_digit())
        && value.bytes().take_while(u8::is_ascii_digit).any(|digit| digit != b'0');
    is_nonzero || ["yes", "true", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

impl FileSystem for FacetFileSystem {
    type Database = DatabaseFile;
    type Scratch = ScratchFile;

    fn open(
        &self,
        request: &OpenRequest<'_>,
    ) -> Result<Opened<DatabaseFile, ScratchFile>, Failure> {
        match request.kind {
            FileKind::MainDatabase => self.open_database(request).map(Opened::Database),
            _ => side_files::open(request, &self.scratch, &self.groups, || {
                let store = Arc::clone(&self.store);
                KnownFacets::new(move |name| store.facet_exists(name))
            })
            .map(Opened::Scratch),
        }
    }

    fn delete(&self, name: &str, sync_directory: bool) -> Result<(), Failure> {
        side_files::delete(name, sync_directory, &self.groups)
    }

    fn exists(&self, name: &str) -> bool {
        // A side file that were seen would be taken for a hot journal, and played back.
        !names::is_side_file(name)
            && FacetName::new(name).is_ok_and(|name| self.store.facet_exists(&name))
    }

    fn full_name(&self, name: &str) -> Result<String, Failure> {
        names::facet_name(name).map(|name| name.as_str().to_owned())
    }

    fn name_bytes_max(&self) -> usize {
        names::PATH_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::is_true;

    #[test]
    fn booleans_as_sqlite_reads_them() {
        for value in ["1", "2", "10", "yes", "TRUE", "On"] {
            assert!(is_true(value), "{value}");
        }
        for value in ["0", "00", "", "no", "false", "off", "x"] {
            assert!(!is_true(value), "{value}");
        }
    }
}
