//! diesel on facets: a schema, queries, transactions and an r2d2 pool. Nothing but the URL differs
//! from a database in a file.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::result::{DatabaseErrorKind, Error};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

diesel::table! {
    product (id) {
        id -> Integer,
        name -> Text,
        stock -> Integer,
    }
}

diesel::table! {
    purchase (id) {
        id -> Integer,
        product_id -> Integer,
        pieces -> Integer,
    }
}

diesel::joinable!(purchase -> product (product_id));
diesel::allow_tables_to_appear_in_same_query!(product, purchase);

#[derive(Queryable, Selectable, Identifiable, Debug, PartialEq)]
#[diesel(table_name = product)]
struct Product {
    id: i32,
    name: String,
    stock: i32,
}

#[derive(Insertable)]
#[diesel(table_name = product)]
struct NewProduct<'a> {
    name: &'a str,
    stock: i32,
}

const SCHEMA: &str = "
    CREATE TABLE product(id INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, stock INTEGER NOT NULL CHECK(stock >= 0));
    CREATE TABLE purchase(id INTEGER PRIMARY KEY NOT NULL, product_id INTEGER NOT NULL REFERENCES product, pieces INTEGER NOT NULL);
";

const URL: &str = "file:shops/acme?vfs=lapidary";
const THREADS: i32 = 4;
const PURCHASES_PER_THREAD: i32 = 25;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("store");

    {
        let _registration = orm_examples::register(&store).map_err(|error| error.to_string())?;
        let mut shop = SqliteConnection::establish(URL)?;
        shop.batch_execute(SCHEMA)?;
        let products =
            [NewProduct { name: "ruby", stock: 1_000 }, NewProduct { name: "opal", stock: 10 }];
        assert_eq!(diesel::insert_into(product::table).values(&products).execute(&mut shop)?, 2);
        fails_as_a_whole(&mut shop)?;
        buy_from_many_threads()?;
        write_ahead_log_is_declined(&mut shop)?;
    }

    // All is there when the store is opened again.
    let _registration = orm_examples::register(&store).map_err(|error| error.to_string())?;
    let mut shop = SqliteConnection::establish(URL)?;
    let products =
        product::table.order(product::id).select(Product::as_select()).load(&mut shop)?;
    let sold = THREADS * PURCHASES_PER_THREAD;
    let ruby = Product { id: 1, name: "ruby".into(), stock: 1_000 - sold };
    let opal = Product { id: 2, name: "opal".into(), stock: 10 };
    assert_eq!(products, [ruby, opal]);
    let bought: i64 = purchase::table
        .inner_join(product::table)
        .filter(product::name.eq("ruby"))
        .select(diesel::dsl::sum(purchase::pieces))
        .first::<Option<i64>>(&mut shop)?
        .unwrap_or_default();
    assert_eq!(bought, i64::from(sold));
    println!("diesel: {THREADS} threads made {PURCHASES_PER_THREAD} purchases each, read again");
    Ok(())
}

fn buy(shop: &mut SqliteConnection, wanted: &str, pieces: i32) -> QueryResult<()> {
    // As with a write-ahead log, a transaction that reads and then writes is begun as a writer.
    shop.immediate_transaction(|shop| {
        let found: Product = product::table
            .filter(product::name.eq(wanted))
            .select(Product::as_select())
            .first(shop)?;
        diesel::update(&found).set(product::stock.eq(found.stock - pieces)).execute(shop)?;
        diesel::insert_into(purchase::table)
            .values((purchase::product_id.eq(found.id), purchase::pieces.eq(pieces)))
            .execute(shop)?;
        Ok(())
    })
}

/// More than there is, a name that is taken, and a transaction that gives up.
fn fails_as_a_whole(shop: &mut SqliteConnection) -> Result<()> {
    let refused = buy(shop, "opal", 11);
    assert!(
        matches!(refused, Err(Error::DatabaseError(DatabaseErrorKind::CheckViolation, _))),
        "{refused:?}"
    );

    let taken = NewProduct { name: "ruby", stock: 1 };
    let refused = diesel::insert_into(product::table).values(&taken).execute(shop);
    assert!(
        matches!(refused, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))),
        "{refused:?}"
    );

    let gave_up = shop.transaction::<(), Error, _>(|shop| {
        diesel::delete(product::table).execute(shop)?;
        Err(Error::RollbackTransaction)
    });
    assert_eq!(gave_up, Err(Error::RollbackTransaction));
    assert_eq!(product::table.count().get_result::<i64>(shop)?, 2);
    assert_eq!(purchase::table.count().get_result::<i64>(shop)?, 0);
    Ok(())
}

fn buy_from_many_threads() -> Result<()> {
    let pool = Pool::builder()
        .max_size(4)
        .connection_customizer(Box::new(WaitForTurn))
        .build(ConnectionManager::<SqliteConnection>::new(URL))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    for _ in 0..PURCHASES_PER_THREAD {
                        buy(&mut *pool.get()?, "ruby", 1)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread that buys"))
    })
}

/// diesel sets no busy timeout of its own, in files neither.
#[derive(Debug)]
struct WaitForTurn;

impl diesel::r2d2::CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for WaitForTurn {
    fn on_acquire(
        &self,
        shop: &mut SqliteConnection,
    ) -> std::result::Result<(), diesel::r2d2::Error> {
        shop.batch_execute("PRAGMA busy_timeout = 5000").map_err(diesel::r2d2::Error::QueryError)
    }
}

/// The usual advice for SQLite with diesel is a write-ahead log. Who asks for one keeps the journal
/// mode there is, without an error: readers and a writer are side by side without it.
fn write_ahead_log_is_declined(shop: &mut SqliteConnection) -> Result<()> {
    shop.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    #[derive(QueryableByName)]
    struct Mode {
        #[diesel(sql_type = diesel::sql_types::Text)]
        journal_mode: String,
    }
    let mode: Mode = diesel::sql_query("PRAGMA journal_mode").get_result(shop)?;
    assert_eq!(mode.journal_mode, "delete");
    Ok(())
}
