//! The redb file: a table of objects and a table of numbers (format, revision).
//!
//! A record is `create revision (u64 LE) · revision (u64 LE) · object as JSON`. The format number
//! changes when that does; a file of another format is refused, never rewritten.
//!
//! One group is one redb transaction and one sync: redb's checksummed commit tells a torn one from
//! a whole one at the next open, so the second sync of its two-phase commit would add nothing but
//! time. After an error redb refuses everything until the file is opened anew, which repairs it.

use std::sync::Arc;

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition,
};

use crate::backend::{Backend, Change, Image};
use crate::error::StoreError;
use crate::medium::Medium;
use crate::object::check_json;
use crate::{Record, Revision};

const FORMAT: u64 = 1;
pub(crate) const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
pub(crate) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const FORMAT_KEY: &str = "format";
pub(crate) const REVISION_KEY: &str = "revision";

/// Revision of a new, empty store. Not zero: resourceVersion 0 has a meaning of its own.
const FIRST: Revision = Revision(1);

/// A store's file, on a disk or on a test's idea of one.
#[derive(Debug)]
pub struct File<M> {
    medium: M,
    cache_bytes: usize,
    /// None only after an attempt to open it anew has failed.
    database: Option<Database>,
}

impl<M: Medium> File<M> {
    /// Opens or creates the file and checks all of it.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Corrupt`], [`StoreError::Format`],
    /// [`StoreError::Full`], [`StoreError::Disk`].
    pub fn open(medium: M, cache_bytes: usize) -> Result<Self, StoreError> {
        let mut file = Self { medium, cache_bytes, database: None };
        file.database = Some(file.open_database(true)?);
        file.check_format()?;
        Ok(file)
    }

    fn open_database(&self, check: bool) -> Result<Database, StoreError> {
        let medium = self.medium.open().map_err(|error| self.io(error))?;
        Builder::new()
            .set_cache_size(self.cache_bytes)
            .set_check_integrity_on_open(check)
            .create_with_backend(medium)
            .map_err(|error| self.refuse(error))
    }

    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    /// Marks a new file, refuses a foreign one.
    fn check_format(&self) -> Result<(), StoreError> {
        let failed = |error: redb::Error| self.failed(error);
        let transaction = self.database()?.begin_write().map_err(|e| failed(e.into()))?;
        let fresh = transaction.list_tables().map_err(|e| failed(e.into()))?.next().is_none();
        if fresh {
            return mark(transaction).map_err(failed);
        }
        transaction.abort().map_err(|e| failed(e.into()))?;
        match self.number(FORMAT_KEY)? {
            FORMAT => Ok(()),
            found => {
                let path = self.medium.path().to_owned();
                Err(StoreError::Format { path, found, supported: FORMAT })
            }
        }
    }

    fn number(&self, key: &str) -> Result<u64, StoreError> {
        let read = self.database()?.begin_read().map_err(|error| self.failed(error.into()))?;
        let numbers = read.open_table(NUMBERS).map_err(|error| self.failed(error.into()))?;
        let number = numbers.get(key).map_err(|error| self.failed(error.into()))?;
        number.map(|n| n.value()).ok_or_else(|| self.corrupt(format!("it has no {key}")))
    }

    fn put(&self, revision: Revision, changes: &[Change<'_>]) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = database.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut bytes = Vec::new();
            for change in changes {
                match change {
                    Change::Put(record) => {
                        encode(&mut bytes, record);
                        objects.insert(&*record.key, bytes.as_slice())?;
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

    fn refuse(&self, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(self.medium.path().to_owned()),
            DatabaseError::Storage(StorageError::Io(error)) => self.io(error),
            error => self.corrupt(error),
        }
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(error) => self.io(error),
            redb::Error::Corrupted(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. } => self.corrupt(error),
            error => StoreError::disk(error),
        }
    }

    fn io(&self, error: std::io::Error) -> StoreError {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                StoreError::Full { path: self.medium.path().to_owned(), reason: error.to_string() }
            }
            // What redb says of a file that is not one of its own, or shorter than it says.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => self.corrupt(error),
            _ => StoreError::disk(error),
        }
    }

    fn corrupt(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { path: self.medium.path().to_owned(), reason: reason.to_string() }
    }
}

impl<M: Medium> Backend for File<M> {
    fn load(&mut self) -> Result<Image, StoreError> {
        let revision = Revision(self.number(REVISION_KEY)?);
        let read = self.database()?.begin_read().map_err(|error| self.failed(error.into()))?;
        let table = read.open_table(OBJECTS).map_err(|error| self.failed(error.into()))?;
        let mut records = Vec::new();
        for entry in table.iter().map_err(|error| self.failed(error.into()))? {
            let (key, bytes) = entry.map_err(|error| self.failed(error.into()))?;
            let record = decode(key.value(), bytes.value())
                .map_err(|reason| self.corrupt(format!("{}: {reason}", key.value())))?;
            records.push(record);
        }
        Ok(Image { revision, records })
    }

    fn write(&mut self, revision: Revision, changes: &[Change<'_>]) -> Result<(), StoreError> {
        self.put(revision, changes).map_err(|error| self.failed(error))
    }

    fn recover(&mut self) -> Result<Revision, StoreError> {
        // Closed first: it holds the file's lock.
        self.database = None;
        self.medium.distrust().map_err(|error| self.io(error))?;
        // Not checked in full, for redb walks and repairs a file that was not closed cleanly, and
        // the full check writes more than a full disk may take.
        self.database = Some(self.open_database(false)?);
        self.number(REVISION_KEY).map(Revision)
    }
}

fn mark(transaction: redb::WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(OBJECTS)?;
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert(FORMAT_KEY, FORMAT)?;
        numbers.insert(REVISION_KEY, FIRST.0)?;
    }
    transaction.commit()?;
    Ok(())
}

fn encode(bytes: &mut Vec<u8>, record: &Record) {
    bytes.clear();
    bytes.extend_from_slice(&record.create_revision.0.to_le_bytes());
    bytes.extend_from_slice(&record.revision.0.to_le_bytes());
    bytes.extend_from_slice(&record.json);
}

pub(crate) fn decode(key: &str, bytes: &[u8]) -> Result<Record, String> {
    let (create_revision, rest) = bytes.split_first_chunk().ok_or("the record is cut short")?;
    let (revision, json) = rest.split_first_chunk().ok_or("the record is cut short")?;
    check_json(json)?;
    Ok(Record {
        key: Arc::from(key),
        create_revision: Revision(u64::from_le_bytes(*create_revision)),
        revision: Revision(u64::from_le_bytes(*revision)),
        json: Arc::from(json),
    })
}
