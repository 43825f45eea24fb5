//! A small multi-tenant service over HTTP: a database for each tenant, all in one store.
//!
//! `cargo run --example http_service` serves on a port of its own, asks itself a few things, and ends.
//! `cargo run --example http_service -- --listen 127.0.0.1:8080 --store ./tenants` serves until Ctrl-C.
//!
//! | request | does |
//! |---|---|
//! | `PUT /tenants/{tenant}` `{"isolation": "untrusted" or "tenant"}` | creates |
//! | `GET /tenants/{tenant}` | tells what it stores and has used |
//! | `DELETE /tenants/{tenant}` | deletes |
//! | `POST /tenants/{tenant}/fork` `{"to": …}` | copies, at no cost |
//! | `POST /tenants/{tenant}/sql` `{"sql": …, "params": […]}` | runs one statement |
//! | `GET`, `PUT`, `DELETE /tenants/{tenant}/kv/{key}` | a value by its key |
//! | `GET /tenants/{tenant}/kv?prefix=…&limit=…` | keys, in order |
//!
//! There is no authentication here: put yours in front of it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks")]

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use lapidary::rusqlite::types::{Value as SqlValue, ValueRef};
use lapidary::rusqlite::{self, Row, params_from_iter};
use lapidary::{
    FacetHandle, ForkFrom, Host, HostConfig, HostError, HostErrorKind, Isolation, KvList, Schema,
};
use serde::Deserialize;
use serde_json::{Map, Value as JsonValue, json};
use tokio::net::TcpListener;

/// Bytes that a tenant may store.
const TENANT_BYTES_MAX: u64 = 64 << 20;

/// The host, and the facet in which it is written down who is a tenant.
pub(crate) struct Service {
    host: Host,
    control: FacetHandle,
}

impl Service {
    /// Opens the store, and says for each tenant what its SQL may do: a host does not store that.
    pub(crate) fn open(host: Host) -> Result<Arc<Self>, HostError> {
        let schema = Schema::new()
            .sql("CREATE TABLE tenant(name TEXT PRIMARY KEY, isolation TEXT NOT NULL)");
        let control = host.facet("control")?.with_schema(&schema);
        host.set_isolation("control", Some(Isolation::trusted()))?;
        let get = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        for (tenant, isolation) in control.query("SELECT * FROM tenant", (), get).wait()? {
            host.set_isolation(facet_name(&tenant), preset(&isolation))?;
        }
        Ok(Arc::new(Self { host, control }))
    }

    /// The database of a tenant that there is.
    fn tenant(&self, tenant: &str) -> Result<FacetHandle, Failure> {
        // On this thread, on a snapshot of what is durable: some microseconds.
        let is_there = self.control.read(|connection| {
            let sql = "SELECT 1 FROM tenant WHERE name = ?1";
            Ok(connection.prepare_cached(sql)?.exists([tenant])?)
        })?;
        if !is_there {
            return Err(Failure::new(StatusCode::NOT_FOUND, "there is no such tenant"));
        }
        Ok(self.host.facet(facet_name(tenant))?)
    }

    /// Writes down that there is a tenant; its database is there by now.
    async fn enter(&self, tenant: String, isolation: String) -> Result<(), HostError> {
        let sql = "INSERT INTO tenant VALUES (?1, ?2)
                   ON CONFLICT DO UPDATE SET isolation = excluded.isolation";
        self.control.execute(sql, (tenant, isolation)).await.map(drop)
    }

    /// Runs what was sent, waits until it is durable, closes the store.
    pub(crate) fn close(&self) -> Result<(), HostError> {
        self.host.shutdown()
    }
}

/// A level of its own for each, since the first level of a name chooses the core.
fn facet_name(tenant: &str) -> String {
    format!("tenant-{tenant}")
}

fn preset(name: &str) -> Option<Isolation> {
    match name {
        "tenant" => Some(Isolation::tenant()),
        "untrusted" => Some(Isolation::untrusted()),
        _ => None,
    }
}

/// What a request is told when it fails.
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let status = match error.kind() {
            HostErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
            HostErrorKind::NotAllowed => StatusCode::FORBIDDEN,
            HostErrorKind::NotFound => StatusCode::NOT_FOUND,
            HostErrorKind::AlreadyExists | HostErrorKind::Aborted => StatusCode::CONFLICT,
            HostErrorKind::Statement => StatusCode::UNPROCESSABLE_ENTITY,
            HostErrorKind::BudgetExceeded => StatusCode::TOO_MANY_REQUESTS,
            HostErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            HostErrorKind::Retry | HostErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            // Something for the one who runs the service, not for the one who asked.
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.message }));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            return (self.status, [(header::RETRY_AFTER, "1")], body).into_response();
        }
        (self.status, body).into_response()
    }
}

#[derive(Deserialize)]
struct NewTenant {
    isolation: String,
}

