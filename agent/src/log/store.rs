//! The alert log's files: blocks of alerts and the cursors of sinks, in SQLite.
//!
//! SQLite's write-ahead log makes each batch whole or absent after SIGKILL, and refuses what a full disk cannot take without
//! harm to what is there. Nothing here waits for the disk itself but [`Store::sync`], which another thread than the writer's calls:
//! a batch is acknowledged once the kernel has it.
//!
//! Which alerts go and when is the caller's business, as is what happens when something fails.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::{
    Cursor,
    record::{self, Entry, Record},
};

/// The file inside the log's directory.
pub(super) const FILE: &str = "alerts.db";

/// What `user_version` says of the tables below.
const SCHEMA_VERSION: i64 = 1;

/// Pages that a connection may keep, in KiB. Blocks are written once and read once: a cache gains little.
const CACHE_KIB: i64 = 512;

/// How long one connection waits for the other: what holds the lock is the rest of a checkpoint.
const BUSY: Duration = Duration::from_secs(30);

/// Alerts in one block, and bytes of them: what a reader decodes at once.
const BLOCK_ALERTS: usize = 256;
const BLOCK_BYTES: usize = 256 << 10;

/// What is read at once ends with the block that reaches this.
const READ_BYTES: usize = 1 << 20;

/// Blocks dropped in one go; more follow in the next.
const TRIM_BLOCKS: usize = 64;

/// What a block takes beyond its data.
const BLOCK_OVERHEAD_BYTES: u64 = 64;

/// Above this the write-ahead file is begun anew at the next sync, which holds the writer up for the last part of it.
const WAL_BYTES: u64 = 16 << 20;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS blocks (
  last INTEGER PRIMARY KEY,
  count INTEGER NOT NULL,
  before INTEGER NOT NULL,
  stored_ns INTEGER NOT NULL,
  time_max_ns INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS blocks_time ON blocks (time_max_ns);
CREATE TABLE IF NOT EXISTS sinks (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL) WITHOUT ROWID;
";

/// Why the files cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct StoreError {
    /// What was attempted.
    pub attempt: &'static str,
    /// Why.
    pub source: rusqlite::Error,
}

impl StoreError {
    /// Whether the files themselves are damaged, rather than the disk full or away.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        matches!(
            self.source.sqlite_error_code(),
            Some(DatabaseCorrupt | NotADatabase)
        )
    }
}

impl StoreError {
    /// Whether the disk is full or read-only.
    pub(super) fn is_of_the_disk(&self) -> bool {
        use rusqlite::ErrorCode::{DiskFull, ReadOnly};
        matches!(self.source.sqlite_error_code(), Some(DiskFull | ReadOnly))
    }
}

trait Attempt<T> {
    fn attempt(self, attempt: &'static str) -> Result<T, StoreError>;
}

impl<T> Attempt<T> for rusqlite::Result<T> {
    fn attempt(self, attempt: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError { attempt, source })
    }
}

/// The open files.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Since the last sync.
    has_changed: AtomicBool,
}

/// What the files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The oldest alert's cursor; behind `newest` where there is none.
    pub oldest: Cursor,
    /// The newest cursor ever given to a stored alert.
    pub newest: Cursor,
    /// Alerts ever stored.
    pub total: u64,
    /// Bytes of blocks.
    pub bytes: u64,
    /// When the oldest block was stored, nanoseconds since the Unix epoch; 0 where there is none.
    pub oldest_ns: i64,
    /// Every remembered sink's place.
    pub sinks: Vec<(String, Cursor)>,
    /// Something is missing.
    pub was_damaged: bool,
}

/// A block without its alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its newest cursor.
    pub last: Cursor,
    /// Its alerts, with cursors up to that.
    pub count: u64,
    /// What room it took.
    pub bytes: u64,
}

