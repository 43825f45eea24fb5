//! What goes for facets by their names: forks, quotas, retentions.

use lapidary_engine::{FacetName, ForkFrom, QuotaInfo, Retention, Store};

use crate::call::Call;
use crate::core_thread::Core;
use crate::error::Result;
use crate::host::{Host, checked};
use crate::schedule::Scope;

impl Host {
    /// Creates the facet `to`, which begins with what `from` has in the version asked for. It takes
    /// no time or space for what that holds: pages are shared until one side writes them, and either
    /// side can be deleted. Facets below `from` are not forked with it.
    ///
    /// Calls made on `from` before it run first, and [`ForkFrom::Latest`] has what they did. A call on
    /// a core that names `to` before it has created that facet, so that the fork fails.
    ///
    /// The call fails with [`NotFound`](crate::HostErrorKind::NotFound) if there is nothing named
    /// `from` or that version of it is not kept, with
    /// [`AlreadyExists`](crate::HostErrorKind::AlreadyExists) if there is something named `to`, and
    /// with [`NoSpace`](crate::HostErrorKind::NoSpace) if a quota has no room for it: there, shared
    /// pages count like others.
    ///
    /// ```
    /// # use lapidary::{ForkFrom, Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let template = host.facet("template")?;
    /// template.execute("CREATE TABLE note(body)", ()).wait()?;
    /// let forks: Vec<_> = (0..100)
    ///     .map(|n| host.fork("template", format!("agents/{n}"), ForkFrom::Latest))
    ///     .collect();
    /// for fork in forks {
    ///     fork.wait()?; // one sync for many of them
    /// }
    /// host.facet("agents/42")?.execute("INSERT INTO note VALUES ('mine')", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fork(&self, from: impl AsRef<str>, to: impl AsRef<str>, version: ForkFrom) -> Call<()> {
        let (from, to) = match (checked(from.as_ref()), checked(to.as_ref())) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return Call::failed(error),
        };
        let scopes = vec![Scope::facet(&from), Scope::facet(&to)];
        self.on_name(&from.clone(), scopes, move |store| {
            store.fork_facet(&from, &to, version)?;
            Ok(())
        })
    }

    /// Forks the facet `from` and everything below it, all as of one moment: what is called
    /// `from/x` is forked to `to/x`. With a bookmark, which is of a facet within `from`, all of them
    /// begin with what they were when that version was committed (not when the bookmark was asked
    /// for), and those that did not exist then are left out. Returns the names of the forks, in order.
    ///
    /// Otherwise as [`fork`](Self::fork), and with
    /// [`InvalidInput`](crate::HostErrorKind::InvalidInput) if `to` is within `from`.
    ///
    /// ```
    /// # use lapidary::{ForkFrom, Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("site")?.execute("CREATE TABLE page(body)", ()).wait()?;
    /// host.facet("site/comments")?.execute("CREATE TABLE comment(body)", ()).wait()?;
    /// let forks = host.fork_subtree("site", "preview", ForkFrom::Latest).wait()?;
    /// let names: Vec<_> = forks.iter().map(|name| name.as_str()).collect();
    /// assert_eq!(names, ["preview", "preview/comments"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fork_subtree(
        &self,
        from: impl AsRef<str>,
        to: impl AsRef<str>,
        version: ForkFrom,
    ) -> Call<Vec<FacetName>> {
        let (from, to) = match (checked(from.as_ref()), checked(to.as_ref())) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return Call::failed(error),
        };
        let scopes = vec![Scope::subtree(&from), Scope::subtree(&to)];
        self.on_name(&from.clone(), scopes, move |store| {
            let (facets, _) = store.fork_subtree(&from, &to, version)?;
            Ok(facets.iter().map(|facet| facet.name()).collect())
        })
    }

    /// Limits the bytes of pages that the facet `name` and everything below it may have together, or
    /// lifts that limit. There need not be such a facet yet. History does not count.
    ///
    /// A transaction that would exceed a quota fails with
    /// [`NoSpace`](crate::HostErrorKind::NoSpace) and is rolled back whole; other facets are not
    /// concerned. One that has more already can still shrink.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_quota("tenants/acme", Some(1 << 20)).wait()?;
    /// let agent = host.facet("tenants/acme/7")?;
    /// agent.execute("CREATE TABLE t(x)", ()).wait()?;
    /// let error = agent.execute("INSERT INTO t VALUES (zeroblob(2000000))", ()).wait().unwrap_err();
    /// assert_eq!(error.kind(), HostErrorKind::NoSpace);
    /// agent.execute("INSERT INTO t VALUES (zeroblob(20000))", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_quota(&self, name: impl AsRef<str>, bytes: Option<u64>) -> Call<()> {
        self.on_checked(name.as_ref(), move |store, name| {
            store.set_quota(name, bytes)?;
            Ok(())
        })
    }

    /// The quota that was set on `name` itself, and what of it is used.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_quota("tenants/acme", Some(1 << 20)).wait()?;
    /// host.facet("tenants/acme/7")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// let quota = host.quota("tenants/acme").wait()?.expect("it was set");
    /// assert_eq!((quota.used_bytes, quota.limit_bytes), (8192, 1 << 20));
    /// assert!(host.quota("tenants").wait()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn quota(&self, name: impl AsRef<str>) -> Call<Option<QuotaInfo>> {
        self.on_checked(name.as_ref(), |store, name| Ok(store.quota(name)))
    }

    /// Says how much history the facet `name` and everything below it keep, unless a name further
    /// down says otherwise; `None`: what the name above says, or the default of the store's
    /// [`Tunables`](crate::Tunables). There need not be such a facet yet.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// use std::time::Duration;
    ///
    /// let week = Retention { bytes: 1 << 30, age: Duration::from_secs(7 * 24 * 3600) };
    /// host.set_retention("tenants", Some(week)).wait()?;
    /// let acme = host.facet("tenants/acme")?;
    /// acme.execute("CREATE TABLE t(x)", ()).wait()?;
    /// let before = acme.bookmark().wait()?;
    /// acme.execute("DROP TABLE t", ()).wait()?;
    /// acme.restore(before).wait()?;
    /// acme.execute("INSERT INTO t VALUES (1)", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_retention(&self, name: impl AsRef<str>, retention: Option<Retention>) -> Call<()> {
        self.on_checked(name.as_ref(), move |store, name| {
            store.set_retention(name, retention)?;
            Ok(())
        })
    }

    /// The retention that was set on `name` itself.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Retention};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// assert!(host.retention("tenants").wait()?.is_none());
    /// let hour = Retention { bytes: 1 << 20, age: std::time::Duration::from_secs(3600) };
    /// host.set_retention("tenants", Some(hour)).wait()?;
    /// assert_eq!(host.retention("tenants").wait()?.map(|kept| kept.bytes), Some(1 << 20));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retention(&self, name: impl AsRef<str>) -> Call<Option<Retention>> {
        self.on_checked(name.as_ref(), |store, name| Ok(store.retention(name)))
    }

    fn on_checked<T, F>(&self, name: &str, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Store, &FacetName) -> Result<T> + Send + 'static,
    {
        match checked(name) {
            Ok(name) => {
                let scopes = vec![Scope::subtree(&name)];
                self.on_name(&name.clone(), scopes, move |store| body(store, &name))
            }
            Err(error) => Call::failed(error),
        }
    }

    /// Runs `body` on the core in charge of `name`, after all calls made on `scopes` before.
    fn on_name<T, F>(&self, name: &FacetName, scopes: Vec<Scope>, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T> + Send + 'static,
    {
        self.target(name).call_over(scopes, move |core: &mut Core| core.on_catalog(&[], body))
    }
}
