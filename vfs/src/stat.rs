//! Figures as JSON, for SQL, which has no other way to return several at once.

use lapidary_engine::{Error, Facet, Store, StoreStat};

/// What there is to say of a facet, as a JSON object: `name`, `bookmark` (of the newest durable
/// version), `page_size` in bytes (null if it has never had a page), `pages`, `bytes` of those,
/// `committed_ms` (milliseconds since the Unix epoch), `versions` that are kept, and `history_bytes`
/// that are kept for others than the newest.
///
/// # Errors
/// As [`Facet::versions`].
pub fn facet_json(facet: &Facet) -> Result<String, Error> {
    let versions = facet.versions()?;
    let newest = versions.first();
    let page_bytes = newest.and_then(|version| version.page_size).map(|size| size.bytes() as u64);
    let pages = newest.map_or(0, |version| version.page_count);
    let history_bytes: u64 = versions.iter().map(|version| version.kept_bytes).sum();
    Ok(format!(
        r#"{{"name":{},"bookmark":{},"page_size":{},"pages":{pages},"bytes":{},"committed_ms":{},"versions":{},"history_bytes":{history_bytes}}}"#,
        text(facet.name().as_str()),
        newest.map_or("null".into(), |version| text(&version.bookmark.to_string())),
        page_bytes.map_or("null".into(), |bytes| bytes.to_string()),
        u64::from(pages) * page_bytes.unwrap_or(0),
        newest.map_or(0, |version| version.wall_ms),
        versions.len(),
    ))
}

/// What there is to say of a store, as a JSON object: `path`, `facets`, `segments`, `allocated_bytes`
/// (its files), `live_bytes`, `history_bytes`, `commits` and `flushes` since it was opened, and
/// `io_backend`; see [`StoreStat`].
#[must_use]
pub fn store_json(store: &Store) -> String {
    let StoreStat {
        facets,
        segments,
        allocated_bytes,
        live_bytes,
        history_bytes,
        commits,
        flushes,
        io_backend,
        ..
    } = store.stat();
    format!(
        r#"{{"path":{},"facets":{facets},"segments":{segments},"allocated_bytes":{allocated_bytes},"live_bytes":{live_bytes},"history_bytes":{history_bytes},"commits":{commits},"flushes":{flushes},"io_backend":{}}}"#,
        text(&store.describe()),
        text(io_backend),
    )
}

/// A JSON string.
fn text(text: &str) -> String {
    use std::fmt::Write as _;
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control < ' ' => {
                // Writing into a String cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            character => json.push(character),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lapidary_engine::{Environment, FacetName, MemoryIo, StoreOptions};
    use rusqlite::Connection;

    use super::*;
    use crate::{Registration, VfsOptions};

    #[test]
    fn sqlite_reads_what_is_written() {
        let io = Arc::new(MemoryIo::new());
        let store = Store::open(Environment::with_io(io), StoreOptions::create()).unwrap();
        let _registration =
            Registration::register("stat", Arc::clone(&store), VfsOptions::default()).unwrap();
        let name = r#"a "quoted\name" ü"#;
        let facet =
            Connection::open_with_flags_and_vfs(name, rusqlite::OpenFlags::default(), "stat")
                .unwrap();
        let get = |json: &str, path: &str| -> rusqlite::types::Value {
            facet.query_row("SELECT ?1 ->> ?2", [json, path], |row| row.get(0)).unwrap()
        };
        let engine = store.open_facet(&FacetName::new(name).unwrap()).unwrap();
        let empty = facet_json(&engine).unwrap();
        assert_eq!(get(&empty, "page_size"), rusqlite::types::Value::Null);

        facet.execute_batch("CREATE TABLE t(x)").unwrap();
        let json: String = facet.query_row("PRAGMA lapidary_stat", [], |row| row.get(0)).unwrap();
        assert_eq!(json, facet_json(&engine).unwrap());
        assert_eq!(get(&json, "name"), name.to_owned().into());
        assert_eq!(get(&json, "pages"), 2.into());
        assert_eq!(get(&json, "bytes"), 8192.into());
        assert_eq!(get(&json, "versions"), 1.into());
        assert_eq!(get(&store_json(&store), "facets"), 1.into());
        assert_eq!(get(&text("\u{1}\n"), "$"), "\u{1}\n".to_owned().into());

        let verified: String =
            facet.query_row("PRAGMA lapidary_verify", [], |row| row.get(0)).unwrap();
        assert_eq!(verified, "ok");
        let error = facet.execute_batch("PRAGMA lapidary_status").unwrap_err().to_string();
        assert!(error.contains("lapidary_stat and lapidary_verify"), "{error}");
    }
}