/// What reading found.
#[derive(Debug, Default)]
pub struct Found {
    /// Alerts in order.
    pub entries: Vec<Entry>,
    /// Up to where the files were read.
    pub end: Cursor,
    /// Alerts on the way that were damaged.
    pub damaged: u64,
}

impl Found {
    fn bytes(&self) -> usize {
        let sizes = self.entries.iter().map(|entry| entry.record.size_bytes());
        sizes.sum()
    }
}

impl Store {
    /// Opens the files in a directory, or makes them.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let writer = connect(&path)?;
        let version: i64 = writer
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .attempt("read the log's version")?;
        if version != 0 && version != SCHEMA_VERSION {
            let text = format!("it was written by another release (version {version})");
            return Err(StoreError {
                attempt: "open the log",
                source: rusqlite::Error::InvalidParameterName(text),
            });
        }
        writer
            .execute_batch(SCHEMA)
            .and_then(|()| writer.pragma_update(None, "user_version", SCHEMA_VERSION))
            .attempt("make the log's tables")?;
        let reader = connect(&path)?;
        Ok(Self {
            path,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            has_changed: AtomicBool::new(false),
        })
    }

    /// What is there.
    pub fn extent(&self) -> Result<Extent, StoreError> {
        let reader = lock(&self.reader);
        let mut extent: Extent = reader
            .query_row(
                "SELECT coalesce(sum(length(data) + ?1), 0) FROM blocks",
                [i(BLOCK_OVERHEAD_BYTES)],
                |row| {
                    Ok(Extent {
                        bytes: u(row.get(0)?),
                        ..Extent::default()
                    })
                },
            )
            .attempt("measure the log")?;
        let newest = reader
            .query_row(
                "SELECT last, before + count FROM blocks ORDER BY last DESC LIMIT 1",
                [],
                |row| Ok((u(row.get(0)?), u(row.get(1)?))),
            )
            .optional()
            .attempt("find the newest alert")?;
        (extent.newest, extent.total) = newest.unwrap_or_default();
        drop(reader);
        extent.sinks = self.sinks()?;
        let places = extent.sinks.iter().map(|(_, cursor)| *cursor);
        extent.newest = extent.newest.max(places.max().unwrap_or(0));
        (extent.oldest, extent.oldest_ns) = self
            .oldest()?
            .unwrap_or((extent.newest.saturating_add(1), 0));
        Ok(extent)
    }

    /// Cursor of the oldest alert, and when it was stored.
    pub fn oldest(&self) -> Result<Option<(Cursor, i64)>, StoreError> {
        lock(&self.reader)
            .query_row(
                "SELECT last - count + 1, stored_ns FROM blocks ORDER BY last LIMIT 1",
                [],
                |row| Ok((u(row.get(0)?), row.get(1)?)),
            )
            .optional()
            .attempt("find the oldest alert")
    }

    /// Stores alerts whose cursors end at `last`, and the places of sinks, all or nothing. `before` alerts were stored ever. Returns the bytes
    /// of the new blocks.
    pub fn append(
        &self,
        records: &[Arc<Record>],
        last: Cursor,
        before: u64,
        now_ns: i64,
        cursors: &[(String, Cursor)],
    ) -> Result<u64, StoreError> {
        let blocks: Vec<_> = split(records).map(record::encode).collect();
        let mut writer = lock(&self.writer);
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .attempt("begin to store alerts")?;
        let (mut cursor, mut before, mut bytes) = (last - records.len() as u64, before, 0);
        {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO blocks (last, count, before, stored_ns, time_max_ns, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )
                .attempt("store alerts")?;
            for (chunk, block) in split(records).zip(&blocks) {
                let count = chunk.len() as u64;
                cursor += count;
                let time_max = chunk.iter().map(|record| record.time_ns).max();
                insert
                    .execute(params![
                        i(cursor),
                        i(count),
                        i(before),
                        now_ns,
                        time_max,
                        block
                    ])
                    .attempt("store alerts")?;
                before += count;
                bytes += block.len() as u64 + BLOCK_OVERHEAD_BYTES;
            }
            set_cursors(&transaction, cursors)?;
        }
        transaction.commit().attempt("store alerts")?;
        // Behind the commit: a sync that comes in between would take the mark and miss what it stands for.
        self.has_changed.store(true, Relaxed);
        Ok(bytes)
    }

    /// Remembers how far sinks have delivered.
    pub fn commit(&self, cursors: &[(String, Cursor)]) -> Result<(), StoreError> {
        let mut writer = lock(&self.writer);
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .attempt("begin to store a sink's place")?;
        set_cursors(&transaction, cursors)?;
        transaction.commit().attempt("store a sink's place")?;
        self.has_changed.store(true, Relaxed);
        Ok(())
    }

    /// Every remembered sink.
    pub fn sinks(&self) -> Result<Vec<(String, Cursor)>, StoreError> {
        let reader = lock(&self.reader);
        let mut statement = reader
            .prepare_cached("SELECT name, cursor FROM sinks")
            .attempt("read the cursors of sinks")?;
        statement
            .query_map([], |row| Ok((row.get(0)?, u(row.get(1)?))))
            .and_then(Iterator::collect)
            .attempt("read the cursors of sinks")
    }

    /// Forgets a sink.
    pub fn forget(&self, name: &str) -> Result<(), StoreError> {
        lock(&self.writer)
            .execute("DELETE FROM sinks WHERE name = ?1", [name])
            .attempt("forget a sink")?;
        self.has_changed.store(true, Relaxed);
        Ok(())
    }

    /// At most about `max` alerts behind a cursor, oldest first; a block that is damaged is passed over and counted.
    pub fn read(&self, after: Cursor, max: usize) -> Result<Found, StoreError> {
        let reader = lock(&self.reader);
        let mut statement = reader
            .prepare_cached("SELECT last, count, data FROM blocks WHERE last > ?1 ORDER BY last")
            .attempt("read alerts")?;
        let mut rows = statement.query([i(after)]).attempt("read alerts")?;
        let mut found = Found {
            end: after,
            ..Found::default()
        };
        while found.entries.len() < max
            && let Some(row) = rows.next().attempt("read alerts")?
        {
            let (last, count) = row
                .get(0)
                .and_then(|last| Ok((u(last), u(row.get(1)?))))
                .attempt("read alerts")?;
            let first = last.saturating_sub(count) + 1;
            let block = row.get_ref(2).attempt("read alerts")?.as_blob();
            match block.map(record::decode) {
                Ok(Ok(records)) if records.len() as u64 == count => {
                    let entries = (first..).zip(records);
                    let wanted = entries.filter(|(cursor, _)| *cursor > after);
                    found.entries.extend(wanted.map(|(cursor, record)| Entry {
                        cursor,
                        record: Arc::new(record),
                    }));
                }
                _ => found.damaged += last - after.max(first - 1),
            }
            found.end = last;
            if found.bytes() > READ_BYTES {
                break;
            }
        }
        Ok(found)
    }

    /// Alerts stored behind a cursor, of `total` ever stored, and when the first of them was; `None` where there is none.
    pub fn count_after(&self, after: Cursor, total: u64) -> Result<Option<(u64, i64)>, StoreError> {
        let block: Option<(i64, i64, i64, i64)> = lock(&self.reader)
            .prepare_cached(
                "SELECT last, count, before, stored_ns FROM blocks WHERE last > ?1 ORDER BY last LIMIT 1",
            )
            .and_then(|mut next| {
                next.query_row([i(after)], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .optional()
            })
            .attempt("count alerts")?;
        Ok(block.map(|(last, count, before, stored_ns)| {
            let had = after.saturating_sub(u(last) - u(count));
            (total.saturating_sub(u(before) + had), stored_ns)
        }))
    }

    /// The place behind which every alert of an event at or after a time is.
    pub fn place_of(&self, time_ns: i64) -> Result<Option<Cursor>, StoreError> {
        let last: Option<i64> = lock(&self.reader)
            .query_row(
                "SELECT min(last) FROM blocks WHERE time_max_ns >= ?1",
                [time_ns],
                |row| row.get(0),
            )
            .attempt("find a time")?;
        let Some(last) = last.map(u) else {
            return Ok(None);
        };
        let count: i64 = lock(&self.reader)
            .query_row(
                "SELECT count FROM blocks WHERE last = ?1",
                [i(last)],
                |row| row.get(0),
            )
            .attempt("find a time")?;
        let first = last.saturating_sub(u(count));
        let found = self.read(first, 1)?;
        let entry = found
            .entries
            .iter()
            .find(|entry| entry.record.time_ns >= time_ns);
        Ok(Some(entry.map_or(first, |entry| entry.cursor - 1)))
    }

    /// The oldest blocks that are beyond the bounds: while more than `bytes_max` remain of `bytes`, and those stored before `oldest_ns`.
    /// Some at a time.
    pub fn excess(
        &self,
        bytes: u64,
        bytes_max: u64,
        oldest_ns: i64,
    ) -> Result<Vec<Dropped>, StoreError> {
        const ATTEMPT: &str = "find the oldest alerts";
        let reader = lock(&self.reader);
        let mut statement = reader
            .prepare_cached(
                "SELECT last, count, length(data), stored_ns FROM blocks ORDER BY last LIMIT ?1",
            )
            .attempt(ATTEMPT)?;
        let mut rows = statement.query([TRIM_BLOCKS as i64]).attempt(ATTEMPT)?;
        let (mut excess, mut left) = (Vec::new(), bytes);
        while let Some(row) = rows.next().attempt(ATTEMPT)? {
            let get = |column| row.get(column).attempt(ATTEMPT);
            if left <= bytes_max && get(3)? >= oldest_ns {
                break;
            }
            let block = Dropped {
                last: u(get(0)?),
                count: u(get(1)?),
                bytes: u(get(2)?) + BLOCK_OVERHEAD_BYTES,
            };
            left = left.saturating_sub(block.bytes);
            excess.push(block);
        }
        Ok(excess)
    }

    /// Drops every block up to one.
    pub fn drop_to(&self, last: Cursor) -> Result<(), StoreError> {
        lock(&self.writer)
            .prepare_cached("DELETE FROM blocks WHERE last <= ?1")
            .and_then(|mut delete| delete.execute([i(last)]))
            .attempt("drop alerts")?;
        self.has_changed.store(true, Relaxed);
        Ok(())
    }

    /// Waits until what was stored is on the disk. `connection` is one of its own, so that alerts are stored meanwhile.
    pub fn sync(&self, connection: &Connection) -> Result<(), StoreError> {
        if !self.has_changed.swap(false, Relaxed) {
            return Ok(());
        }
        let checkpoint = |how: &str| {
            connection
                .query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))
                .attempt("bring the log to the disk")
        };
        checkpoint("PASSIVE")?;
        let written = wal_bytes(&self.path);
        if written > WAL_BYTES {
            checkpoint("RESTART")?;
        }
        Ok(())
    }

    /// A connection for [`Self::sync`].
    pub fn connection(&self) -> Result<Connection, StoreError> {
        connect(&self.path)
    }

    /// Whether the file is still where it was made: one that was deleted takes everything and keeps nothing.
    pub fn is_in_place(&self) -> bool {
        self.path.exists()
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).attempt("open the log")?;
    connection.busy_timeout(BUSY).attempt("open the log")?;
    let set = |name: &str, value: &dyn rusqlite::ToSql| connection.pragma_update(None, name, value);
    set("page_size", &4096)
        .and_then(|()| set("journal_mode", &"WAL"))
        // The write-ahead file goes to the disk before its pages do; SIGKILL loses nothing, and what a power cut may
        // lose is the time between two syncs.
        .and_then(|()| set("synchronous", &"NORMAL"))
        .and_then(|()| set("wal_autocheckpoint", &0))
        .and_then(|()| set("journal_size_limit", &i(WAL_BYTES)))
        .and_then(|()| set("cache_size", &-CACHE_KIB))
        .and_then(|()| set("temp_store", &"MEMORY"))
        .and_then(|()| set("mmap_size", &0))
        .attempt("set the log up")?;
    Ok(connection)
}

