//! A bucket by the crate `object_store`: S3 and what is compatible with it, a local directory, memory.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, UpdateVersion,
};
use tokio::runtime::Runtime;

use super::error::{BucketError, Result};
use super::objects::{Condition, ObjectError, ObjectErrorKind, Objects, Tag};

/// A request of few bytes, with all its retries, ends after this.
const SMALL_TIME_MAX: Duration = Duration::from_secs(4);
/// Any other does after this.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What counts as few.
const SMALL_BYTES: u64 = 1 << 20;
/// File of a local directory that is locked while an object is replaced on a condition.
const LOCK: &str = "LOCK";

/// [`Objects`] in a bucket that the crate `object_store` can reach. Clones share it.
///
/// Requests run on threads of its own, so that it can be used from threads of any kind.
#[derive(Clone)]
pub struct RemoteObjects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    describe: String,
    /// Of a local directory, which cannot replace an object on a condition by itself.
    lock: Option<PathBuf>,
    threads: Arc<Threads>,
}

struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be dropped by a thread that must not wait.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for RemoteObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteObjects({})", self.describe)
    }
}

impl RemoteObjects {
    /// The bucket, or the part of one below a prefix, that `url` names:
    ///
    /// - `s3://BUCKET/PREFIX`: S3 or what is compatible with it. Credentials, region and endpoint come
    ///   from the environment, as other programs have them (`AWS_ACCESS_KEY_ID`,
    ///   `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP` and so on). It must
    ///   support conditional writes (`If-None-Match`, `If-Match`).
    /// - `file:///DIRECTORY`: a local directory, which is created. For trying things out, and for
    ///   directories that one machine alone writes to: what keeps hosts apart is a file lock.
    ///
    /// Nothing is asked of the bucket yet.
    ///
    /// # Errors
    /// [`InvalidInput`](BucketError::InvalidInput) if it cannot be understood; a directory or threads
    /// that cannot be had.
    pub fn open(url: &str) -> Result<Self> {
        Self::open_or_create(url, true)
    }

    /// As [`open`](Self::open), for who only reads: a local directory is not created.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`NoStore`](BucketError::NoStore) if there is no such directory.
    pub fn open_to_read(url: &str) -> Result<Self> {
        Self::open_or_create(url, false)
    }

    fn open_or_create(url: &str, create: bool) -> Result<Self> {
        let wrong = |what: &dyn fmt::Display| {
            BucketError::InvalidInput(format!(
                "{url}: {what}; use `s3://BUCKET/PREFIX` or `file:///DIRECTORY`"
            ))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(&"it is no address"))?;
        match scheme {
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let options = ClientOptions::new()
                    .with_timeout(TIME_MAX)
                    .with_connect_timeout(Duration::from_secs(2));
                let retries = RetryConfig {
                    max_retries: 3,
                    retry_timeout: SMALL_TIME_MAX,
                    ..RetryConfig::default()
                };
                let allow_http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
                let store = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_conditional_put(S3ConditionalPut::ETagMatch)
                    .with_client_options(options.with_allow_http(allow_http))
                    .with_retry(retries)
                    .build()
                    .map_err(|error| wrong(&error))?;
                let prefix = Path::parse(prefix).map_err(|error| wrong(&error))?;
                Self::new(Arc::new(store), prefix, url.to_owned(), None)
            }
            "file" => {
                let directory = PathBuf::from(rest);
                let failed = |source| BucketError::Local {
                    operation: "create",
                    path: directory.display().to_string(),
                    source,
                };
                if create {
                    std::fs::create_dir_all(&directory).map_err(failed)?;
                } else if !directory.is_dir() {
                    return Err(BucketError::NoStore { bucket: url.to_owned() });
                }
                let store =
                    LocalFileSystem::new_with_prefix(&directory).map_err(|error| wrong(&error))?;
                let lock = Some(directory.join(LOCK));
                let store = Arc::new(store.with_fsync(true));
                Self::new(store, Path::default(), url.to_owned(), lock)
            }
            _ => Err(wrong(&"its scheme is unknown")),
        }
    }

    /// A bucket in memory, for tests and examples. Clones share it.
    ///
    /// # Errors
    /// Threads that cannot be had.
    pub fn in_memory() -> Result<Self> {
        Self::new(Arc::new(InMemory::new()), Path::default(), "memory".to_owned(), None)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        describe: String,
        lock: Option<PathBuf>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lapidary-bucket")
            .enable_all()
            .build()
            .map_err(|source| BucketError::Local {
                operation: "start threads for",
                path: describe.clone(),
                source,
            })?;
        Ok(Self { store, prefix, describe, lock, threads: Arc::new(Threads(Some(runtime))) })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn error(
        &self,
        kind: ObjectErrorKind,
        operation: &'static str,
        name: &str,
        detail: &dyn fmt::Display,
    ) -> ObjectError {
        let (name, bucket) = (name.to_owned(), self.describe.clone());
        ObjectError { kind, operation, name, bucket, detail: detail.to_string() }
    }

    /// Runs a request on the own threads and waits for it.
    fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        time_max: Duration,
        request: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let runtime = self.threads.0.as_ref().expect("threads are there until the last clone goes");
        runtime.spawn(async move {
            // An error means that nobody waits any more.
            let _ = answer.send(tokio::time::timeout(time_max, request).await);
        });
        let unclear = |detail: &dyn fmt::Display| {
            self.error(ObjectErrorKind::Unclear, operation, name, detail)
        };
        match answered.recv() {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(error))) => Err(self.error(kind_of(&error), operation, name, &error)),
            Ok(Err(_)) => Err(unclear(&format_args!("no answer within {} s", time_max.as_secs()))),
            Err(_) => Err(unclear(&"the request was given up")),
        }
    }

    fn tag(
        &self,
        operation: &'static str,
        name: &str,
        tag: Option<String>,
    ) -> Result<Tag, ObjectError> {
        let missing =
            || self.error(ObjectErrorKind::Refused, operation, name, &"it gives objects no ETag");
        tag.map(Tag).ok_or_else(missing)
    }

    /// Of a local directory: held while somebody replaces an object on a condition.
    fn hold_lock(&self, operation: &'static str, name: &str) -> Result<Option<File>, ObjectError> {
        let Some(path) = &self.lock else { return Ok(None) };
        let lock = || -> io::Result<File> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            file.lock()?;
            Ok(file)
        };
        lock()
            .map(Some)
            .map_err(|error| self.error(ObjectErrorKind::Unclear, operation, name, &error))
    }
}

