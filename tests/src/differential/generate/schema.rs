//! Tables, indexes, views, triggers, and changes of them.

use super::Generator;

/// A table as the generator thinks it is.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name, with its schema where that is not `main`.
    pub name: String,
    /// Columns that can be written.
    pub columns: Vec<String>,
    /// Whether its column `a` is a key of its own, which others can refer to.
    pub is_keyed: bool,
    /// Whether it has a rowid.
    pub has_rowid: bool,
    /// What it is.
    pub kind: Kind,
    /// The connection that alone can see it.
    pub owner: Option<usize>,
}

/// Kinds of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows of any values.
    Plain,
    /// FTS5.
    Words,
    /// R*Tree.
    Boxes,
    /// A view.
    View,
}

impl Table {
    /// One that does not exist.
    #[must_use]
    pub fn missing() -> Self {
        Self {
            name: "missing".to_owned(),
            columns: vec!["a".to_owned(), "b".to_owned()],
            is_keyed: false,
            has_rowid: true,
            kind: Kind::Plain,
            owner: None,
        }
    }

    /// Its name without the schema.
    #[must_use]
    pub fn bare_name(&self) -> &str {
        self.name.split_once('.').map_or(&self.name, |(_, name)| name)
    }
}

impl Generator {
    /// `CREATE TABLE` of some kind.
    pub(super) fn create_table(&mut self) -> String {
        match self.chance.below(14) {
            0 => self.create_words(),
            1 => self.create_boxes(),
            2 => self.create_table_as(),
            _ => self.create_plain_table(),
        }
    }

    /// A schema for a new table, and who sees it.
    fn place(&mut self) -> (&'static str, Option<usize>) {
        match self.chance.below(12) {
            0 => ("temp.", Some(self.connection)),
            1 if self.session().has_side => ("side.", Some(self.connection)),
            _ => ("", None),
        }
    }

    fn create_plain_table(&mut self) -> String {
        let (schema, owner) = self.place();
        let name = format!("{schema}{}", self.new_name("t"));
        let count = self.chance.between(1, 6) as usize;
        let columns: Vec<String> =
            ["a", "b", "c", "d", "e", "f"][..count].iter().map(ToString::to_string).collect();
        let strict = self.chance.one_in(8);
        let without_rowid = self.chance.one_in(5);
        let key = self.chance.below(if without_rowid { 2 } else { 4 });
        let mut parts = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            let mut part = format!("{column} {}", self.column_type(strict));
            if index == 0 && key == 0 {
                let auto = !without_rowid && self.chance.one_in(4);
                part = format!(
                    "a INTEGER PRIMARY KEY{}{}",
                    self.chance.pick(&["", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE"]),
                    if auto { " AUTOINCREMENT" } else { "" }
                );
            } else {
                part.push_str(&self.column_constraint(column));
            }
            parts.push(part);
        }
        if self.chance.one_in(6) {
            let from = self.chance.pick(&["coalesce(a, 0)", "length(a)", "a || 'g'", "typeof(a)"]);
            let stored = self.chance.pick(&["STORED", "VIRTUAL"]);
            parts.push(format!("g {} AS ({from}) {stored}", if strict { "ANY" } else { "" }));
        }
        if key == 1 {
            let direction = self.chance.pick(&["", " DESC"]);
            let second = columns.get(1).filter(|_| self.chance.one_in(2));
            let second = second.map_or_else(String::new, |column| format!(", {column}"));
            parts.push(format!("PRIMARY KEY (a{direction}{second})"));
        }
        if self.chance.one_in(6) {
            let conflict = self.chance.pick(&["", " ON CONFLICT IGNORE", " ON CONFLICT REPLACE"]);
            parts.push(format!("UNIQUE ({}){conflict}", columns[columns.len() - 1]));
        }
        let parent = self.table();
        if parent.is_keyed && self.chance.one_in(2) {
            let action = self.chance.pick(&[
                "",
                " ON DELETE CASCADE",
                " ON DELETE SET NULL",
                " ON UPDATE CASCADE",
            ]);
            let defer = self.chance.pick(&["", " DEFERRABLE INITIALLY DEFERRED"]);
            let (child, name) = (&columns[columns.len() - 1], parent.bare_name());
            parts.push(format!("FOREIGN KEY ({child}) REFERENCES {name}(a){action}{defer}"));
        }
        let mut options = Vec::new();
        options.extend(without_rowid.then_some("WITHOUT ROWID"));
        options.extend(strict.then_some("STRICT"));
        let sql = format!("CREATE TABLE {name}({}) {}", parts.join(", "), options.join(", "));
        let has_rowid = !without_rowid;
        let is_keyed = key == 0;
        self.tables.push(Table { name, columns, is_keyed, has_rowid, kind: Kind::Plain, owner });
        sql
    }

    fn column_type(&mut self, strict: bool) -> &'static str {
        if strict {
            self.chance.pick(&["INTEGER", "TEXT", "REAL", "BLOB", "ANY", "ANY"])
        } else {
            self.chance.pick(&["", "", "INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC"])
        }
    }

