//! INSERT, UPDATE, DELETE; values and expressions.

use super::Generator;
use super::schema::{Kind, Table};

/// Lengths of values: within a page of any size, around the smallest, and over several of most.
const LENGTHS: [u32; 7] = [3, 40, 300, 480, 3000, 9000, 70_000];

impl Generator {
    /// DML of any kind.
    pub(super) fn change_rows(&mut self) -> String {
        let table = self.table();
        match (table.kind, self.chance.below(12)) {
            (Kind::Words, 0..6) => self.insert_words(&table),
            (Kind::Words, 6) => self.words_command(&table),
            (Kind::Boxes, 0..6) => self.insert_boxes(&table),
            (_, 0..4) => self.insert(&table),
            (_, 4..6) => self.insert_many(&table),
            (_, 6..9) => self.update(&table),
            (_, 9) => self.insert_from(&table),
            _ => self.delete(&table),
        }
    }

    fn conflict(&mut self) -> &'static str {
        self.chance.pick(&[
            "",
            "",
            "",
            " OR IGNORE",
            " OR REPLACE",
            " OR FAIL",
            " OR ABORT",
            " OR ROLLBACK",
        ])
    }

    fn returning(&mut self, table: &Table) -> String {
        match self.chance.below(8) {
            0 => " RETURNING *".to_owned(),
            1 => format!(
                " RETURNING {}, typeof({})",
                self.column(&table.columns),
                self.column(&table.columns)
            ),
            _ => String::new(),
        }
    }

    fn insert(&mut self, table: &Table) -> String {
        let name = &table.name;
        if self.chance.one_in(20) {
            return format!("INSERT INTO {name} DEFAULT VALUES{}", self.returning(table));
        }
        let conflict = self.conflict();
        let rows = self.chance.between(1, 3);
        let row = |this: &mut Self| {
            let values: Vec<String> = table.columns.iter().map(|_| this.value()).collect();
            format!("({})", values.join(", "))
        };
        let rows: Vec<String> = (0..rows).map(|_| row(self)).collect();
        let upsert = match self.chance.below(10) {
            0 => " ON CONFLICT DO NOTHING".to_owned(),
            1 => format!(
                " ON CONFLICT DO UPDATE SET {} = excluded.{}",
                self.column(&table.columns),
                self.column(&table.columns)
            ),
            _ => String::new(),
        };
        let conflict = if upsert.is_empty() { conflict } else { "" };
        let columns = table.columns.join(", ");
        format!(
            "INSERT{conflict} INTO {name}({columns}) VALUES {}{upsert}{}",
            rows.join(", "),
            self.returning(table)
        )
    }

    /// Many rows at once, so that trees get deep, caches spill and statements fail half-way.
    fn insert_many(&mut self, table: &Table) -> String {
        let first = self.chance.below(400);
        let count = self.chance.pick(&[5, 30, 30, 120, 600]);
        let length = self.chance.pick(&LENGTHS[..5]) * 60 / count.max(60);
        let values: Vec<String> = table
            .columns
            .iter()
            .enumerate()
            .map(|(index, _)| match (index, self.chance.below(5)) {
                (0, 0..4) => "i".to_owned(),
                (_, 0) => format!("printf('%.*c', (i * 37) % {length}, char(97 + i % 26))"),
                (_, 1) => format!("zeroblob((i * 11) % {length})"),
                (_, 2) => format!("hex(i * {}) || i", self.chance.below(1000)),
                (_, 3) => format!("i % {}", self.chance.between(1, 20)),
                _ => format!("i * {}", self.chance.pick(&["0.5", "-1", "1e10", "3"])),
            })
            .collect();
        format!(
            "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n LIMIT {count}) \
             INSERT{} INTO {}({}) SELECT {} FROM n",
            self.conflict(),
            table.name,
            table.columns.join(", "),
            values.join(", ")
        )
    }

    fn insert_from(&mut self, table: &Table) -> String {
        let from = self.table();
        let values: Vec<String> =
            table.columns.iter().map(|_| self.expression(&from.columns, 1)).collect();
        format!(
            "INSERT{} INTO {}({}) SELECT {} FROM {} WHERE {} LIMIT {}",
            self.conflict(),
            table.name,
            table.columns.join(", "),
            values.join(", "),
            from.name,
            self.condition(&from.columns),
            self.chance.between(1, 300)
        )
    }

    fn update(&mut self, table: &Table) -> String {
        let conflict = self.conflict();
        let column = self.column(&table.columns);
        let value =
            if self.chance.one_in(2) { self.expression(&table.columns, 1) } else { self.value() };
        let from = match self.chance.below(10) {
            0 => {
                let from = self.table();
                format!(
                    " FROM (SELECT {} AS y FROM {} LIMIT 3) AS o",
                    self.column(&from.columns),
                    from.name
                )
            }
            _ => String::new(),
        };
        let condition = self.condition(&table.columns);
        format!(
            "UPDATE{conflict} {} SET {column} = {value}{from} WHERE {condition}{}",
            table.name,
            self.returning(table)
        )
    }

    fn delete(&mut self, table: &Table) -> String {
        if self.chance.one_in(12) {
            return format!("DELETE FROM {}", table.name);
        }
        format!(
            "DELETE FROM {} WHERE {}{}",
            table.name,
            self.condition(&table.columns),
            self.returning(table)
        )
    }

    fn insert_words(&mut self, table: &Table) -> String {
        let count = self.chance.pick(&[1, 3, 50]);
        let words = ["stone", "gem", "facet", "cut", "lapis", "Schliff", "édition"];
        let (one, two) = (self.chance.pick(&words), self.chance.pick(&words));
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count}) \
             INSERT INTO {}(a, b) SELECT '{one} ' || i || ' {two}', 'n' || (i % 7) FROM n",
            table.name
        )
    }

    fn words_command(&mut self, table: &Table) -> String {
        let command = self.chance.pick(&["optimize", "rebuild", "integrity-check", "delete-all"]);
        format!("INSERT INTO {0}({0}) VALUES ('{command}')", table.name)
    }

    fn insert_boxes(&mut self, table: &Table) -> String {
        let (count, first) = (self.chance.pick(&[1, 5, 120]), self.chance.below(200));
        format!(
            "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n LIMIT {count}) \
             INSERT{} INTO {} SELECT i, i % 50, i % 50 + {} FROM n",
            self.conflict(),
            table.name,
            self.chance.below(9)
        )
    }

    /// One of `columns`.
    pub(super) fn column(&mut self, columns: &[String]) -> String {
        columns[self.chance.index(columns.len())].clone()
    }

    /// A short literal.
    pub(super) fn literal(&mut self) -> String {
        match self.chance.below(12) {
            0 => "NULL".to_owned(),
            1 => format!("-{}", self.chance.below(1000)),
            // Far from the largest rowid: after that one SQLite tries others at random.
            2 => self
                .chance
                .pick(&["9007199254740993", "-9007199254740993", "4294967296"])
                .to_owned(),
            3 => self.chance.pick(&["0.5", "-1.25e10", "1e15", "3.0"]).to_owned(),
            4 => self
                .chance
                .pick(&["'A'", "'a'", "''", "'it''s'", "'ünï'", "'12'", "'1.5x'"])
                .to_owned(),
            5 => self.chance.pick(&["x''", "x'00'", "x'ff00ff'", "x'414243'"]).to_owned(),
            _ => self.chance.below(40).to_string(),
        }
    }

    /// A value of any length.
    pub(super) fn value(&mut self) -> String {
        let length = self.chance.pick(&LENGTHS);
        match self.chance.below(16) {
            0 => format!("zeroblob({length})"),
            1 => format!("printf('%.*c', {length}, '{}')", self.chance.pick(&["x", "y", "ß"])),
            2 => format!("hex(zeroblob({}))", length / 2),
            3 => format!("CAST(printf('%0*d', {length}, {}) AS BLOB)", self.chance.below(99)),
            4 => format!("'k' || {}", self.chance.below(300)),
            _ => self.literal(),
        }
    }

    /// An expression over `columns`, nested up to `depth`.
    pub(super) fn expression(&mut self, columns: &[String], depth: u32) -> String {
        if depth == 0 || self.chance.one_in(4) {
            return if self.chance.one_in(3) { self.literal() } else { self.column(columns) };
        }
        let one = self.expression(columns, depth - 1);
        let two = self.expression(columns, depth - 1);
        match self.chance.below(18) {
            0 => format!("({one} + {two})"),
            1 => format!("({one} || {two})"),
            2 => {
                format!("({one} {} {two})", self.chance.pick(&["-", "*", "/", "%", "&", "|", "<<"]))
            }
            3 => format!("coalesce({one}, {two})"),
            4 => format!("length({one})"),
            5 => format!("substr({one}, {}, {})", self.chance.below(9), self.chance.below(20)),
            6 => format!("typeof({one})"),
            7 => format!("CASE WHEN {one} > {two} THEN {one} ELSE {two} END"),
            8 => format!("CAST({one} AS {})", self.chance.pick(&["TEXT", "REAL", "BLOB"])),
            9 => format!("quote(substr({one}, 1, 30))"),
            10 => format!("json_array(typeof({one}), {})", self.chance.below(9)),
            11 => format!("({one} IN ({two}, 1, 2, NULL))"),
            12 => format!("upper({one})"),
            13 => format!("min({one}, {two})"),
            14 => format!("hex(substr({one}, 1, 9))"),
            15 => format!("abs({one})"),
            16 => format!("iif({one} IS {two}, 1, 0)"),
            _ => format!("instr({one}, {two})"),
        }
    }

    /// Something to filter by: usually a part of the rows.
    pub(super) fn condition(&mut self, columns: &[String]) -> String {
        let column = self.column(columns);
        match self.chance.below(16) {
            0 => format!("{column} = {}", self.literal()),
            1 => format!("{column} > {}", self.literal()),
            2 => format!(
                "{column} BETWEEN {0} AND {0} + {1}",
                self.chance.below(300),
                self.chance.below(200)
            ),
            3 => format!("{column} IS NULL"),
            4 => format!("{column} IS NOT {}", self.literal()),
            5 => format!("{column} LIKE '%{}%'", self.chance.pick(&["a", "1", "x", "k2", ""])),
            6 => format!("{column} IN (1, 2, 3, 5, 8, 13, 21, 'A')"),
            7 => format!("length({column}) > {}", self.chance.pick(&LENGTHS)),
            8 => {
                let table = self.table();
                format!("{column} IN (SELECT {} FROM {})", self.column(&table.columns), table.name)
            }
            9 => {
                let one = self.condition(columns);
                format!("({one} OR {column} % 7 = 1)")
            }
            10 => "1".to_owned(),
            11 => format!("{column} GLOB '*{}*'", self.chance.pick(&["1", "[a-f]", "x"])),
            _ => format!("{column} % {} = {}", self.chance.between(2, 9), self.chance.below(5)),
        }
    }
}
