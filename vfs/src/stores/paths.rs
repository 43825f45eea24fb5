//! Which facet a path names, where programs open what they take for a file.

use lapidary_engine::FacetName;
use rusqlite::ffi as sqlite;

use crate::error::Failure;
use crate::names;

/// The facet that `path` names: what is left of it when `.`, `..` and repeated slashes are resolved
/// as in the root directory, without the slash it begins with. It does not depend on the directory
/// that the process is in, so that the same name is the same facet wherever a program is started.
pub(crate) fn facet_name(path: &str) -> Result<FacetName, Failure> {
    let refused = |reason: &str| {
        let path: String = path.chars().take(128).collect();
        Failure::new(sqlite::SQLITE_CANTOPEN, format!("path {path:?} names no facet: {reason}"))
    };
    if path.ends_with('/') {
        return Err(refused("it ends with a slash"));
    }
    let mut levels = Vec::new();
    for level in path.split('/') {
        match level {
            "" | "." => {}
            ".." => {
                if levels.pop().is_none() && !path.starts_with('/') {
                    return Err(refused(
                        "`..` leads out of the store; the current directory does not matter there",
                    ));
                }
            }
            level => levels.push(level),
        }
    }
    names::facet_name(&levels.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_their_facets() {
        for (path, facet) in [
            ("my.db", "my.db"),
            ("tenants/acme", "tenants/acme"),
            ("./my.db", "my.db"),
            ("a/./b//c/../d", "a/b/d"),
            ("/home/u/my.db", "home/u/my.db"),
            ("//home//u/../v/my.db", "home/v/my.db"),
            ("/../x", "x"),
            ("a b ü.db", "a b ü.db"),
        ] {
            assert_eq!(facet_name(path).unwrap().as_str(), facet, "{path}");
        }
        for (path, reason) in [
            ("", "it is empty"),
            ("/", "ends with a slash"),
            ("a/", "ends with a slash"),
            (".", "it is empty"),
            ("..", "leads out"),
            ("a/../../b", "leads out"),
            ("a\nb", "control character"),
            (&"x".repeat(513), "longer than 512"),
            (&"a/".repeat(17).as_str()[..33], "more than 16 levels"),
        ] {
            let failure = facet_name(path).unwrap_err();
            assert!(failure.message.contains(reason), "{path}: {}", failure.message);
            assert_eq!(failure.code, sqlite::SQLITE_CANTOPEN);
        }
    }
}
