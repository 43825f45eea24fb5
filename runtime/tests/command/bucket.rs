//! `bucket`: stores in a bucket that is a directory.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lapidary::bucket::{Bucket, BucketSettings, Objects, RemoteObjects};
use lapidary::{Environment, Host, HostConfig};

use super::Place;

impl Place {
    fn url(&self) -> String {
        format!("file://{}", self.path("bucket").display())
    }

    /// A host in the directory `local` that serves the store in the bucket.
    fn host(&self) -> Host {
        self.host_that_keeps(None)
    }

    /// The same, and how long it keeps history.
    fn host_that_keeps(&self, history_for: Option<Duration>) -> Host {
        let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&self.url()).unwrap());
        let local = Environment::system(self.path("local"));
        let settings =
            BucketSettings { name: "here".to_owned(), history_for, ..BucketSettings::default() };
        let held = Bucket::attach_waiting(&objects, &local, &settings, |_| false).unwrap();
        Host::open_from_bucket(held, HostConfig::new()).unwrap()
    }

    /// The largest object in the bucket.
    fn object(&self) -> PathBuf {
        let found = fs::read_dir(self.path("bucket/objects")).unwrap();
        let paths = found.map(|entry| entry.unwrap().path());
        paths.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
    }
}

/// A bucket with a store that was given back, in which is the facet `a` with a note.
fn shipped() -> Place {
    let place = Place::new();
    let host = place.host();
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE note(body)", ()).wait().unwrap();
    facet.execute("INSERT INTO note VALUES (hex(zeroblob(50000)))", ()).wait().unwrap();
    drop(facet);
    host.shutdown().unwrap();
    place
}

