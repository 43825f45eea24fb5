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

/// Commands on two machines, one after the other, each with a directory of its own.
#[test]
fn commands_take_hold_of_a_store_in_a_bucket() {
    let place = Place::new();
    let url = place.url();
    let bucket = ["--bucket", &url];
    // Without a store nothing is begun but by `create`.
    let missing = place.run(&["ls", "one", bucket[0], bucket[1]]);
    missing.failed(3, "no store here");
    assert!(!place.path("bucket").exists() && !place.path("one").exists());
    let made = place.ok(&["create", "one", "a", bucket[0], bucket[1]]);
    assert!(made.contains(&url) && made.contains("made a"), "{made}");
    place.run(&["create", "one", bucket[0], bucket[1]]).failed(4, "is a store already");
    let make = "CREATE TABLE note(body); INSERT INTO note VALUES ('one')";
    place.ok(&["sql", "one", "a", make, bucket[0], bucket[1]]);
    // Another directory, and the address from the environment.
    let run = |arguments: &[&str]| {
        let mut command = super::command();
        let run = command.args(arguments).env("LAPIDARY_BUCKET", &url);
        let output = run.current_dir(place.directory.path()).output().unwrap();
        let (out, said) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(out).unwrap()
    };
    assert_eq!(run(&["sql", "two", "a", "SELECT body FROM note"]), "one\n");
    run(&["fork", "two", "a", "b"]);
    run(&["sql", "two", "b", "UPDATE note SET body = 'two'"]);
    run(&["limit", "two", "b", "--quota", "1MiB"]);
    run(&["export", "two", "b", "b.sqlite"]);
    run(&["import", "two", "b.sqlite", "--as", "c"]);
    run(&["mv", "two", "c", "d"]);
    run(&["rm", "two", "b", "--yes"]);
    assert_eq!(run(&["ls", "two"]).lines().count(), 2);
    // What a directory holds that another has gone on from is not served, nor lost.
    place.run(&["ls", "one", bucket[0], bucket[1]]).failed(1, "has served this store");
    // A directory with holes is not taken for a store of its own.
    place.run(&["ls", "two"]).failed(1, "--bucket");
    let mut command = super::command();
    let ran = command.args(["create", "plain"]).env("LAPIDARY_BUCKET", "");
    assert!(ran.current_dir(place.directory.path()).output().unwrap().status.success());
    // Not of these.
    place.run(&["verify", "two", bucket[0], bucket[1]]).failed(2, "--bucket");
    assert_eq!(place.json(&["bucket", "status", &url])["given_back"], true);
    place.ok(&["bucket", "pull", &url, "copy"]);
    assert_eq!(place.ok(&["sql", "copy", "d", "SELECT body FROM note"]), "two\n");

    // A store that was a directory goes into an empty bucket.
    let other = format!("file://{}", place.path("other").display());
    place.run(&["sql", "copy", "d", "SELECT 1", "--bucket", &other]).failed(3, "no store here");
    place.ok(&["create", "copy", "e", "--bucket", &other]);
    assert_eq!(
        place.ok(&["sql", "new", "d", "SELECT body FROM note", "--bucket", &other]),
        "two\n"
    );
}

