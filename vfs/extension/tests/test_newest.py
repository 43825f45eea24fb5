"""The extension in a SQLite newer than the system's: the one that the package `apsw` has in it.

    LAPIDARY_EXTENSION=target/extension/release/liblapidary_vfs python3 -m unittest -v test_newest
"""

import json
import os
import sqlite3
import tempfile
import unittest

import apsw

EXTENSION = os.path.abspath(os.environ["LAPIDARY_EXTENSION"])


class Newest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        loader = apsw.Connection(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(EXTENSION)

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.store = os.path.join(directory.name, "store")

    def open(self, name, more=""):
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"file:{name}?vfs=lapidary&store={self.store}{more}", flags=flags)

    def one(self, connection, sql, *arguments):
        return connection.execute(sql, arguments).fetchone()[0]

    def test_it_is_newer(self):
        self.assertGreater(apsw.SQLITE_VERSION_NUMBER, sqlite3.sqlite_version_info[1] * 1000 + 3000000)

    def test_written_and_read_again(self):
        a = self.open("a")
        a.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1), (2); BEGIN; DELETE FROM t; ROLLBACK")
        a.execute("CREATE INDEX i ON t(x); VACUUM")
        a.execute(f"ATTACH 'file:b?vfs=lapidary&store={self.store}' AS b")
        a.execute("BEGIN; CREATE TABLE b.u AS SELECT * FROM t; DELETE FROM t WHERE x = 1; COMMIT")
        a.execute("PRAGMA mmap_size=1000000")
        self.assertEqual(self.one(a, "SELECT count(*) FROM t"), 1)
        a.close()
        self.assertEqual(self.one(self.open("b"), "SELECT sum(x) FROM u"), 3)
        for name in "ab":
            self.assertEqual(self.one(self.open(name), "PRAGMA integrity_check"), "ok")

    def test_functions(self):
        a = self.open("a")
        self.one(a, "SELECT lapidary_retention('a', 1000000, 60)")
        a.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
        before = self.one(a, "SELECT lapidary_bookmark()")
        a.execute("DELETE FROM t")
        self.assertEqual(self.one(self.open("a", f"&at={before}"), "SELECT x FROM t"), 1)
        self.one(a, "SELECT lapidary_fork('a', 'b', ?)", before)
        self.assertEqual(self.one(self.open("b"), "SELECT x FROM t"), 1)
        names = a.execute("SELECT name FROM lapidary_list").fetchall()
        self.assertEqual(names, [("a",), ("b",)])
        self.assertEqual(json.loads(self.one(a, "PRAGMA lapidary_stat"))["name"], "a")
        self.assertEqual(self.one(a, "PRAGMA lapidary_verify"), "ok")
        self.one(a, "SELECT lapidary_delete('b')")
        with self.assertRaisesRegex(apsw.SQLError, "no such facet"):
            self.one(a, "SELECT lapidary_stat('b')")

    def test_another_sqlite_library_of_the_process_is_refused(self):
        other = sqlite3.connect(":memory:")
        other.enable_load_extension(True)
        with self.assertRaisesRegex(sqlite3.OperationalError, "another SQLite library"):
            other.load_extension(EXTENSION)
        self.assertEqual(self.one(self.open("a"), "SELECT 1"), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