    fn column_constraint(&mut self, column: &str) -> String {
        match self.chance.below(24) {
            0 => " NOT NULL".to_owned(),
            1 => " NOT NULL ON CONFLICT REPLACE DEFAULT 7".to_owned(),
            2 => " UNIQUE".to_owned(),
            3 => format!(" CHECK ({column} IS NOT 13)"),
            4 => format!(" CHECK (length({column}) < 5000)"),
            5 => " COLLATE NOCASE".to_owned(),
            6 => format!(" DEFAULT ({})", self.value()),
            _ => String::new(),
        }
    }

    fn create_words(&mut self) -> String {
        let name = self.new_name("w");
        let options = self.chance.pick(&["", ", prefix='2'", ", detail=none", ", columnsize=0"]);
        let sql = format!("CREATE VIRTUAL TABLE {name} USING fts5(a, b{options})");
        let columns = vec!["a".to_owned(), "b".to_owned()];
        self.tables.push(Table {
            name,
            columns,
            is_keyed: false,
            has_rowid: true,
            kind: Kind::Words,
            owner: None,
        });
        sql
    }

    fn create_boxes(&mut self) -> String {
        let name = self.new_name("x");
        let sql = format!("CREATE VIRTUAL TABLE {name} USING rtree(a, b, c)");
        let columns = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        self.tables.push(Table {
            name,
            columns,
            is_keyed: false,
            has_rowid: true,
            kind: Kind::Boxes,
            owner: None,
        });
        sql
    }

    fn create_table_as(&mut self) -> String {
        let from = self.table();
        let name = self.new_name("t");
        let columns = vec!["p".to_owned(), "q".to_owned()];
        let sql = format!(
            "CREATE TABLE {name} AS SELECT {} AS p, {} AS q FROM {}",
            self.expression(&from.columns, 1),
            self.expression(&from.columns, 1),
            from.name
        );
        self.tables.push(Table {
            name,
            columns,
            is_keyed: false,
            has_rowid: true,
            kind: Kind::Plain,
            owner: from.owner,
        });
        sql
    }

    /// DDL of any kind.
    pub(super) fn change_schema(&mut self) -> String {
        match self.chance.below(20) {
            0..4 => self.create_table(),
            4..9 => self.create_index(),
            9 => self.create_view(),
            10..13 => self.create_trigger(),
            13..17 => self.alter_table(),
            17 => self.drop_table(),
            18 => self.attach(),
            _ => self.drop_other(),
        }
    }

    fn create_index(&mut self) -> String {
        let table = self.table();
        let name = self.new_name("i");
        let unique = if self.chance.one_in(5) { "UNIQUE " } else { "" };
        let column = |this: &mut Self| match this.chance.below(5) {
            0 => format!("{} DESC", this.column(&table.columns)),
            1 => format!("{} COLLATE NOCASE", this.column(&table.columns)),
            2 => format!("length({})", this.column(&table.columns)),
            _ => this.column(&table.columns),
        };
        let mut parts = vec![column(self)];
        if self.chance.one_in(3) {
            parts.push(column(self));
        }
        let partial = match self.chance.below(5) {
            0 => format!(" WHERE {} IS NOT NULL", self.column(&table.columns)),
            _ => String::new(),
        };
        let schema = table.name.split_once('.').map_or("", |(schema, _)| schema);
        let name = if schema.is_empty() { name } else { format!("{schema}.{name}") };
        self.others.push(("INDEX", name.clone()));
        let bare = table.bare_name();
        format!("CREATE {unique}INDEX {name} ON {bare}({}){partial}", parts.join(", "))
    }

    fn create_view(&mut self) -> String {
        let from = self.table();
        let name = self.new_name("v");
        self.others.push(("VIEW", name.clone()));
        let columns = vec!["p".to_owned(), "q".to_owned()];
        let sql = format!(
            "CREATE VIEW {name}(p, q) AS SELECT {}, {} FROM {} WHERE {}",
            self.expression(&from.columns, 1),
            self.column(&from.columns),
            from.bare_name(),
            self.condition(&from.columns)
        );
        self.tables.push(Table {
            name,
            columns,
            is_keyed: false,
            has_rowid: false,
            kind: Kind::View,
            owner: from.owner,
        });
        sql
    }