/// A command waits for the host that has the store, and says so.
#[test]
fn a_command_waits_for_the_host() {
    let place = shipped();
    let host = place.host();
    let url = place.url();
    let waiting = std::thread::scope(|scope| {
        let place = &place;
        let url = &url;
        let run = move || place.run(&["sql", "two", "a", "DELETE FROM note", "--bucket", url]);
        let waiting = scope.spawn(run);
        std::thread::sleep(Duration::from_millis(1_000));
        assert!(!waiting.is_finished());
        host.shutdown().unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(waiting.code, 0, "{waiting:?}");
    assert!(waiting.said.contains("host here has the store, in epoch 2"), "{waiting:?}");
    let told = place.json(&["bucket", "status", &url]);
    assert_eq!((&told["epoch"], &told["given_back"]), (&3.into(), &true.into()));
}

/// A moment as the command reads it.
fn text_of(wall_ms: u64) -> String {
    let memory = lapidary::rusqlite::Connection::open_in_memory().unwrap();
    let sql = "SELECT strftime('%Y-%m-%d %H:%M:%f', ?1 / 1000.0, 'unixepoch')";
    memory.query_row(sql, [i64::try_from(wall_ms).unwrap()], |row| row.get(0)).unwrap()
}

/// Facets are read beside the host that serves them, and as they were.
#[test]
fn facets_are_read_without_taking_the_store() {
    let place = Place::new();
    let host = place.host_that_keeps(Some(Duration::from_secs(3600)));
    let url = place.url();
    let facet = host.facet("a/b").unwrap();
    facet
        .execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('first')")
        .wait()
        .unwrap();
    host.facet("c").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let point = host.bucket().unwrap().keep_point().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    facet.execute("UPDATE note SET body = 'second'", ()).wait().unwrap();
    host.delete("c").wait().unwrap();
    host.sync_to_bucket().unwrap();
    let sql = "SELECT body FROM note";
    assert_eq!(place.ok(&["bucket", "sql", &url, "a/b", sql]), "second\n");
    let json = place.json(&["bucket", "sql", &url, "a/b", sql]);
    assert_eq!(json[0]["body"], "second");
    let names = |value: &serde_json::Value| -> Vec<String> {
        let listed = value.as_array().unwrap().iter();
        listed.map(|facet| facet["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&place.json(&["bucket", "ls", &url])), ["a/b"]);
    assert!(names(&place.json(&["bucket", "ls", &url, "c"])).is_empty());
    place.ok(&["bucket", "export", &url, "a/b", "now.sqlite", "--cache", "kept"]);
    place.ok(&["bucket", "sql", &url, "a/b", sql, "--cache", "kept"]);

    // The past. Between two points, a facet that keeps no versions is as it was at the first, which is said.
    let made = place.json(&["bucket", "history", &url])[0]["made"].as_str().unwrap().to_owned();
    let moment = text_of(point.wall_ms + 10);
    let past = |arguments: &[&str]| {
        let mut all = vec!["bucket"];
        all.extend(arguments);
        all.extend(["--as-of", &moment]);
        let ran = place.run(&all);
        assert_eq!((ran.code, ran.said), (0, format!("as of {made}\n")));
        ran.out
    };
    assert_eq!(past(&["sql", &url, "a/b", sql]), "first\n");
    past(&["export", &url, "a/b", "then.sqlite"]);
    assert_eq!(place.ok(&["bucket", "sql", &url, "a/b", sql, "--as-of", "now"]), "second\n");
    assert!(past(&["ls", &url]).contains("c "));
    let rows = |file: &str| {
        let connection = lapidary::rusqlite::Connection::open(place.path(file)).unwrap();
        connection.query_row(sql, (), |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(
        (rows("now.sqlite"), rows("then.sqlite")),
        ("second".to_owned(), "first".to_owned())
    );

    // A facet that keeps its versions has each of them, between the points.
    let day = lapidary::Retention { bytes: 1 << 30, age: Duration::from_secs(86_400) };
    host.set_retention("a", Some(day)).wait().unwrap();
    facet.execute("UPDATE note SET body = 'third'", ()).wait().unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let then = text_of(u64::try_from(since.as_millis()).unwrap());
    std::thread::sleep(Duration::from_millis(30));
    facet.execute("UPDATE note SET body = 'fourth'", ()).wait().unwrap();
    host.sync_to_bucket().unwrap();
    assert_eq!(place.ok(&["bucket", "sql", &url, "a/b", sql, "--as-of", &then]), "third\n");

    // Nothing is written.
    place.run(&["bucket", "sql", &url, "a/b", "DELETE FROM note"]).failed(1, "readonly");
    place.run(&["bucket", "sql", &url, "nobody", sql]).failed(3, "nobody");
    place.run(&["bucket", "export", &url, "a/b", "now.sqlite"]).failed(4, "now.sqlite");
    let nowhere = format!("file://{}/nowhere", place.path("").display());
    place.run(&["bucket", "ls", &nowhere]).failed(3, "no store here");
    place.run(&["bucket", "ls", &url, "--as-of", "2001-01-01"]).failed(3, "history begins at");
    assert_eq!(point.epoch, 1);
    drop(facet);
    host.shutdown().unwrap();
}
