//! Which actions of a statement pass. SQLite asks while it compiles, so a refused statement has
//! done nothing.

use rusqlite::hooks::{AuthAction, AuthContext, TransactionOperation};

use super::lists;
use super::policy::Rules;

/// How the names of the host's own tables begin, in any case. One underscore short of the names
/// themselves, since a virtual table `_lapidary` would have tables `_lapidary_…` of its own.
pub(super) const RESERVED_PREFIX: &str = "_lapidary";

pub(super) fn is_reserved(name: &str) -> bool {
    let start = name.as_bytes().get(..RESERVED_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX.as_bytes()))
}

/// Whether `sql` could rename something to a name of the host's. An identifier has no escapes but
/// doubled quotes, so a reserved name stands in the text as it is.
pub(super) fn renames_to_reserved(sql: &[u8]) -> bool {
    let holds = |word: &str| {
        let word = word.as_bytes();
        sql.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
    };
    holds("rename") && holds(RESERVED_PREFIX)
}

/// `Err` says in words what is refused. Without rules, that is to change what the host keeps.
pub(super) fn decide(rules: Option<&Rules>, context: &AuthContext<'_>) -> Result<(), String> {
    use AuthAction as A;
    let refuse = |what: String| Err(what);
    let is_harmless = rules.is_none() && matches!(context.action, A::Read { .. });
    if !is_harmless
        && let Some(name) =
            names(&context.action).into_iter().flatten().find(|name| is_reserved(name))
    {
        return refuse(format!("the name {name:?}, which the host keeps for itself"));
    }
    let Some(rules) = rules else { return Ok(()) };
    // The action of `CREATE TABLE temp.x` is that of any table. But it goes into the schema of `temp`.
    let creates = matches!(context.action, A::Insert { .. });
    if !rules.temp_objects && creates && context.database_name == Some("temp") {
        return refuse("a temporary table, index, view or trigger".to_owned());
    }
    match context.action {
        A::Attach { .. } => refuse("ATTACH, or VACUUM, which attaches".to_owned()),
        A::Detach { .. } => refuse("DETACH".to_owned()),
        A::CreateTempIndex { .. }
        | A::CreateTempTable { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. }
            if !rules.temp_objects =>
        {
            refuse("a temporary table, index, view or trigger".to_owned())
        }
        A::Pragma { pragma_name, pragma_value } => {
            let name = pragma_name.to_ascii_lowercase();
            if !rules.pragmas.contains(&name) {
                return refuse(format!("PRAGMA {name}"));
            }
            if pragma_value.is_some() && lists::READ_ONLY_PRAGMAS.contains(&name.as_str()) {
                return refuse(format!("setting PRAGMA {name}"));
            }
            Ok(())
        }
        A::Function { function_name } => {
            if contains(&rules.functions, function_name) {
                return Ok(());
            }
            refuse(format!("the function {function_name}"))
        }
        A::CreateVtable { module_name, .. } => {
            if contains(&rules.modules, module_name) {
                return Ok(());
            }
            refuse(format!("the virtual table module {module_name}"))
        }
        A::Read { table_name, .. } | A::Insert { table_name } | A::Update { table_name, .. }
            if is_refused_table(rules, table_name) =>
        {
            refuse(format!("the table {table_name}"))
        }
        A::Transaction { operation } if !rules.transaction_control => {
            let word = match operation {
                TransactionOperation::Begin => "BEGIN",
                TransactionOperation::Rollback => "ROLLBACK",
                _ => "COMMIT",
            };
            refuse(format!("{word}; use `transaction` of the host"))
        }
        A::Unknown { code, .. } => refuse(format!("an action unknown to the host ({code})")),
        _ => Ok(()),
    }
}

fn is_refused_table(rules: &Rules, table: &str) -> bool {
    lists::TABLES_REFUSED.iter().any(|refused| refused.eq_ignore_ascii_case(table))
        && !contains(&rules.modules, table)
}

/// Lists hold lower case; SQLite passes names on as they are registered, mostly lower case.
fn contains(list: &std::collections::BTreeSet<String>, name: &str) -> bool {
    list.contains(name) || list.contains(&name.to_ascii_lowercase())
}

/// The names of things that an action creates, changes or reads. Of all tables, ANALYZE and REINDEX
/// change nothing in any.
fn names<'a>(action: &AuthAction<'a>) -> [Option<&'a str>; 2] {
    use AuthAction as A;
    match *action {
        A::CreateIndex { index_name: one, table_name: two }
        | A::CreateTempIndex { index_name: one, table_name: two }
        | A::DropIndex { index_name: one, table_name: two }
        | A::DropTempIndex { index_name: one, table_name: two }
        | A::CreateTrigger { trigger_name: one, table_name: two }
        | A::CreateTempTrigger { trigger_name: one, table_name: two }
        | A::DropTrigger { trigger_name: one, table_name: two }
        | A::DropTempTrigger { trigger_name: one, table_name: two } => [Some(one), Some(two)],
        A::CreateTable { table_name: one }
        | A::CreateTempTable { table_name: one }
        | A::CreateVtable { table_name: one, .. }
        | A::CreateView { view_name: one }
        | A::CreateTempView { view_name: one }
        | A::DropTable { table_name: one }
        | A::DropTempTable { table_name: one }
        | A::DropVtable { table_name: one, .. }
        | A::DropView { view_name: one }
        | A::DropTempView { view_name: one }
        | A::Delete { table_name: one }
        | A::Insert { table_name: one }
        | A::Update { table_name: one, .. }
        | A::Read { table_name: one, .. }
        | A::AlterTable { table_name: one, .. } => [Some(one), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_name_is_known_in_any_case_and_quoting() {
        for name in ["_lapidary", "_lapidary_kv", "_LAPIDARY_kv"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["lapidary_kv", "x_lapidary_kv", "_lapidar", "", "_lapidarü"] {
            assert!(!is_reserved(name), "{name}");
        }
        for sql in
            ["ALTER TABLE t RENAME TO _Lapidary_kv", "rename [_lapidary_kv]", "`_LAPIDARY`ReName"]
        {
            assert!(renames_to_reserved(sql.as_bytes()), "{sql}");
        }
        assert!(!renames_to_reserved(b"ALTER TABLE t RENAME TO u"));
        assert!(!renames_to_reserved(b"SELECT value FROM _lapidary_kv"));
    }
}
