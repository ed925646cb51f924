//! What outlives this process: verdicts in a file, so that a restart is warm.
//!
//! The cache tells a [`Journal`] what it learns and forgets, and knows nothing of files. Here a thread of its
//! own takes what has gathered, a couple of seconds' worth, and writes it in one transaction. A fault of the
//! file is told once and tried again later; verdicts are then remembered in memory alone, and nothing waits.
//!
//! No address is stored, only keyed hashes; the key is the configured secret, or one that is made by chance
//! and kept beside the verdicts. Known limit: what was learnt in the last seconds is lost with SIGKILL.

mod block;
mod directory;
mod file;
mod mark;
mod queue;
mod record;
mod shared;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use file::Bounds;
pub use queue::{Journal, Shelf, Template};
pub use record::{Fact, Record, Stamp};
pub use shared::{
    Ages, Alone, Consulted, Counted, Haste, Marks, News, NoLeave, RENEW_AFTER, Seen, Sight, Tier,
    TierAccount, Told, Turn,
};

use directory::Directory;
use file::{FileFault, VerdictFile};
use queue::{Batch, Queue, Urgency};

/// What is learnt gathers for so long before it is written.
const GATHERING: Duration = Duration::from_secs(2);
/// A file that could not be written is tried again after so long.
const RETRY: Duration = Duration::from_secs(10);

/// Why verdicts are remembered in memory alone.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// Another process has the directory.
    #[error("the store in {0} is used by another process; each needs a directory of its own")]
    InUse(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error("the store in {0} cannot be used: {1}")]
    Unusable(PathBuf, io::Error),
}

/// What addresses are hashed with.
#[derive(Clone, Copy)]
pub struct HashKey([u8; 16]);

/// The store, opened and not yet written to.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    place: Place,
    file: Option<VerdictFile>,
}

/// Where the file is, and what it is opened with.
#[derive(Debug, Clone)]
struct Place {
    directory: Directory,
    key: HashKey,
    bounds: (Bounds, Bounds),
}

/// What is known besides verdicts.
#[derive(Debug, Default)]
pub struct Recalled {
    /// How often everything was forgotten.
    pub epoch: u32,
    /// How often domains were forgotten, by the hash of the domain.
    pub generations: Vec<(u128, u32)>,
    /// What random names have shown of domains, by their hash.
    pub marks: Vec<(u128, Marks)>,
    /// The words of refusals, by number.
    pub texts: Vec<(u16, Template)>,
}

/// The store at work. When it is dropped it still writes what it has, and nobody waits for it.
#[derive(Debug)]
pub struct Store {
    queue: Arc<Queue>,
    state: Arc<Mutex<State>>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<String>,
    records: u64,
}

/// The store as an operator wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Why nothing can be written; none while all is well.
    pub fault: Option<String>,
    /// Records in the file, those that a later one made void too.
    pub records: u64,
    /// Records that were not stored, since too much was learnt at once.
    pub dropped: u64,
}

/// Whether `path` could be used; nothing is left behind.
///
/// # Errors
/// [`StoreFault::Unusable`].
pub fn examine(path: &Path) -> Result<(), StoreFault> {
    Directory::examine(path).map_err(|fault| StoreFault::Unusable(path.to_owned(), fault))
}

impl Opened {
    /// Opens the store in `path`, made where there is none. What is there and of no use is put aside. Without a
    /// `secret` the one in the directory is used.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn open(path: &Path, secret: Option<&str>, good: Bounds, bad: Bounds) -> Result<Self, StoreFault> {
        let unusable = |fault| StoreFault::Unusable(path.to_owned(), fault);
        let directory = Directory::prepare(path).map_err(unusable)?;
        let key = match secret {
            Some(secret) => HashKey::of(secret),
            None => HashKey::of(&directory.secret().map_err(unusable)?),
        };
        let place = Place { directory, key, bounds: (good, bad) };
        let file = place.open().map_err(|fault| match fault {
            FileFault::InUse => StoreFault::InUse(path.to_owned()),
            FileFault::Io(fault) => unusable(fault),
            FileFault::Foreign(why) => unusable(io::Error::other(why)),
        })?;
        Ok(Self { path: path.to_owned(), place, file: Some(file) })
    }

    /// What addresses are hashed with.
    #[must_use]
    pub const fn key(&self) -> HashKey {
        self.place.key
    }

    /// What is known besides verdicts.
    pub fn recall(&mut self) -> Recalled {
        self.look(|file| file.rest()).unwrap_or_default()
    }

    /// Shows every record, the oldest first: a later one of a key counts.
    pub fn recall_each(&mut self, each: impl FnMut(Shelf, Record)) {
        let _ = self.look(|file| file.read(each));
    }

    /// Lets go texts that no record needs.
    pub fn forget_texts(&mut self, unused: &[u16]) {
        if !unused.is_empty() {
            let _ = self.look(|file| file.forget_texts(unused));
        }
    }

    /// Begins to write.
    #[must_use]
    pub fn start(self) -> Store {
        let Self { path, place, file } = self;
        let records = file.as_ref().map_or(0, VerdictFile::records);
        let store = Store {
            queue: Arc::default(),
            state: Arc::new(Mutex::new(State { fault: None, records })),
            ended: CancellationToken::new(),
        };
        let writer = Writer {
            place,
            file,
            queue: Arc::clone(&store.queue),
            state: Arc::clone(&store.state),
            _ended: store.ended.clone().drop_guard(),
        };
        if let Err(fault) = thread::Builder::new().name("store".to_owned()).spawn(move || writer.run()) {
            tracing::warn!(path = %path.display(), %fault, "the store cannot be written: there is no thread for it");
            store.state().fault = Some(fault.to_string());
        }
        store
    }

    /// Something with the file. One that turns out broken is looked at no more; a new one is begun later.
    fn look<T>(&mut self, act: impl FnOnce(&mut VerdictFile) -> Result<T, FileFault>) -> Option<T> {
        let outcome = act(self.file.as_mut()?);
        if let Err(fault) = &outcome {
            tracing::warn!(path = %self.path.display(), %fault, "the store cannot be read any further");
            self.file.take().into_iter().for_each(VerdictFile::abandon);
        }
        outcome.ok()
    }
}

