//! Recipients from a file: one address or `@domain` per line, `#` begins a comment.
//!
//! The file is read again when it has changed; one that cannot be read, or holds a line that is no address,
//! leaves the list as it was and is reported. Entries are compared in canonical form.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::config::{Listed, RecipientList};
use crate::proto::address::{LocalCase, Mailbox};

/// How often the file is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a file is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListFault {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// It holds no address: more likely half written than meant.
    #[error("{0} holds no address")]
    Empty(PathBuf),
    /// A line is no address.
    #[error("{0} line {1}: {2:?} is neither an address nor @domain")]
    Line(PathBuf, usize, String),
}

/// A watched list.
#[derive(Debug)]
pub struct ListFile {
    path: PathBuf,
    case: LocalCase,
    list: RwLock<(Option<SystemTime>, Arc<RecipientList>)>,
    /// When the file was changed, as of the last look.
    seen: Mutex<Option<SystemTime>>,
}

impl ListFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`ListFault`].
    pub fn open(path: &Path, case: LocalCase) -> Result<Self, ListFault> {
        let changed = modified(path);
        let list = Arc::new(read(path, case)?);
        let list = RwLock::new((changed, list));
        Ok(Self { path: path.to_owned(), case, list, seen: Mutex::new(changed) })
    }

    /// Whether `mailbox` is on it.
    #[must_use]
    pub fn contains(&self, mailbox: &Mailbox) -> bool {
        self.list.read().unwrap_or_else(PoisonError::into_inner).1.contains(mailbox)
    }

    /// Reads the file again if it has changed, and was the same at the look before: one that is still being
    /// written would refuse whom it does not name yet.
    pub fn look(&self) {
        let changed = modified(&self.path);
        let rests =
            std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), changed)
                == changed;
        if !rests || changed == self.list.read().unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
        match read(&self.path, self.case) {
            Ok(list) => {
                *self.list.write().unwrap_or_else(PoisonError::into_inner) = (changed, Arc::new(list));
                tracing::info!(file = %self.path.display(), "recipient list read again");
            }
            Err(fault) => {
                // Said once for each state of the file, not at every look.
                self.list.write().unwrap_or_else(PoisonError::into_inner).0 = changed;
                tracing::warn!(%fault, "recipient list kept as it was");
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

fn read(path: &Path, case: LocalCase) -> Result<RecipientList, ListFault> {
    let text =
        std::fs::read_to_string(path).map_err(|fault| ListFault::Unreadable(path.to_owned(), fault))?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let entry = Listed::read(line);
        entries.push(entry.ok_or_else(|| ListFault::Line(path.to_owned(), number + 1, line.to_owned()))?);
    }
    if entries.is_empty() {
        return Err(ListFault::Empty(path.to_owned()));
    }
    Ok(RecipientList::new(&entries, case))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_again_when_it_changes_and_kept_when_it_is_bad() {
        let path = std::env::temp_dir().join(format!("backstop-list-{}", std::process::id()));
        std::fs::write(&path, "# staff\nann@example.org\n@lists.example.org # all\n").unwrap();
        let list = ListFile::open(&path, LocalCase::Sensitive).unwrap();
        let on_it = |list: &ListFile, who| list.contains(&Mailbox::parse(who).unwrap());
        assert!(on_it(&list, "ann@EXAMPLE.org") && on_it(&list, "any@lists.example.org"));
        assert!(!on_it(&list, "bob@example.org"));

        let later = SystemTime::now() + Duration::from_secs(60);
        let rewrite = |text: &str, time| {
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        rewrite("bob@example.org\n", later);
        list.look();
        assert!(on_it(&list, "ann@example.org"), "it may still be written to");
        list.look();
        assert!(on_it(&list, "bob@example.org") && !on_it(&list, "ann@example.org"));
        for (bad, minutes) in [("not an address\n", 2), ("", 3)] {
            rewrite(bad, later + Duration::from_secs(60 * minutes));
            list.look();
            list.look();
            assert!(on_it(&list, "bob@example.org"), "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
