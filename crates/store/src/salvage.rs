//! Keeps what can be read of a damaged file, in a new one, when somebody asks for it.
//!
//! The damaged file is only read. Its copy is opened without the check that refused it and read
//! from both ends: everything before the first and after the last page that cannot be read.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Builder, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use crate::backend::{Backend, Change};
use crate::error::StoreError;
use crate::file::{File, NUMBERS, OBJECTS, REVISION_KEY, decode};
use crate::medium::Disk;
use crate::{Record, Revision};

/// What a salvage has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Objects written to the new file.
    pub kept: u64,
    /// Objects that the damaged file says it had, if it can tell.
    pub expected: Option<u64>,
}

/// Writes what can be read of a damaged store to a new one, which must not exist. The damaged file
/// stays as it is.
///
/// # Errors
/// [`StoreError::Corrupt`] when nothing can be read, or what a copy and a new store can meet.
pub fn salvage(damaged: &Path, new: &Path) -> Result<Salvaged, StoreError> {
    if new.exists() {
        let error = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the new file exists");
        return Err(StoreError::disk(error));
    }
    let copy = new.with_extension("salvage");
    fs::copy(damaged, &copy).map_err(StoreError::disk)?;
    let found = read(&copy).map_err(|reason| StoreError::Corrupt {
        path: damaged.to_owned(),
        reason: format!("nothing can be read: {reason}"),
    });
    let removed = fs::remove_file(&copy).map_err(StoreError::disk);
    let Found { records, revision, expected } = found?;
    removed?;
    let changes: Vec<Change<'_>> = records.iter().map(Change::Put).collect();
    let newest = records.iter().map(|record| record.revision).max().unwrap_or_default();
    let mut file = File::open(Disk::new(new), 1 << 20)?;
    // Also above what clients may have seen of objects that are lost, should the number be lost.
    let revision = revision.max(Revision(newest.0 + 1));
    file.write(revision, &changes)?;
    Ok(Salvaged { kept: records.len() as u64, expected })
}

struct Found {
    records: Vec<Record>,
    revision: Revision,
    expected: Option<u64>,
}

/// redb may panic where a damaged page is not what it must be; that is as good as an error here.
fn attempt<T>(act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("a page is not what it must be".to_owned()),
    }
}

/// Read-only if the file was closed well, which looks at no more than it must; else by the repair
/// that any open of it would do.
fn read(copy: &Path) -> Result<Found, String> {
    let builder = || {
        let mut builder = Builder::new();
        builder.set_cache_size(1 << 20);
        builder
    };
    if let Ok(database) = attempt(|| Ok(builder().open_read_only(copy)?)) {
        return read_from(database);
    }
    read_from(attempt(|| Ok(builder().open(copy)?))?)
}

fn read_from(database: impl ReadableDatabase) -> Result<Found, String> {
    let revision = attempt(|| {
        let numbers = database.begin_read()?.open_table(NUMBERS)?;
        Ok(numbers.get(REVISION_KEY)?.map_or(0, |number| number.value()))
    });
    let expected = attempt(|| Ok(database.begin_read()?.open_table(OBJECTS)?.len()?));
    let mut records = one_way(&database, false);
    if Some(records.len() as u64) != expected.as_ref().ok().copied() {
        let mut end = one_way(&database, true);
        end.reverse();
        let last = records.last().map(|record| record.key.clone());
        records.extend(end.into_iter().filter(|record| Some(&record.key) > last.as_ref()));
    }
    // The database may not close well after a panic inside of it; its file is only a copy.
    let _ = attempt(|| {
        drop(database);
        Ok(())
    });
    match (revision, expected) {
        (Err(reason), Err(_)) if records.is_empty() => Err(reason),
        (revision, expected) => {
            let revision = Revision(revision.unwrap_or(0));
            Ok(Found { records, revision, expected: expected.ok() })
        }
    }
}

/// Records from one end up to what cannot be read. A record that does not decode is left out.
fn one_way(database: &impl ReadableDatabase, backwards: bool) -> Vec<Record> {
    let mut records = Vec::new();
    let stopped = attempt(|| {
        let table = database.begin_read()?.open_table(OBJECTS)?;
        let mut entries = table.iter()?;
        while let Some(entry) = if backwards { entries.next_back() } else { entries.next() } {
            let (key, bytes) = entry?;
            records.extend(decode(key.value(), bytes.value()).ok());
        }
        Ok(())
    });
    if let Err(reason) = stopped {
        tracing::warn!(reason, "the file cannot be read on from here");
    }
    records
}
