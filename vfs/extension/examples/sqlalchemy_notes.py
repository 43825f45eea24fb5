"""A facet for each tenant, with SQLAlchemy's ORM.

    python3 sqlalchemy_notes.py target/extension/release/liblapidary_vfs STORE

STORE is where the store is to be created. Needs SQLAlchemy 2, and a Python whose `sqlite3` can load extensions.
"""

import sqlite3
import sys
import threading

from sqlalchemy import ForeignKey, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

EXTENSION, STORE = sys.argv[1:]


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    notes: Mapped[list["Note"]] = relationship(back_populates="author")


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="notes")


def load_extension():
    """Once in a process: the VFS is there from then on, and later connections have the functions."""
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(EXTENSION)
    connection.close()


def tenant_engine(name):
    engine = create_engine(f"sqlite:///file:tenants/{name}?vfs=lapidary&store={STORE}&uri=true")

    # Transactions that will write take the writer's place at once, and wait for it if need be. Python's
    # own way would begin them with a read, after which somebody else may have committed.
    @event.listens_for(engine, "connect")
    def connected(connection, _record):
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 10000")

    @event.listens_for(engine, "begin")
    def begun(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def work(engine, author, count):
    """What one thread does: a transaction for each note."""
    for number in range(count):
        with Session(engine) as session, session.begin():
            found = session.scalars(select(Author).filter_by(name=author)).one_or_none()
            found = found or Author(name=author)
            found.notes.append(Note(body=f"note {number}"))
            session.add(found)


def main():
    load_extension()
    acme = tenant_engine("acme")
    Base.metadata.create_all(acme)

    threads = [threading.Thread(target=work, args=(acme, name, 50)) for name in ["ada", "bob"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with Session(acme) as session:
        by_author = select(Author.name, func.count(Note.id)).join(Author.notes).group_by(Author.name)
        assert session.execute(by_author).all() == [("ada", 50), ("bob", 50)]

    # What a transaction did is taken back as a whole.
    try:
        with Session(acme) as session, session.begin():
            session.add(Author(name="eve", notes=[Note(body="lost")]))
            session.flush()
            session.add(Author(name="ada"))
    except IntegrityError as error:
        print("rolled back:", error.orig)
    with Session(acme) as session:
        assert session.scalar(select(func.count(Note.id))) == 100

    # A second tenant begins with all that the first has, at the cost of one log record.
    with acme.connect() as connection:
        connection.execute(text("SELECT lapidary_fork('tenants/acme', 'tenants/copy')"))
    copy = tenant_engine("copy")
    with Session(copy) as session, session.begin():
        session.delete(session.scalars(select(Note).limit(1)).one())
    counts = []
    for engine in [acme, copy]:
        with Session(engine) as session:
            counts.append(session.scalar(select(func.count(Note.id))))
    assert counts == [100, 99], counts

    for engine in [acme, copy]:
        with engine.connect() as connection:
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
        engine.dispose()
    print("notes of acme and of its copy:", *counts)


main()