fn kind_of(error: &StoreError) -> ObjectErrorKind {
    match error {
        StoreError::NotFound { .. } => ObjectErrorKind::NotFound,
        StoreError::Precondition { .. } | StoreError::AlreadyExists { .. } => {
            ObjectErrorKind::Condition
        }
        StoreError::PermissionDenied { .. }
        | StoreError::Unauthenticated { .. }
        | StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::InvalidPath { .. }
        | StoreError::UnknownConfigurationKey { .. } => ObjectErrorKind::Refused,
        _ => ObjectErrorKind::Unclear,
    }
}

fn time_max(bytes: u64) -> Duration {
    if bytes <= SMALL_BYTES { SMALL_TIME_MAX } else { TIME_MAX }
}

impl Objects for RemoteObjects {
    fn describe(&self) -> String {
        self.describe.clone()
    }

    fn get(&self, name: &str) -> Result<(Vec<u8>, Tag), ObjectError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let (bytes, tag) = self.run("get", name, SMALL_TIME_MAX, async move {
            let found = store.get_opts(&path, GetOptions::default()).await?;
            let tag = found.meta.e_tag.clone();
            Ok((found.bytes().await?, tag))
        })?;
        Ok((bytes.to_vec(), self.tag("get", name, tag)?))
    }

    fn get_if_changed(&self, name: &str, tag: &Tag) -> Result<Option<(Vec<u8>, Tag)>, ObjectError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let unless = GetOptions { if_none_match: Some(tag.0.clone()), ..GetOptions::default() };
        let found = self.run("get", name, SMALL_TIME_MAX, async move {
            let found = match store.get_opts(&path, unless).await {
                Err(StoreError::NotModified { .. }) => return Ok(None),
                found => found?,
            };
            let tag = found.meta.e_tag.clone();
            Ok(Some((found.bytes().await?, tag)))
        })?;
        let Some((bytes, found)) = found else { return Ok(None) };
        let found = self.tag("get", name, found)?;
        Ok((found != *tag).then(|| (bytes.to_vec(), found)))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let time_max = time_max(range.end.saturating_sub(range.start));
        let bytes =
            self.run("get", name, time_max, async move { store.get_range(&path, range).await })?;
        Ok(bytes.to_vec())
    }

    fn put(&self, name: &str, bytes: &[u8], condition: Condition<'_>) -> Result<Tag, ObjectError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let _lock = match condition {
            Condition::Always => None,
            Condition::Absent | Condition::Unchanged(_) => self.hold_lock("put", name)?,
        };
        let mode = match condition {
            Condition::Always => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(tag) if self.lock.is_some() => {
                let (_, there) = self.get(name)?;
                if there != *tag {
                    let changed = "it has changed";
                    return Err(self.error(ObjectErrorKind::Condition, "put", name, &changed));
                }
                PutMode::Overwrite
            }
            Condition::Unchanged(tag) => {
                PutMode::Update(UpdateVersion { e_tag: Some(tag.0.clone()), version: None })
            }
        };
        let payload = PutPayload::from(bytes.to_vec());
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.run("put", name, time_max(bytes.len() as u64), async move {
            store.put_opts(&path, payload, options).await
        })?;
        self.tag("put", name, put.e_tag)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        Ok(self.list_with_bytes(prefix)?.into_iter().map(|(name, _)| name).collect())
    }

    fn list_with_bytes(&self, prefix: &str) -> Result<Vec<(String, u64)>, ObjectError> {
        let (store, within) = (Arc::clone(&self.store), self.path(prefix.trim_end_matches('/')));
        let found: Vec<_> = self.run("list", prefix, TIME_MAX, async move {
            store.list(Some(&within)).map_ok(|meta| (meta.location, meta.size)).try_collect().await
        })?;
        let own = |(path, bytes): (Path, u64)| {
            let parts: Option<Vec<String>> = path
                .prefix_match(&self.prefix)
                .map(|parts| parts.map(|part| part.as_ref().to_owned()).collect());
            parts.map(|parts| (parts.join("/"), bytes))
        };
        Ok(found.into_iter().filter_map(own).collect())
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        match self.run("delete", name, SMALL_TIME_MAX, async move { store.delete(&path).await }) {
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every kind of bucket has to do.
    fn conforms(objects: &dyn Objects) {
        let kind = |result: Result<Tag, ObjectError>| result.unwrap_err().kind;
        let one = objects.put("manifest", b"one", Condition::Absent).unwrap();
        assert_eq!(
            kind(objects.put("manifest", b"x", Condition::Absent)),
            ObjectErrorKind::Condition
        );
        assert_eq!(objects.get("manifest").unwrap(), (b"one".to_vec(), one.clone()));
        let two = objects.put("manifest", b"two", Condition::Unchanged(&one)).unwrap();
        assert_ne!(one, two);
        let stale = objects.put("manifest", b"x", Condition::Unchanged(&one));
        assert_eq!(kind(stale), ObjectErrorKind::Condition);
        assert_eq!(objects.get("manifest").unwrap(), (b"two".to_vec(), two.clone()));
        assert_eq!(objects.get_if_changed("manifest", &two).unwrap(), None);
        let changed = objects.get_if_changed("manifest", &one).unwrap();
        assert_eq!(changed, Some((b"two".to_vec(), two)));
        let missing = objects.get_if_changed("objects/1-1", &one).unwrap_err();
        assert_eq!(missing.kind, ObjectErrorKind::NotFound);

        let missing = objects.get("objects/1-1").unwrap_err();
        assert_eq!(missing.kind, ObjectErrorKind::NotFound);
        objects.put("objects/1-1", b"0123456789", Condition::Always).unwrap();
        objects.put("objects/1-1", b"0123456789", Condition::Always).unwrap();
        assert_eq!(objects.get_range("objects/1-1", 2..5).unwrap(), b"234");
        assert_eq!(objects.list("objects/").unwrap(), ["objects/1-1"]);
        let sizes = objects.list_with_bytes("objects/").unwrap();
        assert_eq!(sizes, [("objects/1-1".to_owned(), 10)]);
        objects.delete("objects/1-1").unwrap();
        objects.delete("objects/1-1").unwrap();
        assert!(objects.list("objects/").unwrap().is_empty());
    }

    #[test]
    fn memory_and_directories_do_what_a_bucket_has_to() {
        conforms(&RemoteObjects::in_memory().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file://{}/bucket", directory.path().display());
        conforms(&RemoteObjects::open(&url).unwrap());
    }

    #[test]
    fn of_writers_that_race_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file://{}", directory.path().display());
        for objects in [RemoteObjects::in_memory().unwrap(), RemoteObjects::open(&url).unwrap()] {
            let mut tag = objects.put("manifest", b"0", Condition::Absent).unwrap();
            for round in 0..20_u8 {
                let won: Vec<Tag> = std::thread::scope(|scope| {
                    let race = |writer: u8| {
                        let (objects, tag) = (objects.clone(), &tag);
                        scope.spawn(move || {
                            let bytes = [round, writer];
                            objects.put("manifest", &bytes, Condition::Unchanged(tag)).ok()
                        })
                    };
                    let writers: Vec<_> = (0..4).map(race).collect();
                    writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
                });
                assert_eq!(won.len(), 1);
                tag = won[0].clone();
            }
        }
    }

    #[test]
    fn addresses_that_cannot_be_understood_are_refused() {
        for url in ["", "bucket", "ftp://x/y"] {
            let error = RemoteObjects::open(url).unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }
}
