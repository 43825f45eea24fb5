//! A host whose store is in a bucket, to be killed by tests: says what it found, then inserts rows and says
//! which were answered for.
//!
//! Usage: `bucket_child URL DIRECTORY NAME local|bucket|mixed INTERVAL_MS LEASE_MS`; with `mixed` calls for even rows wait
//! for the bucket, and others for the disk
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use lapidary::bucket::{Acknowledge, Bucket, BucketSettings, Objects, RemoteObjects};
use lapidary::{Environment, Host, HostConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, directory, name, acknowledge, interval_ms, lease_ms] = &arguments[..] else {
        return Err("six arguments, as the source says".into());
    };
    let interval = Duration::from_millis(interval_ms.parse()?);
    let is_mixed = acknowledge == "mixed";
    let acknowledge = match acknowledge.as_str() {
        "bucket" => Acknowledge::InBucket,
        "local" | "mixed" => Acknowledge::Locally,
        other => return Err(format!("acknowledge {other:?}").into()),
    };
    let settings = BucketSettings {
        name: name.clone(),
        interval,
        pause: interval / 2,
        lease: Duration::from_millis(lease_ms.parse()?),
        ..BucketSettings::default()
    };
    let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(url)?);
    let local = Environment::system(directory);
    let bucket = Bucket::attach_waiting(&objects, &local, &settings, |_| false)?;
    say(&format!("held {}", bucket.stat().epoch));
    let config = HostConfig::new().acknowledge(acknowledge).pin_cores(false);
    let host = Host::open_from_bucket(bucket, config)?;
    let facet = host.facet("tenants/acme")?;
    facet.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY)", ()).wait()?;
    let found = facet.query("SELECT count(*), coalesce(max(n), 0) FROM t", (), |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    let (count, last) = found.wait()?[0];
    say(&format!("found {count} {last}"));
    let mut next = last + 1;
    let surely = facet.acknowledge(Acknowledge::InBucket);
    let of_row = |row: i64| if is_mixed && row % 2 == 0 { &surely } else { &facet };
    loop {
        let calls: Vec<_> = (0..10)
            .map(|n| of_row(next + n).execute("INSERT INTO t VALUES (?1)", [next + n]))
            .collect();
        for call in calls {
            if let Err(error) = call.wait() {
                say(&format!("refused {error}"));
                return Ok(());
            }
            say(&format!("answered {next}"));
            next += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A line at once, in one write: what was said before a kill arrives.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then there is nobody to tell.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
