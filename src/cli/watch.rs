//! The configuration file, watched: rewritten, renamed into place, or swapped by symlink as Kubernetes does.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// A file that is looked at.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    /// What was in it when it was told of last.
    told: Option<Vec<u8>>,
    /// What was in it at the last look.
    seen: Option<Vec<u8>>,
}

impl Watched {
    /// What is in it now is known.
    pub(super) async fn from_now(path: PathBuf) -> Self {
        let mut watched = Self { path, told: None, seen: None };
        watched.told = watched.read().await;
        watched.seen.clone_from(&watched.told);
        watched
    }

    /// Comes back once it has changed, and has stood still since: it may be half written. One that is not there has not
    /// changed.
    pub(super) async fn changed(&mut self) {
        loop {
            sleep(EVERY).await;
            let now = self.read().await;
            let still = now == self.seen;
            self.seen = now;
            if still && self.seen.is_some() && self.seen != self.told {
                self.told.clone_from(&self.seen);
                return;
            }
        }
    }

    async fn read(&self) -> Option<Vec<u8>> {
        tokio::fs::read(&self.path).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_once_it_stands_still() {
        let directory = std::env::temp_dir().join(format!("backstop-watch-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("backstop.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watched = Watched::from_now(path.clone()).await;
        let patience = EVERY * 5 / 2;
        assert!(tokio::time::timeout(patience, watched.changed()).await.is_err(), "nothing changed");
        let new = directory.join("new");
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(&new, &path).unwrap();
        watched.changed().await;
        std::fs::remove_file(&path).unwrap();
        assert!(tokio::time::timeout(patience, watched.changed()).await.is_err(), "it is away for a moment");
        std::fs::write(&path, "two").unwrap();
        assert!(tokio::time::timeout(patience, watched.changed()).await.is_err(), "the same again");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
