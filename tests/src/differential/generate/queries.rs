//! SELECT.

use super::Generator;
use super::schema::{Kind, Table};

impl Generator {
    /// A query of any kind.
    pub(super) fn query(&mut self) -> String {
        let table = self.table();
        match (table.kind, self.chance.below(16)) {
            (Kind::Words, 0..8) => self.match_words(&table),
            (Kind::Boxes, 0..8) => self.overlap(&table),
            (_, 0) => format!("SELECT * FROM {}", table.name),
            (_, 1) => format!(
                "SELECT count(*), total({}) FROM {}",
                self.column(&table.columns),
                table.name
            ),
            (_, 2) => self.grouped(&table),
            (_, 3) => self.joined(&table),
            (_, 4) => self.window(&table),
            (_, 5) => self.compound(&table),
            (_, 6) => self.recursive(&table),
            (_, 7) => self.correlated(&table),
            (_, 8) => self.json(&table),
            (_, 9) => self.schema_question(&table),
            (_, 10) => "SELECT changes(), total_changes(), last_insert_rowid()".to_owned(),
            (_, 11) => self.checksum(&table),
            (_, 12) => format!("EXPLAIN QUERY PLAN {}", self.plain(&table)),
            (_, 13) if self.chance.one_in(3) => self.broken(&table),
            _ => self.plain(&table),
        }
    }

    fn plain(&mut self, table: &Table) -> String {
        let distinct = self.chance.pick(&["", "", "", "DISTINCT "]);
        let rowid = if table.has_rowid && self.chance.one_in(3) { "rowid, " } else { "" };
        format!(
            "SELECT {distinct}{rowid}{}, {} FROM {} WHERE {} ORDER BY {}{} LIMIT {} OFFSET {}",
            self.column(&table.columns),
            self.expression(&table.columns, 2),
            table.name,
            self.condition(&table.columns),
            self.column(&table.columns),
            self.chance.pick(&["", " DESC", " COLLATE NOCASE", ", 1", " DESC NULLS LAST"]),
            self.chance.between(1, 200),
            self.chance.pick(&[0, 0, 3, 50])
        )
    }

    fn grouped(&mut self, table: &Table) -> String {
        format!(
            "SELECT {} AS grp, count(*), max({}), group_concat(typeof({}), ',') FROM {} GROUP BY grp \
             HAVING count(*) > {} ORDER BY 2, 1",
            self.expression(&table.columns, 1),
            self.column(&table.columns),
            self.column(&table.columns),
            table.name,
            self.chance.below(3)
        )
    }