#[test]
fn what_is_in_a_bucket() {
    let place = shipped();
    let url = place.url();
    let told = place.json(&["bucket", "status", &url]);
    assert_eq!((&told["holder"], &told["epoch"]), (&"here".into(), &1.into()), "{told}");
    assert_eq!((&told["given_back"], &told["lease_ms"]), (&true.into(), &0.into()), "{told}");
    assert!(told["objects"].as_u64().unwrap() > 0 && told["store"].is_string(), "{told}");
    assert!(place.ok(&["bucket", "status", &url]).contains("here in epoch 1"));

    // Beside a host, of which nothing is taken.
    let host = place.host();
    let told = place.json(&["bucket", "status", &url]);
    assert_eq!((&told["given_back"], &told["epoch"]), (&false.into(), &2.into()), "{told}");
    assert!(told["lease_ms"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(place.json(&["bucket", "verify", &url])["clean"], true);
    place.ok(&["bucket", "pull", &url, "beside"]);
    host.facet("a").unwrap().execute("DELETE FROM note", ()).wait().unwrap();
    host.shutdown().unwrap();
    assert_eq!(place.ok(&["sql", "beside", "a", "SELECT count(*) FROM note"]), "1\n");
}

#[test]
fn a_copy_is_an_ordinary_store() {
    let place = shipped();
    let url = place.url();
    fs::remove_dir_all(place.path("local")).unwrap();
    let pulled = place.json(&["bucket", "pull", &url, "copy"]);
    assert_eq!(pulled["store"], place.json(&["bucket", "status", &url])["store"]);
    assert_eq!(place.json(&["verify", "copy"])["clean"], true);
    let sql = "SELECT length(body) FROM note";
    assert_eq!(place.ok(&["sql", "copy", "a", sql]), "100000\n");
    place.ok(&["sql", "copy", "a", "DELETE FROM note"]);
    // It is the store's no more, and nothing is put over it.
    place.run(&["bucket", "pull", &url, "copy"]).failed(4, "choose an empty directory");
    fs::create_dir(place.path("other")).unwrap();
    fs::write(place.path("other/file"), "mine").unwrap();
    place.run(&["bucket", "pull", &url, "other"]).failed(4, "it holds other files");
    assert_eq!(fs::read_to_string(place.path("other/file")).unwrap(), "mine");
    assert!(place.ok(&["bucket", "pull", &url, "second"]).contains("up to LSN"));
}

#[test]
fn a_store_goes_back() {
    let place = Place::new();
    let host = place.host_that_keeps(Some(Duration::from_secs(3600)));
    let facet = host.facet("a").unwrap();
    facet
        .execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('first')")
        .wait()
        .unwrap();
    let point = host.bucket().unwrap().keep_point().unwrap();
    facet.execute("UPDATE note SET body = 'second'", ()).wait().unwrap();
    let url = place.url();
    // Beside the host.
    let told = place.json(&["bucket", "history", &url]);
    let made = told[0]["made"].as_str().unwrap();
    assert_eq!((&told[0]["made_ms"], told.as_array().unwrap().len()), (&point.wall_ms.into(), 1));
    place.ok(&["bucket", "pull", &url, "past", "--as-of", made]);
    drop(facet);
    host.shutdown().unwrap();
    assert!(place.ok(&["bucket", "history", &url]).contains(made));
    assert_eq!(place.json(&["bucket", "status", &url])["points"], 1);
    let sql = "SELECT body FROM note";
    assert_eq!(place.ok(&["sql", "past", "a", sql]), "first\n");
    place.ok(&["bucket", "pull", &url, "now"]);
    assert_eq!(place.ok(&["sql", "now", "a", sql]), "second\n");
    place
        .run(&["bucket", "pull", &url, "older", "--as-of", "2001-01-01"])
        .failed(3, "its history begins at");
    place.run(&["bucket", "pull", &url, "older", "--as-of", "soon"]).failed(2, "is no moment");

    // What only the point leads to is damaged.
    let report = place.json(&["bucket", "verify", &url, "--history"]);
    assert_eq!((&report["clean"], &report["points"]), (&true.into(), &1.into()), "{report}");
    let copy = fs::read_dir(place.path("bucket/history")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&copy).unwrap();
    place.ok(&["bucket", "verify", &url]);
    let told = place.run(&["bucket", "verify", &url, "--history"]);
    told.failed(6, "");
    assert!(told.out.contains("a point of history is lost with it"), "{told:?}");
    place.run(&["bucket", "pull", &url, "lost", "--as-of", made]).failed(6, "it is missing");

    let other = shipped();
    let told = other.run(&["bucket", "pull", &other.url(), "older", "--as-of", "now"]);
    told.failed(3, "no history is kept here");
}

#[test]
fn a_directory_of_a_host_is_not_overwritten() {
    let place = shipped();
    place.run(&["bucket", "pull", &place.url(), "local"]).failed(4, "choose an empty directory");
}

#[test]
fn where_there_is_none() {
    let place = Place::new();
    let url = place.url();
    for arguments in [&["status"][..], &["verify"], &["pull"]] {
        let run = |url: &str| {
            let mut all = vec!["bucket", arguments[0], url];
            all.extend((arguments[0] == "pull").then_some("copy"));
            place.run(&all)
        };
        run(&url).failed(3, "no store here");
        run("http://example.org").failed(2, "s3://BUCKET/PREFIX");
        run("nonsense").failed(2, "s3://BUCKET/PREFIX");
        assert!(!place.path("bucket").exists() && !place.path("copy").exists());
    }
    place.run(&["bucket"]).failed(2, "Usage:");
    place.run(&["bucket", "pull", &url]).failed(2, "<DIRECTORY>");
}

#[test]
fn damage_in_a_bucket_is_named() {
    let place = shipped();
    let url = place.url();
    let object = place.object();
    let name = format!("objects/{}", object.file_name().unwrap().to_str().unwrap());
    let whole = fs::read(&object).unwrap();
    let mut spoiled = whole.clone();
    spoiled.iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&object, spoiled).unwrap();
    place.run(&["bucket", "pull", &url, "copy"]).failed(6, &name);
    let ran = place.run(&["bucket", "verify", &url, "--json"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    let found = &ran.json()["findings"][0];
    assert_eq!((&found["object"], &found["missing"]), (&name.as_str().into(), &false.into()));
    assert!(!found["segments"].as_array().unwrap().is_empty(), "{found}");

    fs::remove_file(&object).unwrap();
    let ran = place.run(&["bucket", "verify", &url]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.out.contains(&name) && ran.out.contains("it is missing"), "{ran:?}");
    place.run(&["bucket", "pull", &url, "copy"]).failed(6, "it is missing");

    // What was left is no store for anybody, until a pull has made it whole.
    let ran = place.run(&["ls", "copy"]);
    assert!(ran.code != 0 && ran.out.is_empty(), "{ran:?}");
    let ran = place.run(&["verify", "copy"]);
    assert!(ran.code != 0 && ran.out.is_empty(), "{ran:?}");
    fs::write(&object, whole).unwrap();
    place.ok(&["bucket", "pull", &url, "copy"]);
    assert_eq!(place.json(&["verify", "copy"])["clean"], true);

    fs::write(place.path("bucket/manifest"), "nothing of the kind").unwrap();
    for arguments in [
        &["bucket", "status", &url][..],
        &["bucket", "verify", &url],
        &["bucket", "pull", &url, "c"],
    ] {
        place.run(arguments).failed(6, "manifest");
    }
}
