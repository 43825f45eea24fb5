//! The past of a facet: bookmarks, reading at one, going back to one.

use std::sync::Arc;

use lapidary_engine::{Bookmark, Facet, RootHash, VersionInfo, View};
use lapidary_vfs::ROOT_HASH_MASK;
use rusqlite::Connection;

use crate::call::Call;
use crate::core_thread::Core;
use crate::error::{HostError, Result};
use crate::facet::FacetHandle;

impl FacetHandle {
    /// Names the version that the calls made on the facet before this one have led to. The bookmark
    /// comes when that version is durable, so no crash can take it; it can be kept outside, and is
    /// good for as long as [retention](crate::Host::set_retention) keeps the version.
    ///
    /// The call fails with [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet;
    /// none is created.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let day = Retention { bytes: 1 << 30, age: Duration::from_secs(24 * 3600) };
    /// host.set_retention("agents", Some(day)).wait()?;
    /// let agent = host.facet("agents/42")?;
    /// agent.execute("CREATE TABLE note(body)", ()).wait()?;
    /// agent.execute("INSERT INTO note VALUES ('keep')", ()).wait()?;
    ///
    /// let before = agent.bookmark().wait()?;
    /// agent.execute("DELETE FROM note", ()).wait()?;
    /// let count = |connection: &rusqlite::Connection| {
    ///     Ok(connection.query_row("SELECT count(*) FROM note", (), |row| row.get::<_, i64>(0))?)
    /// };
    /// assert_eq!(agent.read_at(before, count)?, 1);
    ///
    /// let undo = agent.restore(before).wait()?;
    /// assert_eq!(agent.read(count)?, 1);
    /// agent.restore(undo).wait()?;
    /// assert_eq!(agent.read(count)?, 0);
    /// # use lapidary::rusqlite;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bookmark(&self) -> Call<Bookmark> {
        self.on_versions(false, |facet| Ok(facet.snapshot(View::Latest)?.bookmark()))
    }

    /// Makes the version that `bookmark` names the newest one, as a commit of its own: calls made
    /// before it run first, those made after it see what it restored, and so do readers once it is
    /// acknowledged. Returns the bookmark of the version that was the newest before; restoring that
    /// undoes this. Time and space are those for what was changed since, not for the facet's size.
    ///
    /// The call fails, and nothing is changed, with [`NotFound`](crate::HostErrorKind::NotFound) if
    /// there is no such facet or that version of it is not kept, with
    /// [`Retry`](crate::HostErrorKind::Retry) if a plain connection is writing to it, and with
    /// [`NoSpace`](crate::HostErrorKind::NoSpace) if a quota or the disk does not have the room.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// # use std::time::Duration;
    /// # let day = Retention { bytes: 1 << 30, age: Duration::from_secs(24 * 3600) };
    /// # host.set_retention("agents", Some(day)).wait()?;
    /// let agent = host.facet("agents/42")?;
    /// agent.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep')").wait()?;
    /// let before = agent.bookmark().wait()?;
    /// agent.execute("DELETE FROM note", ()).wait()?;
    /// let undo = agent.restore(before).wait()?;
    /// let count = || agent.query("SELECT count(*) FROM note", (), |row| row.get::<_, i64>(0)).wait();
    /// assert_eq!(count()?, [1]);
    /// agent.restore(undo).wait()?;
    /// assert_eq!(count()?, [0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore(&self, bookmark: Bookmark) -> Call<Bookmark> {
        // The core's writer connection keeps the facet's lock from one transaction to the next, and
        // what it has in its cache.
        let (alarms, core) = (Arc::clone(&self.target.host.alarms), self.target.core());
        self.on_versions(true, move |facet| {
            // Before: once it is restored, no crash may leave its alarms unheard of.
            alarms.look_soon(core, facet.id())?;
            Ok(facet.restore(&bookmark)?.undo)
        })
    }

    /// Names the version that was the newest at a moment, in milliseconds since the Unix epoch: the
    /// last one committed at or before it. Runs on the calling thread and knows of what is durable,
    /// as [`read`](Self::read) does.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// # use std::time::Duration;
    /// # let day = Retention { bytes: 1 << 30, age: Duration::from_secs(24 * 3600) };
    /// # host.set_retention("agents", Some(day)).wait()?;
    /// let agent = host.facet("agents/42")?;
    /// agent.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep')").wait()?;
    /// use std::time::SystemTime;
    ///
    /// let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    /// let newest = agent.bookmark_at(u64::try_from(now.as_millis())?)?;
    /// assert_eq!(newest, agent.bookmark().wait()?);
    /// assert!(agent.bookmark_at(0).is_err(), "there was no version then");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet, or if that version is
    /// not kept.
    pub fn bookmark_at(&self, wall_ms: u64) -> Result<Bookmark> {
        self.with_facet(|facet| Ok(facet.bookmark_at(wall_ms)?))
    }

    /// The versions that are kept, newest first, from the newest durable one on. Runs on the calling
    /// thread, as [`read`](Self::read) does.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// # use std::time::Duration;
    /// # let day = Retention { bytes: 1 << 30, age: Duration::from_secs(24 * 3600) };
    /// # host.set_retention("agents", Some(day)).wait()?;
    /// let agent = host.facet("agents/42")?;
    /// agent.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep')").wait()?;
    /// let versions = agent.versions()?;
    /// assert_eq!(versions[0].bookmark, agent.bookmark().wait()?);
    /// for version in &versions {
    ///     println!("{}: {} pages, committed at {} ms", version.bookmark, version.page_count, version.wall_ms);
    /// }
    /// assert!(versions.len() > 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet.
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        self.with_facet(|facet| Ok(facet.versions()?))
    }

    /// Runs `body` on the calling thread over a read-only connection to the version that `bookmark`
    /// names. That stays readable for as long as `body` runs, whatever is done to the facet.
    ///
    /// It opens a connection each time, unlike [`read`](Self::read).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// # use std::time::Duration;
    /// # let day = Retention { bytes: 1 << 30, age: Duration::from_secs(24 * 3600) };
    /// # host.set_retention("agents", Some(day)).wait()?;
    /// let agent = host.facet("agents/42")?;
    /// agent.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep')").wait()?;
    /// let before = agent.bookmark().wait()?;
    /// agent.execute("UPDATE note SET body = 'changed'", ()).wait()?;
    /// let body: String = agent.read_at(before, |connection| {
    ///     Ok(connection.query_row("SELECT body FROM note", (), |row| row.get(0))?)
    /// })?;
    /// assert_eq!(body, "keep");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of `body`; [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet or
    /// that version of it is not kept.
    pub fn read_at<T, F>(&self, bookmark: Bookmark, body: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T>,
    {
        self.settled(|host| host.readers.read_at(&self.name, &bookmark, body))
    }

    /// The hash over the content of the newest durable version: that of any other facet or file with
    /// the same pages. See [`root_hash_of_file`](lapidary_vfs::root_hash_of_file). Runs on the calling
    /// thread, and reads and checks every page.
    ///
    /// ```
    /// # use lapidary::{ForkFrom, Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("template")?.execute("CREATE TABLE note(body)", ()).wait()?;
    /// host.fork("template", "agents/42", ForkFrom::Latest).wait()?;
    /// let (template, agent) = (host.facet("template")?, host.facet("agents/42")?);
    /// assert_eq!(template.root_hash()?, agent.root_hash()?);
    /// agent.execute("INSERT INTO note VALUES ('mine')", ()).wait()?;
    /// assert_ne!(template.root_hash()?, agent.root_hash()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet;
    /// [`Corruption`](crate::HostErrorKind::Corruption) if a page is not what was written.
    pub fn root_hash(&self) -> Result<RootHash> {
        self.with_facet(|facet| Ok(facet.snapshot(View::Durable)?.root_hash(&ROOT_HASH_MASK)?))
    }

    /// Runs `body` on the facet's core, where the writer connection stands aside if `alone`.
    fn on_versions<T, F>(&self, alone: bool, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Facet>) -> Result<T> + Send + 'static,
    {
        let name = self.name.clone();
        self.target.call_on(self.terms, move |core: &mut Core| core.on_versions(&name, alone, body))
    }

    /// Runs `body` on the calling thread.
    pub(crate) fn with_facet<T>(&self, body: impl FnOnce(&Arc<Facet>) -> Result<T>) -> Result<T> {
        self.settled(|host| {
            let facet = host.readers.facet(&self.name);
            facet
                .and_then(|facet| body(&facet))
                .map_err(|error: HostError| error.within(&self.name))
        })
    }
}