/// Bytes of the write-ahead file.
fn wal_bytes(path: &Path) -> u64 {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    std::fs::metadata(name).map_or(0, |found| found.len())
}

fn set_cursors(connection: &Connection, cursors: &[(String, Cursor)]) -> Result<(), StoreError> {
    if cursors.is_empty() {
        return Ok(());
    }
    let mut set = connection
        .prepare_cached("INSERT INTO sinks (name, cursor) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET cursor = max(cursor, excluded.cursor)")
        .attempt("store a sink's place")?;
    for (name, cursor) in cursors {
        set.execute(params![name, i(*cursor)])
            .attempt("store a sink's place")?;
    }
    Ok(())
}

/// Runs of records that make a block each.
fn split(records: &[Arc<Record>]) -> impl Iterator<Item = &[Arc<Record>]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(BLOCK_ALERTS).take_while(|record| {
            bytes += record.size_bytes();
            bytes <= BLOCK_BYTES
        });
        // One that is greater than a block should be is a block of its own.
        let count = fits.count().max(1).min(rest.len());
        let (block, left) = rest.split_at(count);
        rest = left;
        (!block.is_empty()).then_some(block)
    })
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A panic in between has rolled its transaction back.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQLite's numbers are signed; cursors and counts stay far below.
fn i(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn u(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Puts damaged files aside, for [`copy_readable`]; one set of them is kept.
pub(super) fn salvage(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join(FILE);
    let aside = directory.join(format!("{FILE}.damaged"));
    for suffix in ["", "-wal", "-shm"] {
        let name = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (from, to) = (name(&path), name(&aside));
        match std::fs::remove_file(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// Copies from damaged files whatever still reads, block by block, sinks' places included; how many blocks came over.
pub(super) fn copy_readable(aside: &Path, into: &Store) -> Result<u64, StoreError> {
    let damaged = Connection::open(aside).attempt("open the damaged log")?;
    // Lets SQLite read a file that is shorter than it says of itself.
    let _ = damaged.pragma_update(None, "writable_schema", true);
    let mut writer = lock(&into.writer);
    let transaction = writer.transaction().attempt("copy the damaged log")?;
    let copy = |query: &str, insert: &str, columns: usize| -> rusqlite::Result<()> {
        let mut statement = damaged.prepare(query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let values: Vec<rusqlite::types::Value> = (0..columns)
                .map(|column| row.get(column))
                .collect::<Result<_, _>>()?;
            // What the new tables do not take makes no sense.
            let _ = transaction
                .prepare_cached(insert)?
                .execute(rusqlite::params_from_iter(values));
        }
        Ok(())
    };
    const BLOCK: &str = "INSERT OR IGNORE INTO blocks (last, count, before, stored_ns, time_max_ns, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    const SINK: &str = "INSERT OR IGNORE INTO sinks (name, cursor) VALUES (?1, ?2)";
    // From both ends: what is damaged in the midst stops either.
    for order in ["ASC", "DESC"] {
        let query = format!(
            "SELECT last, count, before, stored_ns, time_max_ns, data FROM blocks NOT INDEXED ORDER BY last {order}"
        );
        let _ = copy(&query, BLOCK, 6);
    }
    let _ = copy("SELECT name, cursor FROM sinks", SINK, 2);
    let blocks: i64 = transaction
        .query_row("SELECT count(*) FROM blocks", [], |row| row.get(0))
        .attempt("copy the damaged log")?;
    transaction.commit().attempt("copy the damaged log")?;
    Ok(u(blocks))
}
