//! The directory of the store: the file of verdicts, the secret, and what was put aside.
//!
//! All that is made here is for us alone: the directory 0700, the files 0600.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The verdicts.
const VERDICTS: &str = "verdicts.redb";
/// What addresses are hashed with, where the configuration does not say.
const SECRET: &str = "secret";
/// Written and removed again, to see whether the directory can be written.
const TRIAL: &str = ".trial";

/// The directory verdicts are kept in.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes the directory where there is none.
    pub(super) fn prepare(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Whether it could be used; nothing is left behind. One that is missing is to be made by us later, so the
    /// nearest one above it is looked at.
    pub(super) fn examine(path: &Path) -> io::Result<()> {
        let nearest = path.ancestors().find(|above| above.symlink_metadata().is_ok());
        let nearest = match nearest {
            Some(nearest) => nearest,
            None => Path::new("."),
        };
        if !fs::metadata(nearest)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let trial = nearest.join(format!("{TRIAL}-{}", std::process::id()));
        private().create_new(true).open(&trial)?;
        fs::remove_file(trial)
    }

    /// The file of verdicts, made where there is none.
    pub(super) fn verdicts(&self) -> io::Result<File> {
        let file = private().read(true).create(true).truncate(false).open(self.path())?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Where the file of verdicts is.
    pub(super) fn path(&self) -> PathBuf {
        self.0.join(VERDICTS)
    }

    /// Renames what is of no use, whatever it is. Gives its new name.
    pub(super) fn put_aside(&self, name: &Path) -> io::Result<PathBuf> {
        let when = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut aside = name.as_os_str().to_owned();
        aside.push(format!(".aside-{}", when.as_nanos()));
        let aside = PathBuf::from(aside);
        fs::rename(name, &aside)?;
        Ok(aside)
    }

    /// The secret kept here; where there is none, one made by chance. One that cannot be read as a secret is
    /// put aside.
    pub(super) fn secret(&self) -> io::Result<String> {
        let path = self.0.join(SECRET);
        match fs::read_to_string(&path) {
            Ok(text) if is_secret(text.trim()) => {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
                return Ok(text.trim().to_owned());
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            Err(fault) if fault.kind() == io::ErrorKind::PermissionDenied => return Err(fault),
            Ok(_) | Err(_) => {
                let aside = self.put_aside(&path)?;
                tracing::warn!(aside = %aside.display(), "the store's secret is no secret of ours and was renamed");
            }
        }
        let mut chance = [0; 16];
        getrandom::fill(&mut chance).map_err(|_| io::Error::other("the system has no randomness"))?;
        let secret: String = chance.iter().map(|octet| format!("{octet:02x}")).collect();
        // Whole under its name, or not there.
        let new = self.0.join(format!("{SECRET}.new"));
        let _ = fs::remove_file(&new);
        let mut file = private().create_new(true).open(&new)?;
        file.write_all(format!("{secret}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(new, path)?;
        Ok(secret)
    }
}

/// Opens files for writing that are ours alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn is_secret(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|octet| octet.is_ascii_hexdigit())
}
