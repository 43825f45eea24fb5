//! The service of `examples/http_service.rs`, asked over HTTP.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../examples/http_service.rs"]
#[allow(dead_code, reason = "the part that serves by itself is run as an example")]
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use common::{config, disk, host_on};
use lapidary::Host;
use lapidary_engine::MemoryIo;
use serde_json::{Value, json};
use service::Service;
use tokio::sync::oneshot;

/// A service on a port of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(host: Host) -> Self {
        let (address_tell, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let service = Service::open(host).unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_tell.send(listener.local_addr().unwrap()).unwrap();
                let stopped = async { drop(stopped.await) };
                service::serve(listener, Arc::clone(&service), stopped).await.unwrap();
            });
            service.close().unwrap();
        });
        Self { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    fn ask(&self, method: &str, path: &str, body: impl Into<String>) -> (u16, String) {
        ask(self.address, method, path, body.into())
    }

    fn sql(&self, tenant: &str, sql: &str, params: &Value) -> (u16, Value) {
        let body = json!({ "sql": sql, "params": params }).to_string();
        let (status, body) = self.ask("POST", &format!("{tenant}/sql"), body);
        (status, serde_json::from_str(&body).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

fn ask(address: SocketAddr, method: &str, path: &str, body: String) -> (u16, String) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("http://{address}/tenants/{path}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let mut reply = ureq::Agent::new_with_config(config).run(request).unwrap();
    (reply.status().as_u16(), reply.body_mut().read_to_string().unwrap())
}

const UNTRUSTED: &str = r#"{"isolation": "untrusted"}"#;

#[test]
fn a_tenant_is_created_used_forked_and_deleted() {
    let server = Server::start(host_on(&MemoryIo::new(), config(2)));
    assert_eq!(server.ask("GET", "acme", "").0, 404);
    assert_eq!(server.ask("PUT", "acme", UNTRUSTED).0, 201);
    assert_eq!(
        server.sql("acme", "CREATE TABLE note(id INTEGER PRIMARY KEY, body)", &json!([])).0,
        200
    );
    let insert = "INSERT INTO note(body) VALUES (?1) RETURNING id";
    let (status, inserted) = server.sql("acme", insert, &json!(["buy milk"]));
    assert_eq!((status, inserted), (200, json!({ "rows": [{ "id": 1 }] })));

    assert_eq!(server.ask("PUT", "acme/kv/color/sky", "blue").0, 204);
    assert_eq!(server.ask("GET", "acme/kv/color/sky", ""), (200, "blue".to_owned()));
    let keys = server.ask("GET", "acme/kv?prefix=color/", "");
    assert_eq!(keys, (200, r#"{"keys":["color/sky"]}"#.to_owned()));

    assert_eq!(server.ask("POST", "acme/fork", r#"{"to": "trial"}"#).0, 201);
    assert_eq!(server.sql("trial", "DELETE FROM note", &json!([])).0, 200);
    let (_, found) =
        server.sql("acme", "SELECT id, body, NULL AS x, 0.5 AS y FROM note", &json!([]));
    assert_eq!(found, json!({ "rows": [{ "id": 1, "body": "buy milk", "x": null, "y": 0.5 }] }));

    let (status, used) = server.ask("GET", "acme", "");
    let used: Value = serde_json::from_str(&used).unwrap();
    assert_eq!((status, &used["rows_written"]), (200, &json!(2)));
    assert!(used["stored_bytes"].as_u64().unwrap() >= 8192, "{used}");

    assert_eq!(server.ask("DELETE", "acme/kv/color/sky", "").0, 204);
    assert_eq!(server.ask("DELETE", "acme/kv/color/sky", "").0, 404);
    assert_eq!(server.ask("GET", "acme/kv/color/sky", "").0, 404);
    assert_eq!(server.ask("DELETE", "acme", "").0, 204);
    for path in ["acme", "acme/kv/x"] {
        assert_eq!(server.ask("GET", path, "").0, 404);
    }
    assert_eq!(
        server.sql("trial", "SELECT count(*) AS n FROM note", &json!([])).1["rows"][0]["n"],
        0
    );
}

#[test]
fn what_goes_wrong_has_a_status() {
    let server = Server::start(host_on(&MemoryIo::new(), config(1)));
    assert_eq!(server.ask("PUT", "Acme", UNTRUSTED).0, 400);
    assert_eq!(server.ask("PUT", "acme", r#"{"isolation": "none"}"#).0, 400);
    assert_eq!(server.ask("PUT", "acme", UNTRUSTED).0, 201);
    assert_eq!(server.ask("PUT", "other", r#"{"isolation": "tenant"}"#).0, 201);
    assert_eq!(server.ask("POST", "acme/fork", r#"{"to": "other"}"#).0, 409);

    let status = |tenant: &str, sql: &str| {
        let (status, body) = server.sql(tenant, sql, &json!([]));
        if status != 200 {
            assert!(body["error"].is_string(), "{body}");
        }
        status
    };
    assert_eq!(status("acme", "SELEC"), 422);
    assert_eq!(status("acme", "ATTACH 'x' AS y"), 403);
    assert_eq!(server.ask("PUT", "acme/kv/k", "v").0, 204);
    assert_eq!(status("acme", "SELECT * FROM _lapidary_kv"), 403);
    // The one may have temporary tables, the other not.
    assert_eq!(status("acme", "CREATE TEMP TABLE t(x)"), 403);
    assert_eq!(status("other", "CREATE TEMP TABLE t(x)"), 200);
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    assert_eq!(status("acme", endless), 429);
    assert_eq!(server.sql("acme", "SELECT ?1", &json!([[1]])).0, 400);
    assert_eq!(server.ask("PUT", &format!("acme/kv/{}", "k".repeat(2_049)), "v").0, 400);

    assert_eq!(status("acme", "CREATE TABLE t(x UNIQUE)"), 200);
    assert_eq!(status("acme", "INSERT INTO t VALUES (1)"), 200);
    assert_eq!(status("acme", "INSERT INTO t VALUES (1)"), 422);
}

#[test]
fn what_may_be_done_is_known_after_a_restart() {
    let memory = MemoryIo::new();
    let server = Server::start(host_on(&memory, config(1)));
    assert_eq!(server.ask("PUT", "acme", UNTRUSTED).0, 201);
    drop(server);
    let server = Server::start(host_on(&memory, config(1)));
    assert_eq!(server.sql("acme", "CREATE TEMP TABLE t(x)", &json!([])).0, 403);
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let (environment, switch) = disk(&MemoryIo::new());
    let server = Server::start(Host::open_in(environment, config(1)).unwrap());
    let _release = switch.release_at_end();
    assert_eq!(server.ask("PUT", "acme", UNTRUSTED).0, 201);
    switch.hold();
    let address = server.address;
    let asked = thread::spawn(move || ask(address, "PUT", "acme/kv/k", "v".to_owned()));
    switch.await_sync();
    assert!(!asked.is_finished());
    switch.release();
    assert_eq!(asked.join().unwrap().0, 204);
}
