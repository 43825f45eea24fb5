"""The extension in the programs it is for: the `sqlite3` shell and Python's `sqlite3`.

    LAPIDARY_EXTENSION=target/extension/release/liblapidary_vfs python3 -m unittest -v test_extension

Each test has a directory, and a process of its own for each life of a program: the extension reads its
settings when it is loaded, and a store is closed when its last connection is.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import unittest

EXTENSION = os.path.abspath(os.environ["LAPIDARY_EXTENSION"])

# Begins every Python program here. `error` runs what is to fail and gives SQLite's words.
PRELUDE = f"""
import json, os, signal, sqlite3, sys, threading
EXTENSION = {EXTENSION!r}

def load(connection):
    connection.enable_load_extension(True)
    connection.load_extension(EXTENSION)
    connection.enable_load_extension(False)
    return connection

def facet(name, store="store", more="", **options):
    uri = f"file:{{name}}?vfs=lapidary&store={{store}}{{more}}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, **options)

def one(connection, sql, *arguments):
    return connection.execute(sql, arguments).fetchone()[0]

def error(body):
    try:
        body()
    except sqlite3.Error as error:
        return str(error)
    raise AssertionError("it did not fail")

loader = load(sqlite3.connect(":memory:"))
"""


class Case(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def environment(self, settings):
        environment = {key: value for key, value in os.environ.items() if "LAPIDARY" not in key}
        return environment | settings

    def start(self, program, *arguments, **settings):
        """Starts a Python program that has loaded the extension."""
        return subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program), *arguments],
            cwd=self.directory,
            env=self.environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python(self, program, *arguments, **settings):
        """Runs a Python program to its end, and gives what it printed."""
        return self.end_of(self.start(program, *arguments, **settings))

    def end_of(self, process):
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (0, ""), out)
        return out.strip()

    def shell(self, *commands, check=True, **settings):
        """Runs commands in the `sqlite3` shell, which has loaded the extension."""
        done = subprocess.run(
            ["sqlite3", "-batch", "-bail", ":memory:", f".load {EXTENSION}", *commands],
            cwd=self.directory,
            env=self.environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check:
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
            return done.stdout.strip()
        return (done.stdout + done.stderr).strip()


class Facets(Case):
    def test_written_by_one_program_and_read_by_another(self):
        self.shell(
            ".open 'file:tenants/acme?vfs=lapidary&store=store'",
            "CREATE TABLE note(body); INSERT INTO note VALUES ('hello'), ('again');",
        )
        read = """
            acme = facet("tenants/acme", more="&mode=ro")
            print(one(acme, "SELECT group_concat(body) FROM note"), one(acme, "PRAGMA integrity_check"))
            print(error(lambda: acme.execute("INSERT INTO note VALUES ('no')")))
        """
        self.assertEqual(
            self.python(read), "hello,again ok\nattempt to write a readonly database"
        )
        self.assertEqual(
            self.shell(
                ".open 'file:tenants/acme?vfs=lapidary&store=store'",
                "INSERT INTO note VALUES ('more')",
                "SELECT count(*) FROM note",
            ),
            "3",
        )

    def test_several_stores_and_a_file_in_one_process(self):
        self.python("""
            for store in ["one", "two"]:
                facet("a", store).executescript(f"CREATE TABLE t AS SELECT '{store}' AS x")
            a = facet("a", os.path.abspath("one"))
            a.execute("ATTACH 'file:a?vfs=lapidary&store=two' AS two")
            a.execute("ATTACH 'file:plain.db?vfs=unix' AS plain")
            assert one(a, "SELECT main.t.x || two.t.x FROM main.t, two.t") == "onetwo"
            a.execute("CREATE TABLE plain.t AS SELECT x FROM two.t")
            a.execute("VACUUM INTO 'file:copy.db?vfs=unix'")
            assert [row[1] for row in a.execute("PRAGMA database_list")] == ["main", "two", "plain"]
        """)
        for path, x in [("plain.db", "two"), ("copy.db", "one")]:
            plain = sqlite3.connect(os.path.join(self.directory, path))
            self.assertEqual(plain.execute("SELECT x FROM t").fetchall(), [(x,)])

    def test_a_store_and_a_facet_are_created_as_a_file_would_be(self):
        self.python("""
            assert "unable to open" in error(lambda: facet("a", more="&mode=rw"))
            assert not os.path.exists("store")
            assert "no store here" in one(loader, "SELECT lapidary_last_error()")
            facet("a", "deep/new/store").execute("CREATE TABLE t(x)")
            assert os.path.exists("deep/new/store/SUPERBLOCK")
            assert "unable to open" in error(lambda: facet("b", "deep/new/store", "&mode=ro"))
            assert "facet b: no such facet" in one(loader, "SELECT lapidary_last_error()")
            assert "unable to open" in error(lambda: facet("a", "new", "&at=x"))
            assert not os.path.exists("new")
            os.mkdir("else"), open("else/file", "w").close()
            assert "unable to open" in error(lambda: facet("a", "else"))
            assert "not a store" in one(loader, "SELECT lapidary_last_error()")
        """)

    def test_what_is_acknowledged_survives_a_kill(self):
        process = self.start("""
            a = facet("a")
            a.execute("CREATE TABLE t(x INTEGER PRIMARY KEY)")
            for x in range(1, 1000000):
                a.execute("INSERT INTO t VALUES (?)", (x,))
                print(x, flush=True)
        """)
        for _ in range(200):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = [int(line) for line in process.stdout.read().split()]
        process.communicate()
        found = self.python("""
            a = facet("a")
            assert one(a, "PRAGMA integrity_check") == "ok" and one(a, "PRAGMA lapidary_verify") == "ok"
            print(one(a, "SELECT max(x) FROM t"), one(a, "SELECT count(*) FROM t"))
        """)
        last, count = map(int, found.split())
        self.assertEqual(last, count)
        # One more may have been committed that could not say so.
        self.assertIn(last - (rest or [acknowledged])[-1], [0, 1])

    def test_threads_share_a_store(self):
        self.python("""
            facet("a").execute("CREATE TABLE t(x)")
            def work(number):
                mine, shared = facet(f"t{number}"), facet("a", timeout=30)
                mine.execute("CREATE TABLE t(x)")
                for x in range(50):
                    mine.execute("INSERT INTO t VALUES (?)", (x,))
                    shared.execute("BEGIN IMMEDIATE")
                    shared.execute("INSERT INTO t VALUES (?)", (number * 1000 + x,))
                    shared.execute("COMMIT")
                mine.close(), shared.close()
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            [thread.start() for thread in threads], [thread.join() for thread in threads]
            assert one(facet("a"), "SELECT count(DISTINCT x) FROM t") == 200
            assert one(facet("t3"), "SELECT count(*) FROM t") == 50
        """)

    def test_a_transaction_over_several_facets_is_one(self):
        self.python("""
            a = facet("a")
            a.execute("ATTACH 'file:b?vfs=lapidary&store=store' AS b")
            a.execute("ATTACH 'file:a?vfs=lapidary&store=other' AS other")
            for schema in ["main", "b", "other"]:
                a.execute(f"CREATE TABLE {schema}.t(x)")
            a.executescript("BEGIN; INSERT INTO main.t VALUES (1); INSERT INTO b.t VALUES (1); COMMIT")
            a.executescript("BEGIN; INSERT INTO main.t VALUES (2); INSERT INTO other.t VALUES (2)")
            assert "disk I/O error" in error(lambda: a.execute("COMMIT"))
            assert "several stores" in one(loader, "SELECT lapidary_last_error()")
            counts = [one(a, f"SELECT count(*) FROM {schema}.t") for schema in ["main", "b", "other"]]
            assert counts == [1, 1, 0], counts
        """)

    def test_transactions(self):
        self.python("""
            a = facet("a")
            a.executescript("CREATE TABLE t(x); BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s;"
                "INSERT INTO t VALUES (2); ROLLBACK TO s; COMMIT; BEGIN; DELETE FROM t; ROLLBACK")
            assert a.execute("SELECT x FROM t").fetchall() == [(1,)]
            assert one(a, "PRAGMA journal_mode=WAL") == "delete"
            assert "journal_mode=OFF is refused" in error(lambda: a.execute("PRAGMA journal_mode=OFF"))
            a.execute("CREATE TEMP TABLE big AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
                "FROM c LIMIT 20000) SELECT x, randomblob(100) AS b FROM c ORDER BY b")
            a.execute("CREATE TABLE copy AS SELECT * FROM big"), a.execute("VACUUM")
            assert one(a, "SELECT sum(x) FROM copy") == 200010000
            backup = sqlite3.connect(":memory:")
            a.backup(backup)
            assert one(backup, "SELECT sum(x) FROM copy") == 200010000
            backup.backup(facet("restored"))
            assert one(facet("restored"), "SELECT sum(x) FROM copy") == 200010000
            a.execute("PRAGMA mmap_size=100000000")
            assert one(a, "SELECT count(*) FROM copy WHERE length(b) = 100") == 20000
        """)


class Loading(Case):
    def test_again_and_in_other_connections(self):
        self.python("""
            load(loader)
            a = load(facet("a"))
            load(load(sqlite3.connect(":memory:")))
            a.execute("CREATE TABLE t(x)")
            loader.close()
            assert json.loads(one(facet("a"), "SELECT lapidary_stat()"))["facets"] == 1
        """)
        self.shell(".open 'file:a?vfs=lapidary&store=store'", f".load {EXTENSION}", "SELECT * FROM t")

    def test_signals_are_left_to_the_program(self):
        self.python("""
            a, blocked = facet("a"), []
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{thread}/status") as file:
                    fields = dict(line.split(":", 1) for line in file)
                mask, name = int(fields["SigBlk"], 16), fields["Name"].strip()
                assert int(thread) != os.getpid() or mask == 0
                if name.startswith("lapidary"):
                    blocked.append((mask >> signal.SIGTERM - 1 & 1, mask >> signal.SIGSEGV - 1 & 1))
            assert blocked == [(1, 0), (1, 0)], blocked
        """)

    def test_the_process_ends_with_connections_open(self):
        for end in ["sys.exit(0)", "os._exit(0)", "os.kill(os.getpid(), 15)"]:
            with self.subTest(end):
                process = self.start(f"""
                    a = facet("a")
                    a.execute("CREATE TABLE IF NOT EXISTS t(x)"), a.execute("INSERT INTO t VALUES (1)")
                    stuck = threading.Thread(target=threading.Event().wait, daemon=True)
                    stuck.start()
                    a.execute("BEGIN IMMEDIATE"), a.execute("INSERT INTO t VALUES (2)")
                    {end}
                """)
                out, err = process.communicate(timeout=60)
                self.assertEqual((out, err), ("", ""))
                self.assertEqual(process.returncode, -15 if "kill" in end else 0)
        self.assertEqual(self.python("print(one(facet('a'), 'SELECT sum(x) FROM t'))"), "3")
        self.shell(".open 'file:a?vfs=lapidary&store=store'", "BEGIN; DELETE FROM t;", ".quit")
        self.assertEqual(self.python("print(one(facet('a'), 'SELECT sum(x) FROM t'))"), "3")

    def test_the_process_ends_in_the_middle_of_work(self):
        for _ in range(3):
            self.python("""
                import time
                def work(name):
                    mine = facet(name)
                    mine.execute("CREATE TABLE IF NOT EXISTS t(x)")
                    while True:
                        mine.execute("INSERT INTO t VALUES (randomblob(20000))")
                        mine.execute("DELETE FROM t WHERE rowid < (SELECT max(rowid) - 20 FROM t)")
                for name in "abc":
                    threading.Thread(target=work, args=(name,), daemon=True).start()
                time.sleep(0.5)
            """)
        self.python("assert one(facet('a'), 'PRAGMA lapidary_verify') == 'ok'")

    def test_settings_that_are_wrong(self):
        answer = self.shell(check=False, LAPIDARY_DEFAULT_VFS="maybe")
        self.assertIn("LAPIDARY_DEFAULT_VFS is \"maybe\"; it is 1 or 0", answer)

    def test_a_forked_process_is_refused(self):
        self.python("""
            a = facet("a")
            a.execute("CREATE TABLE t(x)"), a.execute("BEGIN IMMEDIATE"), a.execute("INSERT INTO t VALUES (1)")
            child = os.fork()
            if child == 0:
                # A crash of the child would be seen, and so would a change to the parent's transaction.
                words = [error(lambda: a.execute("COMMIT")), error(lambda: facet("b"))]
                words.append(one(loader, "SELECT lapidary_last_error()"))
                other = facet("b", "other")
                other.execute("CREATE TABLE t(x)"), other.close(), a.close()
                good = "disk I/O error" in words[0] and "locked" in words[1] and "another process" in words[2]
                os.write(2, b"" if good else repr(words).encode())
                os._exit(0 if good else 1)
            assert os.waitpid(child, 0)[1] == 0
            a.execute("COMMIT")
            assert one(facet("a"), "SELECT count(*) FROM t") == 1
            assert one(facet("b", "other"), "SELECT count(*) FROM t") == 0
        """)


class DefaultVfs(Case):
    SETTINGS = {"LAPIDARY_DEFAULT_VFS": "1", "LAPIDARY_STORE": "store"}

    def test_plain_names_and_paths_are_facets(self):
        self.shell(".open my.db", "CREATE TABLE t AS SELECT 1 AS x", **self.SETTINGS)
        self.assertEqual(sorted(os.listdir(self.directory)), ["store"])
        self.python(
            """
            os.mkdir("sub"), os.chdir("sub")
            for path in ["my.db", "./my.db", "/my.db", "x/../my.db", "file:my.db", "file:///my.db"]:
                my = sqlite3.connect(path, uri=path.startswith("file:"))
                assert one(my, "SELECT x FROM t") == 1, path
            home = sqlite3.connect(os.path.expanduser("/home/u/app/db.sqlite3"))
            home.execute("CREATE TABLE t(x)")
            home.execute("ATTACH 'my.db' AS my")
            assert [row[2] for row in home.execute("PRAGMA database_list")] == ["home/u/app/db.sqlite3", "my.db"]
            assert "unable to open" in error(lambda: sqlite3.connect("../my.db"))
            assert "`..` leads out" in one(home, "SELECT lapidary_last_error()")
            names = [row[0] for row in home.execute("SELECT name FROM lapidary_list")]
            assert names == ["home/u/app/db.sqlite3", "my.db"], names
            assert os.listdir(".") == []
            """,
            **self.SETTINGS,
        )

    def test_memory_and_temporary_databases_and_files(self):
        self.python(
            """
            for name in [":memory:", "", "file::memory:?cache=shared", "file:x?mode=memory"]:
                memory = sqlite3.connect(name, uri=True)
                memory.execute("CREATE TABLE t AS SELECT 1 AS x")
                memory.execute("CREATE TEMP TABLE u AS SELECT randomblob(1000) FROM t")
                assert one(memory, "SELECT x FROM t") == 1
                assert "is no facet" in error(lambda: memory.execute("SELECT lapidary_bookmark()"))
            file = sqlite3.connect("file:plain.db?vfs=unix", uri=True)
            file.execute("CREATE TABLE t(x)")
            assert os.path.exists("plain.db") and not os.path.exists("store")
            """,
            **self.SETTINGS,
        )

    def test_without_a_store(self):
        self.python(
            """
            assert "unable to open" in error(lambda: sqlite3.connect("my.db"))
            assert "set a default store" in one(loader, "SELECT lapidary_last_error()")
            assert "set a default store" in error(lambda: loader.execute("SELECT lapidary_stat()"))
            assert "set a default store" in error(lambda: loader.execute("SELECT * FROM lapidary_list"))
            """,
            LAPIDARY_DEFAULT_VFS="1",
        )


class Functions(Case):
    def test_forks_bookmarks_and_the_past(self):
        self.python("""
            a = facet("agents/a")
            one(a, "SELECT lapidary_retention('agents', 1000000, 3600)")
            a.executescript("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
            before = one(a, "SELECT lapidary_bookmark()")
            a.execute("INSERT INTO t VALUES (2)")
            after = one(a, "SELECT lapidary_bookmark('main')")
            assert before < after and one(a, "SELECT lapidary_bookmark()") == after

            assert one(a, "SELECT lapidary_fork('agents/a', 'agents/b')") == "agents/b"
            assert one(a, "SELECT lapidary_fork('agents/a', '/agents/./c', ?)", before) == "agents/c"
            counts = [one(facet(f"agents/{name}"), "SELECT count(*) FROM t") for name in "abc"]
            assert counts == [2, 2, 1], counts

            past = facet("agents/a", more=f"&at={before}")
            assert one(past, "SELECT count(*) FROM t") == 1
            assert "readonly" in error(lambda: past.execute("DELETE FROM t"))
            a.execute(f"ATTACH 'file:agents/a?vfs=lapidary&store=store&at={before}' AS past")
            assert one(a, "SELECT x FROM main.t EXCEPT SELECT x FROM past.t") == 2

            for words, sql in [
                ("no bookmark", "SELECT lapidary_fork('agents/a', 'd', 'yesterday')"),
                ("exists already", "SELECT lapidary_fork('agents/a', 'agents/b')"),
                ("no such facet", "SELECT lapidary_fork('nobody', 'd')"),
                ("names no facet", "SELECT lapidary_fork('agents/a', 'd/')"),
                ("is to be a text", "SELECT lapidary_fork('agents/a', 7)"),
                ("0 or more", "SELECT lapidary_retention('agents', -1, 0)"),
                ("is no facet", "SELECT lapidary_bookmark('temp')"),
                ("is no facet", "SELECT lapidary_bookmark('nothing')"),
                ("wrong number of arguments", "SELECT lapidary_fork('agents/a')"),
            ]:
                assert words in error(lambda: a.execute(sql)), (sql, error(lambda: a.execute(sql)))
            assert "unable to open" in error(lambda: facet("agents/a", more="&at=yesterday"))
            assert "no bookmark" in one(a, "SELECT lapidary_last_error()")
            assert one(a, "SELECT lapidary_last_error()") is None
        """)

    def test_lists_figures_and_deletion(self):
        self.python("""
            names = [f"many/{number:04}" for number in range(600)] + ["one"]
            a = facet("one", more="&mode=rwc")
            a.executescript("PRAGMA page_size=1024; CREATE TABLE t(x)")
            one(a, "SELECT lapidary_fork('one', 'many/0000')")
            for name in names[1:-1]:
                one(a, "SELECT lapidary_fork('many/0000', ?)", name)
            rows = a.execute("SELECT * FROM lapidary_list").fetchall()
            assert [row[0] for row in rows] == names
            assert set(row[1:] for row in rows) == {(1024, 2, 2048)}
            assert one(a, "SELECT count(*) FROM lapidary_list('many')") == 600
            assert one(a, "SELECT count(*) FROM lapidary_list('/many/./0007')") == 1
            assert one(a, "SELECT count(*) FROM lapidary_list('nobody')") == 0
            assert one(a, "SELECT sum(bytes) FROM lapidary_list('')") == 601 * 2048
            assert one(a, "SELECT count(*) FROM lapidary_list WHERE prefix = 'one'") == 1
            joined = "SELECT count(*) FROM (SELECT 'many/0001' AS p UNION SELECT 'one') JOIN lapidary_list(p)"
            assert one(a, joined) == 2
            assert "names no facet" in error(lambda: a.execute("SELECT * FROM lapidary_list('a/')"))

            stat = json.loads(one(a, "SELECT lapidary_stat('one')"))
            assert stat == json.loads(one(a, "PRAGMA lapidary_stat"))
            assert (stat["name"], stat["pages"], stat["bytes"]) == ("one", 2, 2048)
            assert stat["bookmark"] == one(a, "SELECT lapidary_bookmark()")
            store = json.loads(one(a, "SELECT lapidary_stat()"))
            assert (store["facets"], store["path"]) == (601, os.path.abspath("store"))
            assert "no such facet" in error(lambda: a.execute("SELECT lapidary_stat('nobody')"))
            assert one(a, "PRAGMA lapidary_verify") == "ok"
            assert "no such pragma" in error(lambda: a.execute("PRAGMA lapidary_nothing"))

            other = facet("many/0001")
            one(a, "SELECT lapidary_delete('many')")
            assert a.execute("SELECT name FROM lapidary_list").fetchall() == [("one",)]
            error(lambda: other.execute("SELECT * FROM t"))
            assert "no such facet" in error(lambda: a.execute("SELECT lapidary_delete('many')"))
        """)

    def test_schemas_cannot_call_them(self):
        self.python("""
            a = facet("a")
            a.executescript('''
                CREATE TABLE t(x);
                CREATE VIEW gone AS SELECT lapidary_delete('a');
                CREATE TRIGGER gone AFTER INSERT ON t BEGIN SELECT lapidary_delete('a'); END;
                CREATE VIEW names AS SELECT * FROM lapidary_list;
            ''')
            for sql in ["SELECT * FROM gone", "INSERT INTO t VALUES (1)", "SELECT * FROM names"]:
                assert "unsafe use of" in error(lambda: a.execute(sql).fetchall()), sql
        """)

    def test_which_store_they_use(self):
        self.python(
            """
            facet("a", "named").execute("CREATE TABLE t(x)")
            assert "no store here" in error(lambda: loader.execute("SELECT lapidary_stat()"))
            sqlite3.connect("file:b?vfs=lapidary", uri=True).execute("CREATE TABLE t(x)")
            names = "SELECT group_concat(name) FROM lapidary_list"
            assert one(loader, names) == "b"
            assert one(facet("a", "named"), names) == "a"
            one(loader, "SELECT lapidary_fork('b', 'c')")
            loader.execute("SELECT * FROM lapidary_list").fetchone()
            assert one(loader, names) == "b,c"
            """,
            LAPIDARY_STORE="default",
        )


class Errors(Case):
    def test_a_store_that_another_process_has(self):
        holder = self.start("""
            a = facet("a")
            a.execute("CREATE TABLE t(x)")
            print("open", flush=True), sys.stdin.readline()
        """)
        self.assertEqual(holder.stdout.readline(), "open\n")
        self.python("""
            assert error(lambda: facet("a")) == "database is locked"
            assert "is locked by another process" in one(loader, "SELECT lapidary_last_error()")
        """)
        answer = self.shell(".open 'file:a?vfs=lapidary&store=store'", check=False)
        self.assertIn("database is locked", answer)
        holder.stdin.write("\n")
        self.end_of(holder)
        self.python("facet('a').execute('INSERT INTO t VALUES (1)')")

    def test_parameters_that_are_wrong(self):
        self.python("""
            for words, more in [
                ("`lapidary_at` is refused", "&lapidary_at=1"),
                ("`AT` is refused", "&AT=1"),
                ("`Store` is refused", "&Store=x"),
                ("`nolock` is refused", "&nolock=1"),
                ("`immutable` is refused", "&immutable=1"),
                ("no gate has this token", "&lapidary_gate=1"),
            ]:
                assert "unable to open" in error(lambda: facet("a", more=more)), more
                said = one(loader, "SELECT lapidary_last_error()")
                assert words in said, (more, said)
            assert "unable to open" in error(lambda: facet("a", ""))
            assert "`store` is empty" in one(loader, "SELECT lapidary_last_error()")
            assert "unable to open" in error(lambda: sqlite3.connect("file:a?vfs=lapidary", uri=True))
            assert "no store is named" in one(loader, "SELECT lapidary_last_error()")
            for name in ["a/", "%2E%2E/a", "x" * 513, "a%0Ab"]:
                assert "unable to open" in error(lambda: facet(name)), name
        """)


class Documentation(Case):
    """What docs/EXTENSION.md shows is what happens."""

    def blocks(self, language):
        path = os.path.join(os.path.dirname(__file__), "../../../docs/EXTENSION.md")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        text = text.replace("./liblapidary_vfs", EXTENSION).replace("/var/lib/app/store", "store")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        return [block for found, block in blocks if found == language]

    def test_the_shell(self):
        (session,) = [block for block in self.blocks("") if "sqlite> " in block]
        lines = session.splitlines()[1:]
        commands = [line.removeprefix("sqlite> ") for line in lines if line.startswith("sqlite> ")]
        shown = [line for line in lines if not line.startswith("sqlite> ")]
        self.assertEqual(self.shell(*commands).splitlines(), shown)

    def test_the_default_vfs(self):
        (command,) = [block for block in self.blocks("sh") if "DEFAULT_VFS" in block]
        subprocess.run(["sh", "-ec", command], cwd=self.directory, check=True)
        self.assertEqual(sorted(os.listdir(self.directory)), ["store"])

    def test_python(self):
        opened, failed = self.blocks("python")
        said = self.python(opened + failed)
        self.assertEqual(said + "\n", self.blocks("")[-1])

    def test_from_a_file_and_back(self):
        (sql,) = self.blocks("sql")
        old = sqlite3.connect(os.path.join(self.directory, "old.db"))
        old.executescript("CREATE TABLE note(body); INSERT INTO note VALUES ('kept')")
        opened = ".open 'file:a?vfs=lapidary&store=store'"
        self.shell(opened, sql)
        other = ".open 'file:b?vfs=lapidary&store=store'"
        self.assertEqual(self.shell(other, ".restore 'file:old.db?vfs=unix'", "SELECT * FROM note"), "kept")
        for copy in ["old.db", "copy.db"]:
            found = sqlite3.connect(os.path.join(self.directory, copy)).execute("SELECT * FROM note")
            self.assertEqual(found.fetchall(), [("kept",)])


class ShellLog(Case):
    def test_the_log_has_the_words(self):
        answer = self.shell(".log stderr", ".open 'file:a?vfs=lapidary&AT=1&store=store'", check=False)
        self.assertRegex(answer, r"\(14\) facet a: URI parameter `AT` is refused")


if __name__ == "__main__":
    unittest.main(verbosity=2)
