//! The file of verdicts: a redb database of blocks, in the order in which they were written.
//!
//! Opened only if every page of it is as it was written; anything else (cut off, overwritten, of another
//! program or version) is renamed and begun anew. Whatever redb makes of a broken file, a panic too, ends
//! here.
//!
//! A share of the cache has a row of blocks of its own, so that a dictionary attack cannot push out good
//! verdicts here either. The oldest blocks leave when the newest record in them is past all use, or when the
//! row holds more than twice what the cache does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _, TableDefinition};

use super::directory::Directory;
use super::queue::{Batch, Shelf, Template};
use super::record::{Record, Stamp};
use super::{Recalled, block, mark};

/// What this version writes. Others are put aside: a cache fills again.
const VERSION: u32 = 1;
/// Memory redb may use for pages: blocks are written once and read once.
const PAGE_CACHE: usize = 8 * 1024 * 1024;
/// A file with so much room in it that nothing needs is made smaller.
const SLACK: u64 = 64 * 1024 * 1024;

type Blocks = TableDefinition<'static, u64, &'static [u8]>;

const META: TableDefinition<'static, &str, u128> = TableDefinition::new("meta");
/// By number: two octets of the code, then the text.
const TEXTS: TableDefinition<'static, u16, &[u8]> = TableDefinition::new("texts");
/// By the hash of the domain.
const GENERATIONS: TableDefinition<'static, u128, u32> = TableDefinition::new("generations");

/// By the hash of the domain: what random names have shown.
const MARKS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("marks");
/// Domains with marks, more than any instance keeps in mind: beyond, all are found out again.
const MOST_MARKS: u64 = 100_000;

/// What verdicts are kept within.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Records the cache has room for.
    pub records: usize,
    /// How long a record is of use.
    pub keeps: Duration,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    /// Another process has it.
    #[error("another process uses it")]
    InUse,
    /// The system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not, or no longer, a file of ours.
    #[error("it is damaged, or not ours: {0}")]
    Foreign(String),
}

/// The open file.
#[derive(Debug)]
pub(super) struct VerdictFile {
    database: Database,
    secret: [u8; 16],
    good: Row,
    bad: Row,
    next: u64,
}

/// The blocks of one share.
#[derive(Debug)]
struct Row {
    table: &'static str,
    bounds: Bounds,
    records: u64,
}

impl VerdictFile {
    /// Opens the file, after putting aside one that is of no use. `check` is what the secret makes of itself:
    /// verdicts under another secret could never be found.
    pub(super) fn open(
        directory: &Directory,
        (secret, check): ([u8; 16], u128),
        (good, bad): (Bounds, Bounds),
    ) -> Result<Self, FileFault> {
        let open = || {
            guarded(|| {
                let database = database(directory)?;
                let rows =
                    [("good", good), ("bad", bad)].map(|(table, bounds)| Row { table, bounds, records: 0 });
                let [good, bad] = rows;
                let mut file = Self { database, secret, good, bad, next: 1 };
                file.begin(check)?;
                Ok(file)
            })
        };
        match open() {
            Err(FileFault::Foreign(why)) => {
                let aside = directory.put_aside(&directory.path())?;
                tracing::warn!(
                    why, aside = %aside.display(),
                    "the store of verdicts cannot be used and was renamed; a new one is begun"
                );
                open()
            }
            outcome => outcome,
        }
    }

    /// Makes the tables, or sees whether they are ours, and counts what is in them.
    fn begin(&mut self, check: u128) -> Result<(), FileFault> {
        let transaction = self.database.begin_write().map_err(fault)?;
        let fresh = transaction.list_tables().map_err(fault)?.next().is_none();
        {
            let mut meta = transaction.open_table(META).map_err(fault)?;
            let version = meta.get("version").map_err(fault)?.map(|version| version.value());
            if !fresh && version != Some(VERSION.into()) {
                return Err(FileFault::Foreign(format!("its version is {version:?}, ours {VERSION}")));
            }
            let old = meta.insert("secret", check).map_err(fault)?.map(|old| old.value());
            if old.is_some_and(|old| old != check) {
                tracing::warn!(
                    "the secret of the store has changed: what was stored cannot be used any more"
                );
                for row in [&self.good, &self.bad] {
                    transaction.delete_table(row.blocks()).map_err(fault)?;
                }
                transaction.delete_table(GENERATIONS).map_err(fault)?;
                transaction.delete_table(MARKS).map_err(fault)?;
            }
            meta.insert("version", u128::from(VERSION)).map_err(fault)?;
            transaction.open_table(TEXTS).map_err(fault)?;
            transaction.open_table(GENERATIONS).map_err(fault)?;
            transaction.open_table(MARKS).map_err(fault)?;
        }
        for row in [&mut self.good, &mut self.bad] {
            let table = transaction.open_table(row.blocks()).map_err(fault)?;
            for block in table.iter().map_err(fault)? {
                let (number, block) = block.map_err(fault)?;
                let header = block::header(block.value())
                    .ok_or_else(|| FileFault::Foreign("a block is not ours".to_owned()))?;
                row.records += u64::from(header.records);
                self.next = self.next.max(number.value() + 1);
            }
        }
        transaction.commit().map_err(fault)
    }

