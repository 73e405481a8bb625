//! The redb file: a table of objects and a table of numbers (format, revision).
//!
//! A record is `create revision (u64 LE) · revision (u64 LE) · object as JSON`. The format number
//! changes when that does; a file of another format is refused, never rewritten.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::error::StoreError;
use crate::store::{Revision, Stored};

const FORMAT: u64 = 1;
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";
const HEADER: usize = 16;

/// Revision of a new, empty store. Not zero: resourceVersion 0 has a meaning of its own.
const FIRST: Revision = Revision(1);

/// What one transaction does to the file.
pub(crate) enum Change<'a> {
    Put { stored: &'a Stored, json: &'a [u8] },
    Delete { key: &'a str },
}

pub(crate) struct File {
    path: PathBuf,
    database: Database,
}

impl File {
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let database = Builder::new()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|error| refuse(path, error))?;
        let file = Self { path: path.to_owned(), database };
        file.check_format()?;
        Ok(file)
    }

    /// Marks a new file, refuses a foreign one.
    fn check_format(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(StoreError::disk)?;
        let fresh = transaction.list_tables().map_err(StoreError::disk)?.next().is_none();
        if fresh {
            transaction.open_table(OBJECTS).map_err(StoreError::disk)?;
            let mut numbers = transaction.open_table(NUMBERS).map_err(StoreError::disk)?;
            numbers.insert(FORMAT_KEY, FORMAT).map_err(StoreError::disk)?;
            numbers.insert(REVISION_KEY, FIRST.0).map_err(StoreError::disk)?;
            drop(numbers);
            return transaction.commit().map_err(StoreError::disk);
        }
        transaction.abort().map_err(StoreError::disk)?;
        match self.number(FORMAT_KEY)? {
            FORMAT => Ok(()),
            found => Err(StoreError::Format { path: self.path.clone(), found, supported: FORMAT }),
        }
    }

    fn number(&self, key: &str) -> Result<u64, StoreError> {
        let read = self.database.begin_read().map_err(StoreError::disk)?;
        let numbers = read.open_table(NUMBERS).map_err(|error| self.corrupt(error))?;
        let number = numbers.get(key).map_err(|error| self.corrupt(error))?;
        number.map(|n| n.value()).ok_or_else(|| self.corrupt(format!("it has no {key}")))
    }

    /// Everything in the file, in key order, with the sizes of the values as JSON.
    pub(crate) fn load(&self) -> Result<(Revision, Vec<(Stored, usize)>), StoreError> {
        let revision = Revision(self.number(REVISION_KEY)?);
        let read = self.database.begin_read().map_err(StoreError::disk)?;
        let table = read.open_table(OBJECTS).map_err(|error| self.corrupt(error))?;
        let mut objects = Vec::new();
        for entry in table.iter().map_err(|error| self.corrupt(error))? {
            let (key, record) = entry.map_err(|error| self.corrupt(error))?;
            let stored = decode(key.value(), record.value())
                .map_err(|reason| self.corrupt(format!("{}: {reason}", key.value())))?;
            objects.push((stored, record.value().len().saturating_sub(HEADER)));
        }
        Ok((revision, objects))
    }

    /// Writes the changes and the revision they lead to; durable on return.
    pub(crate) fn write<'a>(
        &self,
        revision: Revision,
        changes: impl Iterator<Item = Change<'a>>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut record = Vec::new();
            for change in changes {
                match change {
                    Change::Put { stored, json } => {
                        encode(&mut record, stored, json);
                        objects.insert(&*stored.key, record.as_slice())?;
                    }
                    Change::Delete { key } => {
                        objects.remove(key)?;
                    }
                }
            }
            transaction.open_table(NUMBERS)?.insert(REVISION_KEY, revision.0)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn corrupt(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), reason: reason.to_string() }
    }
}

fn refuse(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            StoreError::disk(error)
        }
        error => StoreError::Corrupt { path: path.to_owned(), reason: error.to_string() },
    }
}

fn encode(record: &mut Vec<u8>, stored: &Stored, json: &[u8]) {
    record.clear();
    record.extend_from_slice(&stored.create_revision.0.to_le_bytes());
    record.extend_from_slice(&stored.revision.0.to_le_bytes());
    record.extend_from_slice(json);
}

fn decode(key: &str, record: &[u8]) -> Result<Stored, String> {
    let (header, json) = record.split_at_checked(HEADER).ok_or("the record is cut short")?;
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("the header is two numbers of eight bytes");
        Revision(u64::from_le_bytes(bytes))
    };
    Ok(Stored {
        key: Arc::from(key),
        create_revision: number(&header[..8]),
        revision: number(&header[8..]),
        value: Arc::new(serde_json::from_slice(json).map_err(|error| error.to_string())?),
    })
}
