//! A database for each agent, in one store: create, write, read, list, delete.

use lapidary::{Host, HostConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    // One thread for each core; the store is created if there is none.
    let host = Host::open(directory.path().join("store"), HostConfig::new())?;

    // A facet is a SQLite database of its own. It comes into being with its first call.
    let agent = host.facet("agents/42")?;
    agent
        .execute_batch("CREATE TABLE message(id INTEGER PRIMARY KEY, body TEXT NOT NULL)")
        .wait()?;

    // `wait` blocks; inside async code, `.await` the same call. Either way, a reply means: durable.
    for body in ["hello", "what is a lapidary?"] {
        agent.execute("INSERT INTO message(body) VALUES (?1)", [body]).wait()?;
    }
    let count: i64 = agent
        .transaction(|tx| {
            tx.execute("UPDATE message SET body = upper(body)", ())?;
            Ok(tx.query_row("SELECT count(*) FROM message", (), |row| row.get(0))?)
        })
        .wait()?;

    // Reads run on this thread, on a snapshot of what is durable, and never hold up the writer.
    let last: String = agent.read(|connection| {
        let sql = "SELECT body FROM message ORDER BY id DESC LIMIT 1";
        Ok(connection.query_row(sql, (), |row| row.get(0))?)
    })?;
    assert_eq!((count, last.as_str()), (2, "WHAT IS A LAPIDARY?"));

    assert_eq!(host.list(Some("agents"), None, 100).wait()?.len(), 1);
    host.delete("agents/42").wait()?;
    host.shutdown()?;
    Ok(())
}