    /// Everything but verdicts.
    pub(super) fn rest(&self) -> Result<Recalled, FileFault> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(fault)?;
            let mut rest = Recalled::default();
            let meta = transaction.open_table(META).map_err(fault)?;
            let epoch = meta.get("epoch").map_err(fault)?.map_or(0, |epoch| epoch.value());
            rest.epoch = u32::try_from(epoch).unwrap_or_default();
            for entry in transaction.open_table(GENERATIONS).map_err(fault)?.iter().map_err(fault)? {
                let (domain, generation) = entry.map_err(fault)?;
                rest.generations.push((domain.value(), generation.value()));
            }
            for entry in transaction.open_table(MARKS).map_err(fault)?.iter().map_err(fault)? {
                let (domain, marks) = entry.map_err(fault)?;
                rest.marks
                    .extend(mark::read(marks.value(), Stamp::now()).map(|marks| (domain.value(), marks)));
            }
            for entry in transaction.open_table(TEXTS).map_err(fault)?.iter().map_err(fault)? {
                let (number, text) = entry.map_err(fault)?;
                if let Some((code, text)) = text.value().split_first_chunk() {
                    let template = Template { code: u16::from_le_bytes(*code), text: text.into() };
                    rest.texts.push((number.value(), template));
                }
            }
            Ok(rest)
        })
    }

    /// Shows every record, the oldest first: a later one of a key counts.
    pub(super) fn read(&self, mut each: impl FnMut(Shelf, Record)) -> Result<(), FileFault> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(fault)?;
            for (shelf, row) in [(Shelf::Good, &self.good), (Shelf::Bad, &self.bad)] {
                for block in transaction.open_table(row.blocks()).map_err(fault)?.iter().map_err(fault)? {
                    let (_, block) = block.map_err(fault)?;
                    let records = block::read(block.value(), &self.secret);
                    records.into_iter().flatten().for_each(|record| each(shelf, record));
                }
            }
            Ok(())
        })
    }

    /// Writes a batch, and lets go what is of no use any more, in one transaction.
    pub(super) fn write(&mut self, batch: &Batch, now: Stamp) -> Result<(), FileFault> {
        guarded(|| self.try_write(batch, now))
    }

    fn try_write(&mut self, batch: &Batch, now: Stamp) -> Result<(), FileFault> {
        let transaction = self.database.begin_write().map_err(fault)?;
        if let Some(epoch) = batch.cleared {
            transaction.open_table(META).map_err(fault)?.insert("epoch", u128::from(epoch)).map_err(fault)?;
            transaction.delete_table(GENERATIONS).map_err(fault)?;
        }
        let mut generations = transaction.open_table(GENERATIONS).map_err(fault)?;
        for (domain, generation) in &batch.generations {
            generations.insert(domain, generation).map_err(fault)?;
        }
        drop(generations);
        if !batch.marks.is_empty() {
            if transaction.open_table(MARKS).map_err(fault)?.len().map_err(fault)? > MOST_MARKS {
                transaction.delete_table(MARKS).map_err(fault)?;
            }
            let mut marks = transaction.open_table(MARKS).map_err(fault)?;
            for (domain, octets) in &batch.marks {
                marks.insert(domain, octets.as_slice()).map_err(fault)?;
            }
        }
        let mut texts = transaction.open_table(TEXTS).map_err(fault)?;
        for (number, template) in &batch.texts {
            let text = [&template.code.to_le_bytes(), &*template.text].concat();
            texts.insert(number, text.as_slice()).map_err(fault)?;
        }
        drop(texts);
        // Counted anew only once it is certain that they are there.
        let mut counts = [self.good.records, self.bad.records];
        for ((row, records), count) in
            [(&self.good, &batch.good), (&self.bad, &batch.bad)].into_iter().zip(&mut counts)
        {
            if batch.cleared.is_some() || batch.emptied {
                transaction.delete_table(row.blocks()).map_err(fault)?;
                *count = 0;
            }
            let mut table = transaction.open_table(row.blocks()).map_err(fault)?;
            let records: Vec<Record> = records.values().copied().collect();
            for block in records.chunks(block::MOST_RECORDS) {
                table.insert(self.next, block::write(block, &self.secret).as_slice()).map_err(fault)?;
                self.next += 1;
                *count += block.len() as u64;
            }
            while let Some(oldest) = row.outlived(&table, *count, now)? {
                table.pop_first().map_err(fault)?;
                *count = count.saturating_sub(oldest);
            }
        }
        transaction.commit().map_err(fault)?;
        [self.good.records, self.bad.records] = counts;
        Ok(())
    }

    /// Lets go texts that no record needs any more.
    pub(super) fn forget_texts(&mut self, unused: &[u16]) -> Result<(), FileFault> {
        guarded(|| {
            let transaction = self.database.begin_write().map_err(fault)?;
            let mut texts = transaction.open_table(TEXTS).map_err(fault)?;
            for number in unused {
                texts.remove(number).map_err(fault)?;
            }
            drop(texts);
            transaction.commit().map_err(fault)
        })
    }

    /// Gives room back that nothing needs: after a flood, or a smaller `max_entries`.
    pub(super) fn shrink(&mut self, size: u64) -> Result<(), FileFault> {
        let needed = self.records() * 32;
        if size < needed * 2 + SLACK {
            return Ok(());
        }
        guarded(|| self.database.compact().map(|_| ()).map_err(fault))
    }

    /// Closes a file that failed.
    pub(super) fn abandon(self) {
        // What it has to say about that was told already.
        let _ = guarded(|| {
            drop(self);
            Ok(())
        });
    }

    /// Records in it, those that a later one made void too.
    pub(super) const fn records(&self) -> u64 {
        self.good.records + self.bad.records
    }
}