async fn create(
    State(service): State<Arc<Service>>,
    Path(tenant): Path<String>,
    Json(new): Json<NewTenant>,
) -> Result<StatusCode, Failure> {
    check_tenant(&tenant)?;
    let Some(isolation) = preset(&new.isolation) else {
        let message = "isolation is \"untrusted\" or \"tenant\"";
        return Err(Failure::new(StatusCode::BAD_REQUEST, message));
    };
    let name = facet_name(&tenant);
    service.host.set_isolation(&name, Some(isolation))?;
    service.host.set_quota(&name, Some(TENANT_BYTES_MAX)).await?;
    // The first call creates the facet. It is entered when it is there: after a crash in between,
    // the same request finishes what it began.
    service.host.facet(&name)?.run(|_| Ok(())).await?;
    service.enter(tenant, new.isolation).await?;
    Ok(StatusCode::CREATED)
}

fn check_tenant(tenant: &str) -> Result<(), Failure> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&tenant.len()) && tenant.bytes().all(is_plain) {
        return Ok(());
    }
    let message = "a tenant is called by 1 to 64 of a-z, 0-9 and -";
    Err(Failure::new(StatusCode::BAD_REQUEST, message))
}

async fn delete(
    State(service): State<Arc<Service>>,
    Path(tenant): Path<String>,
) -> Result<StatusCode, Failure> {
    let facet = service.tenant(&tenant)?;
    service.control.execute("DELETE FROM tenant WHERE name = ?1", [tenant]).await?;
    service.host.abort(facet.name(), "the tenant is deleted").await?;
    service.host.delete(facet.name()).await?;
    service.host.set_isolation(facet.name(), None)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Fork {
    to: String,
}

async fn fork(
    State(service): State<Arc<Service>>,
    Path(tenant): Path<String>,
    Json(Fork { to }): Json<Fork>,
) -> Result<StatusCode, Failure> {
    let facet = service.tenant(&tenant)?;
    check_tenant(&to)?;
    // What may be done to the original may be done to the copy.
    let sql = "SELECT isolation FROM tenant WHERE name = ?1";
    let isolation = service.control.read(|connection| {
        Ok(connection.query_row(sql, [&tenant], |row| row.get::<_, String>(0))?)
    })?;
    let name = facet_name(&to);
    service.host.fork(facet.name(), &name, ForkFrom::Latest).await?;
    service.host.set_isolation(&name, preset(&isolation))?;
    service.host.set_quota(&name, Some(TENANT_BYTES_MAX)).await?;
    service.enter(to, isolation).await?;
    Ok(StatusCode::CREATED)
}

#[derive(Deserialize)]
struct Statement {
    sql: String,
    #[serde(default)]
    params: Vec<JsonValue>,
}

async fn sql(
    State(service): State<Arc<Service>>,
    Path(tenant): Path<String>,
    Json(Statement { sql, params }): Json<Statement>,
) -> Result<Json<JsonValue>, Failure> {
    let facet = service.tenant(&tenant)?;
    let params = params.into_iter().map(to_sql).collect::<Result<Vec<_>, _>>()?;
    // The reply comes when what the statement did and saw is durable, and not before.
    let rows = facet.query(sql, params_from_iter(params), to_object).await?;
    Ok(Json(json!({ "rows": rows })))
}

fn to_sql(value: JsonValue) -> Result<SqlValue, Failure> {
    Ok(match value {
        JsonValue::Null => SqlValue::Null,
        JsonValue::Bool(bool) => SqlValue::Integer(bool.into()),
        JsonValue::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => SqlValue::Integer(integer),
            (None, real) => SqlValue::Real(real.unwrap_or_default()),
        },
        JsonValue::String(text) => SqlValue::Text(text),
        JsonValue::Array(_) | JsonValue::Object(_) => {
            let message = "a parameter is null, a number, a string, true or false";
            return Err(Failure::new(StatusCode::BAD_REQUEST, message));
        }
    })
}

/// A row as an object; bytes become text as they are, or with marks where they are no UTF-8.
fn to_object(row: &Row<'_>) -> rusqlite::Result<Map<String, JsonValue>> {
    let names = row.as_ref().column_names();
    let value = |(column, name): (usize, &str)| {
        let value = match row.get_ref(column)? {
            ValueRef::Null => JsonValue::Null,
            ValueRef::Integer(integer) => integer.into(),
            ValueRef::Real(real) => real.into(),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
        };
        Ok((name.to_owned(), value))
    };
    names.into_iter().enumerate().map(value).collect()
}

type Key = Path<(String, String)>;

async fn kv_get(State(service): State<Arc<Service>>, Path((tenant, key)): Key) -> Answer {
    match service.tenant(&tenant)?.kv().get(key).await? {
        Some(value) => Ok(value.into_response()),
        None => Err(Failure::new(StatusCode::NOT_FOUND, "there is no such key")),
    }
}

