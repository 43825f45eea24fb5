//! The library is never unloaded: SQLite keeps pointers into it, and stores have threads that run in it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
