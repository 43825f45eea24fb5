//! Files from a store that may not open any more.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lapidary_engine::{Environment, FacetName, PageNo, SalvageSink, Salvaged, Store};

use super::new_file::NewFile;
use super::{FileError, file_path_of};
use crate::error::Result;

/// A file that salvage has written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvagedFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it was made from. Pages in `damaged` are zeros in the file.
    pub facet: Salvaged,
}

/// What [`salvage`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvagedFiles {
    /// The files, in the order in which they were written.
    pub files: Vec<SalvagedFile>,
    /// Why the store could not be opened; `None` if it could.
    pub refused: Option<String>,
    /// What else was in the way.
    pub notes: Vec<String>,
}

/// Writes everything that can still be read of the store at `store`, which no process has open, to
/// SQLite files in `directory`, without changing a byte of the store. The directory must be empty or
/// missing. A facet's file is at [`file_path_of`] its name; one whose name is lost, or was found before,
/// is called by its number. `found` is told of each before it is written.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let store = directory.path().join("store");
/// # let host = Host::open(&store, HostConfig::new())?;
/// # host.facet("tenants/acme")?.execute("CREATE TABLE t(x)", ()).wait()?;
/// # host.shutdown()?;
/// let out = directory.path().join("salvaged");
/// let salvaged = lapidary::salvage(&store, &out, &mut |_| ())?;
/// assert_eq!(salvaged.files[0].path, out.join("tenants/acme.sqlite"));
/// assert!(salvaged.files[0].facet.damaged.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// There is no store, another process has it open, or a newer release wrote it;
/// [`AlreadyExists`](crate::HostErrorKind::AlreadyExists) if the directory is not empty; a file
/// cannot be written. Damage is no error.
pub fn salvage(
    store: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    found: &mut dyn FnMut(&Salvaged),
) -> Result<SalvagedFiles> {
    let directory = directory.as_ref();
    fs::create_dir_all(directory).map_err(FileError::io("create", directory))?;
    let mut entries = fs::read_dir(directory).map_err(FileError::io("read", directory))?;
    if entries.next().is_some() {
        return Err(FileError::Exists { path: directory.to_owned() }.into());
    }
    let mut sink = Sink { directory, found, file: None, taken: HashSet::new(), files: Vec::new() };
    let report = Store::salvage(Environment::system(store), &mut sink)?;
    Ok(SalvagedFiles { files: sink.files, refused: report.refused, notes: report.notes })
}

struct Sink<'a> {
    directory: &'a Path,
    found: &'a mut dyn FnMut(&Salvaged),
    file: Option<NewFile>,
    taken: HashSet<PathBuf>,
    files: Vec<SalvagedFile>,
}

impl Sink<'_> {
    /// A path that no other facet has been given.
    fn place(&mut self, facet: &Salvaged) -> PathBuf {
        let name = facet.name.as_ref().and_then(|name| FacetName::new(name).ok());
        let by_name = name.as_ref().map(file_path_of).filter(|path| !self.taken.contains(path));
        let place =
            by_name.unwrap_or_else(|| PathBuf::from(format!("facet-{}.sqlite", facet.facet)));
        self.taken.insert(place.clone());
        self.directory.join(place)
    }
}

impl SalvageSink for Sink<'_> {
    fn begin(&mut self, facet: &Salvaged) -> io::Result<()> {
        (self.found)(facet);
        let place = self.place(facet);
        if let Some(directory) = place.parent() {
            fs::create_dir_all(directory)?;
        }
        self.file = Some(NewFile::create(&place, false).map_err(io::Error::other)?);
        Ok(())
    }

    fn page(&mut self, _: PageNo, image: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.append(image).map_err(io::Error::other),
            None => Ok(()),
        }
    }

    fn end(&mut self, facet: &Salvaged) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            let path = file.target().to_owned();
            file.sync().and_then(|_| file.finish()).map_err(io::Error::other)?;
            self.files.push(SalvagedFile { path, facet: facet.clone() });
        }
        Ok(())
    }
}