    fn create_trigger(&mut self) -> String {
        let (on, into) = (self.table(), self.table());
        let name = self.new_name("r");
        self.others.push(("TRIGGER", name.clone()));
        let moment = match on.kind {
            Kind::View => "INSTEAD OF",
            _ => self.chance.pick(&["BEFORE", "AFTER", "AFTER"]),
        };
        let event = self.chance.pick(&["INSERT", "UPDATE", "DELETE"]);
        let row = if event == "DELETE" { "OLD" } else { "NEW" };
        let column = self.column(&on.columns);
        let when = match self.chance.below(3) {
            0 => format!(" WHEN {row}.{column} IS NOT NULL"),
            _ => String::new(),
        };
        let target = self.column(&into.columns);
        let body = match self.chance.below(8) {
            0 => {
                let kind = self.chance.pick(&["ABORT", "FAIL", "ROLLBACK", "IGNORE"]);
                let what = if kind == "IGNORE" { String::new() } else { ", 'raised'".to_owned() };
                format!("SELECT RAISE({kind}{what}) WHERE {row}.{column} = 3")
            }
            1 => format!(
                "UPDATE {} SET {target} = {row}.{column} WHERE {target} = 5",
                into.bare_name()
            ),
            2 => format!("DELETE FROM {} WHERE {target} = {row}.{column}", into.bare_name()),
            _ => format!(
                "INSERT OR IGNORE INTO {}({target}) VALUES ({row}.{column})",
                into.bare_name()
            ),
        };
        let temp = if on.owner.is_some() { "TEMP " } else { "" };
        format!(
            "CREATE {temp}TRIGGER {name} {moment} {event} ON {}{when} BEGIN {body}; END",
            on.bare_name()
        )
    }

    fn alter_table(&mut self) -> String {
        let table = self.table();
        let index = self.tables.iter().position(|other| other.name == table.name);
        match self.chance.below(4) {
            0 => {
                let new = self.new_name("t");
                if let Some(index) = index {
                    let schema = table.name.strip_suffix(table.bare_name()).unwrap_or("");
                    self.tables[index].name = format!("{schema}{new}");
                }
                format!("ALTER TABLE {} RENAME TO {new}", table.name)
            }
            1 => {
                let column = self.column(&table.columns);
                let new = format!("{}z", column.trim_end_matches('z'));
                if let Some(index) = index
                    && table.kind == Kind::Plain
                {
                    let columns = self.tables[index].columns.iter_mut();
                    columns.filter(|old| **old == column).for_each(|old| old.clone_from(&new));
                }
                format!("ALTER TABLE {} RENAME COLUMN {column} TO {new}", table.name)
            }
            2 => {
                let new = self.chance.pick(&["h", "i", "j", "k"]);
                if let Some(index) = index
                    && table.kind == Kind::Plain
                    && !table.columns.iter().any(|column| column == new)
                {
                    self.tables[index].columns.push(new.to_owned());
                }
                let rest = match self.chance.below(4) {
                    0 => format!("DEFAULT {}", self.literal()),
                    1 => "NOT NULL DEFAULT 'added'".to_owned(),
                    2 => "AS (1 + 1)".to_owned(),
                    _ => String::new(),
                };
                format!("ALTER TABLE {} ADD COLUMN {new} {rest}", table.name)
            }
            _ => {
                let column = self.column(&table.columns);
                // Of two tables of one name the first is meant, whichever was picked.
                if let Some(columns) = index.map(|index| &mut self.tables[index].columns)
                    && table.kind == Kind::Plain
                    && columns.len() > 2
                    && let Some(position) = columns.iter().position(|old| *old == column)
                {
                    columns.remove(position);
                }
                format!("ALTER TABLE {} DROP COLUMN {column}", table.name)
            }
        }
    }

    fn drop_table(&mut self) -> String {
        let table = self.table();
        self.tables.retain(|other| other.name != table.name);
        let kind = if table.kind == Kind::View { "VIEW" } else { "TABLE" };
        format!("DROP {kind} {}", table.name)
    }

    fn drop_other(&mut self) -> String {
        if self.others.is_empty() {
            return "DROP INDEX missing".to_owned();
        }
        let (kind, name) = self.others.swap_remove(self.chance.index(self.others.len()));
        format!("DROP {kind} {name}")
    }

    fn attach(&mut self) -> String {
        let connection = self.connection;
        if std::mem::replace(&mut self.session().has_side, true) && self.chance.one_in(3) {
            self.session().has_side = false;
            self.tables.retain(|table| {
                table.owner != Some(connection) || !table.name.starts_with("side.")
            });
            return "DETACH side".to_owned();
        }
        "ATTACH ':memory:' AS side".to_owned()
    }
}