impl Store {
    /// What the cache tells what it learns.
    #[must_use]
    pub fn journal(&self) -> Journal {
        Journal::new(Arc::clone(&self.queue))
    }

    /// How it is doing.
    #[must_use]
    pub fn account(&self) -> Account {
        let state = self.state();
        Account { fault: state.fault.clone(), records: state.records, dropped: self.queue.dropped() }
    }

    /// Writes what there is and ends; waits for that, but not for ever.
    pub async fn close(&self, patience: Duration) {
        self.queue.close();
        if timeout(patience, self.ended.cancelled()).await.is_err() {
            tracing::warn!("the store was not written in time: what was learnt last is lost");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Place {
    fn open(&self) -> Result<VerdictFile, FileFault> {
        let Self { directory, key, bounds } = self;
        let mut file = VerdictFile::open(directory, (key.0, key.check()), *bounds)?;
        let size = std::fs::metadata(directory.path()).map_or(0, |metadata| metadata.len());
        if let Err(fault) = file.shrink(size) {
            tracing::warn!(%fault, "the store could not be made smaller");
            drop(file);
            return VerdictFile::open(directory, (key.0, key.check()), *bounds);
        }
        Ok(file)
    }
}

/// What the thread does.
struct Writer {
    place: Place,
    file: Option<VerdictFile>,
    queue: Arc<Queue>,
    state: Arc<Mutex<State>>,
    _ended: DropGuard,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (batch, urgency) = self.queue.take(GATHERING);
            let written = if batch.is_empty() { Ok(()) } else { self.write(&batch) };
            let failed = written.is_err();
            self.tell(written);
            if urgency == Urgency::Last {
                return;
            }
            if failed {
                self.queue.give_back(batch);
                self.queue.rest(RETRY);
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), FileFault> {
        let file = match &mut self.file {
            Some(file) => file,
            // It failed before, and may have been put right.
            None => self.file.insert(self.place.open()?),
        };
        let written = file.write(batch, Stamp::now());
        if written.is_err()
            && let Some(file) = self.file.take()
        {
            file.abandon();
        }
        written
    }

    fn tell(&self, written: Result<(), FileFault>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.records = self.file.as_ref().map_or(0, VerdictFile::records);
        let fault = written.err().map(|fault| fault.to_string());
        match (&state.fault, &fault) {
            (None, Some(fault)) => {
                tracing::warn!(fault, "the store cannot be written; verdicts are remembered in memory alone");
            }
            (Some(_), None) => tracing::info!("the store is written again"),
            _ => {}
        }
        state.fault = fault;
    }
}

impl HashKey {
    /// The key that `secret` stands for.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        // The hash only brings any text into the form of a key.
        Self(SipHasher13::new_with_key(b"backstop's store").hash(secret.as_bytes()).as_bytes())
    }

    /// A key nobody knows, this process alone.
    #[must_use]
    pub fn random() -> Self {
        let mut key = [0; 16];
        // Without randomness the hash is still a hash; only somebody who may choose addresses and see
        // timings could make use of it.
        let _ = getrandom::fill(&mut key);
        Self(key)
    }

    /// The keyed hash of `parts`, which are told apart also where they touch.
    #[must_use]
    pub fn hash(self, parts: &[&[u8]]) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        for part in parts {
            std::hash::Hasher::write_usize(&mut hasher, part.len());
            std::hash::Hasher::write(&mut hasher, part);
        }
        hasher.finish128().as_u128()
    }

    /// The octets of it.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.0
    }

    /// What tells whether stored verdicts were hashed with this key.
    fn check(self) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        std::hash::Hasher::write(&mut hasher, b"is this the key?");
        hasher.finish128().as_u128()
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

#[cfg(test)]
mod tests;