    fn joined(&mut self, table: &Table) -> String {
        let other = self.table();
        let kind = self.chance.pick(&["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
        format!(
            "SELECT count(*), min(l.{}), max(r.{}) FROM (SELECT * FROM {} LIMIT 90) AS l {kind} \
             (SELECT * FROM {} LIMIT 90) AS r ON l.{} = r.{}",
            self.column(&table.columns),
            self.column(&other.columns),
            table.name,
            other.name,
            self.column(&table.columns),
            self.column(&other.columns)
        )
    }

    fn window(&mut self, table: &Table) -> String {
        let function = self.chance.pick(&["row_number()", "rank()", "ntile(3)", "percent_rank()"]);
        let frame = self.chance.pick(&[
            "ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING",
            "RANGE UNBOUNDED PRECEDING",
            "GROUPS BETWEEN CURRENT ROW AND 1 FOLLOWING EXCLUDE TIES",
        ]);
        let (column, order) = (self.column(&table.columns), self.column(&table.columns));
        format!(
            "SELECT {column}, {function} OVER (ORDER BY {order}), \
             count({column}) OVER (PARTITION BY typeof({order}) ORDER BY {order} {frame}), \
             lag({column}, 1, 'none') OVER (ORDER BY {order}, {column}) \
             FROM (SELECT * FROM {} LIMIT 150) ORDER BY {order}, {column}",
            table.name
        )
    }

    fn compound(&mut self, table: &Table) -> String {
        let other = self.table();
        let operator = self.chance.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
        format!(
            "SELECT {} FROM {} {operator} SELECT {} FROM {} ORDER BY 1 LIMIT 100",
            self.expression(&table.columns, 1),
            table.name,
            self.expression(&other.columns, 1),
            other.name
        )
    }

    fn recursive(&mut self, table: &Table) -> String {
        let materialized = self.chance.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
        format!(
            "WITH RECURSIVE walk(n, v) AS (SELECT 1, (SELECT {} FROM {} LIMIT 1) UNION ALL \
             SELECT n + 1, v || n FROM walk WHERE n < 9), rest AS {materialized}(SELECT * FROM {}) \
             SELECT n, v, (SELECT count(*) FROM rest) FROM walk",
            self.column(&table.columns),
            table.name,
            table.name
        )
    }

    fn correlated(&mut self, table: &Table) -> String {
        let other = self.table();
        let (outer, inner) = (self.column(&table.columns), self.column(&other.columns));
        format!(
            "WITH o AS (SELECT * FROM {} LIMIT 40) \
             SELECT {outer}, (SELECT count(*) FROM o WHERE o.{inner} = l.{outer}), \
             EXISTS (SELECT 1 FROM o WHERE o.{inner} > l.{outer}) \
             FROM (SELECT * FROM {} LIMIT 60) AS l ORDER BY 1, 2 LIMIT 25",
            other.name, table.name
        )
    }

    fn json(&mut self, table: &Table) -> String {
        let column = self.column(&table.columns);
        format!(
            "SELECT json_group_array(length({column})), json_group_object(typeof({column}), 1) ->> '$.text', \
             (SELECT sum(value) FROM json_each(json_array(1, 2.5, {}))) FROM {}",
            self.chance.below(50),
            table.name
        )
    }

    fn schema_question(&mut self, table: &Table) -> String {
        match self.chance.below(4) {
            0 => "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid".to_owned(),
            1 => "SELECT type, name, sql FROM sqlite_temp_schema ORDER BY rowid".to_owned(),
            2 => format!("SELECT * FROM pragma_table_xinfo('{}')", table.bare_name().replace('"', "")),
            _ => "SELECT name, path, pageno, pagetype, ncell, payload, unused FROM dbstat ORDER BY 1, 2".to_owned(),
        }
    }

    fn checksum(&mut self, table: &Table) -> String {
        let columns: Vec<String> =
            table.columns.iter().map(|column| format!("sum(length({column}) * 31)")).collect();
        format!("SELECT count(*), {} FROM {}", columns.join(", "), table.name)
    }

    fn broken(&mut self, table: &Table) -> String {
        let name = &table.name;
        match self.chance.below(7) {
            0 => format!("SELEC * FROM {name}"),
            1 => format!("SELECT nothing FROM {name}"),
            2 => format!("SELECT abs(-9223372036854775808) FROM {name}"),
            3 => format!("SELECT sum(9223372036854775807) FROM {name}, {name}"),
            4 => "SELECT json('{')".to_owned(),
            5 => "SELECT * FROM pragma_table_info()".to_owned(),
            _ => "SELECT zeroblob(2000000000) || 'x'".to_owned(),
        }
    }

    fn match_words(&mut self, table: &Table) -> String {
        let query = self.chance.pick(&[
            "stone",
            "ge*",
            "facet AND cut",
            "n3 OR lapis",
            "\"",
            "a : edition",
            "NOT x",
        ]);
        format!(
            "SELECT rowid, a, b FROM {0} WHERE {0} MATCH '{query}' ORDER BY rowid LIMIT 60",
            table.name
        )
    }

    fn overlap(&mut self, table: &Table) -> String {
        let at = self.chance.below(50);
        format!("SELECT * FROM {} WHERE b <= {} AND c >= {at} ORDER BY a", table.name, at + 5)
    }
}