impl Row {
    const fn blocks(&self) -> Blocks {
        TableDefinition::new(self.table)
    }

    /// The records in the oldest block, if that is to go.
    fn outlived(
        &self,
        table: &impl ReadableTable<u64, &'static [u8]>,
        records: u64,
        now: Stamp,
    ) -> Result<Option<u64>, FileFault> {
        let Some((_, block)) = table.first().map_err(fault)? else { return Ok(None) };
        let Some(header) = block::header(block.value()) else { return Ok(Some(0)) };
        let useless = header.newest.age(now).is_some_and(|age| age >= self.bounds.keeps);
        let too_many = records > 2 * self.bounds.records as u64;
        Ok((useless || too_many).then_some(u64::from(header.records)))
    }
}

/// The database, if every page of it is sound.
fn database(directory: &Directory) -> Result<Database, FileFault> {
    let file = match directory.verdicts() {
        Err(fault) if fault.kind() == io::ErrorKind::IsADirectory => {
            return Err(FileFault::Foreign("it is a directory".to_owned()));
        }
        file => file?,
    };
    let backend = FileBackend::new(file).map_err(fault)?;
    redb::Builder::new()
        .set_cache_size(PAGE_CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
        .map_err(fault)
}

/// What redb says, and what it screams: a broken file is our affair, and no reason to end.
fn guarded<T>(act: impl FnOnce() -> Result<T, FileFault>) -> Result<T, FileFault> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(FileFault::Foreign("reading it failed unexpectedly".to_owned())))
}

/// Sorts redb's errors: somebody else's file, a broken one, or the system's refusal.
fn fault(error: impl Into<redb::Error>) -> FileFault {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => FileFault::InUse,
        redb::Error::Io(fault) => match fault.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                FileFault::Foreign(fault.to_string())
            }
            _ => FileFault::Io(fault),
        },
        // What went wrong before was told then; the file is opened again.
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
            FileFault::Io(io::Error::other(error.to_string()))
        }
        error => FileFault::Foreign(error.to_string()),
    }
}