async fn kv_put(
    State(service): State<Arc<Service>>,
    Path((tenant, key)): Key,
    value: Bytes,
) -> Answer {
    service.tenant(&tenant)?.kv().put(key, value).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn kv_delete(State(service): State<Arc<Service>>, Path((tenant, key)): Key) -> Answer {
    let was_there = service.tenant(&tenant)?.kv().delete(key).await?;
    let status = if was_there { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
    Ok(status.into_response())
}

type Answer = Result<Response, Failure>;

#[derive(Deserialize)]
struct Keys {
    #[serde(default)]
    prefix: String,
    limit: Option<usize>,
}

async fn kv_list(
    State(service): State<Arc<Service>>,
    Path(tenant): Path<String>,
    Query(Keys { prefix, limit }): Query<Keys>,
) -> Result<Json<JsonValue>, Failure> {
    let list = KvList::new().prefix(prefix).limit(limit.unwrap_or(100).min(1_000));
    let entries = service.tenant(&tenant)?.kv().list(list).await?;
    let key = |(key, _): &(Vec<u8>, _)| String::from_utf8_lossy(key).into_owned();
    Ok(Json(json!({ "keys": entries.iter().map(key).collect::<Vec<_>>() })))
}

async fn stat(
    State(service): State<Arc<Service>>,
    Path(tenant): Path<String>,
) -> Result<Json<JsonValue>, Failure> {
    let facet = service.tenant(&tenant)?;
    let quota = service.host.quota(facet.name()).await?;
    let usage = facet.usage().await?;
    Ok(Json(json!({
        "stored_bytes": usage.stored_bytes,
        "stored_bytes_max": quota.as_ref().map(|quota| quota.limit_bytes),
        "calls": usage.used.calls,
        "commits": usage.used.commits,
        "rows_read": usage.used.rows_read,
        "rows_written": usage.used.rows_written,
        "vm_steps": usage.used.vm_steps,
        "cpu_us": u64::try_from(usage.used.cpu.as_micros()).unwrap_or(u64::MAX),
    })))
}

pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/tenants/{tenant}", put(create).get(stat).delete(delete))
        .route("/tenants/{tenant}/fork", post(fork))
        .route("/tenants/{tenant}/sql", post(sql))
        .route("/tenants/{tenant}/kv", get(kv_list))
        .route("/tenants/{tenant}/kv/{*key}", get(kv_get).put(kv_put).delete(kv_delete))
        .with_state(service)
}

/// Serves until `stop` is there and the requests that came before it are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(service)).with_graceful_shutdown(stop).await
}

async fn listen(address: &str, store: &FilePath) -> Result<(), Box<dyn Error>> {
    // Before SQLite is used in any other way.
    let host = Host::open(store, HostConfig::new().isolation(Isolation::untrusted()))?;
    let service = Service::open(host)?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("no signal will come: {error}");
        }
    };
    serve(listener, Arc::clone(&service), stop).await?;
    // Last: what was answered is durable already, and the next start has nothing to repair.
    service.close()?;
    Ok(())
}

/// Serves on a port of its own and asks for a few things.
async fn tour() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let config = HostConfig::new().isolation(Isolation::untrusted());
    let service = Service::open(Host::open(directory.path().join("store"), config)?)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/tenants/acme", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Arc::clone(&service), async {
        // An error means that the tour has failed: then it is time, too.
        let _ = stopped.await;
    }));
    let asked = tokio::task::spawn_blocking(move || ask(&base).map_err(|error| error.to_string()));
    let outcome = asked.await?;
    drop(stop);
    serving.await??;
    service.close()?;
    Ok(outcome?)
}

fn ask(base: &str) -> Result<(), ureq::Error> {
    let run = |sql: &str| -> Result<JsonValue, ureq::Error> {
        let mut reply = ureq::post(format!("{base}/sql")).send_json(json!({ "sql": sql }))?;
        reply.body_mut().read_json()
    };
    ureq::put(base).send_json(json!({ "isolation": "untrusted" }))?;
    run("CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT)")?;
    println!("inserted {}", run("INSERT INTO note(body) VALUES ('buy milk') RETURNING id")?);
    println!("found    {}", run("SELECT * FROM note")?);
    ureq::put(format!("{base}/kv/color")).send("green")?;
    let color = ureq::get(format!("{base}/kv/color")).call()?.body_mut().read_to_string()?;
    println!("color    {color}");
    ureq::post(format!("{base}/fork")).send_json(json!({ "to": "acme-trial" }))?;
    println!("used     {}", ureq::get(base).call()?.body_mut().read_to_string()?);
    if let Err(refused) = run("ATTACH 'file.db' AS other") {
        println!("refused  {refused}");
    }
    ureq::delete(base).call()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments[..] {
        [] => runtime.block_on(tour()),
        ["--listen", address] => runtime.block_on(listen(address, "tenants".as_ref())),
        ["--listen", address, "--store", store] => {
            runtime.block_on(listen(address, store.as_ref()))
        }
        _ => Err("usage: http_service [--listen ADDRESS [--store DIRECTORY]]".into()),
    }
}
