//! The directory in which the processes of one user find each other: tokens of ports, and the
//! instances of the command line.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// `cluster-client` in `$XDG_RUNTIME_DIR`, else in `/run/user/UID` where that is this user's, else
/// a directory of this user's own below the temporary one.
pub(crate) fn directory() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        return PathBuf::from(runtime).join("cluster-client");
    }
    let session = PathBuf::from(format!("/run/user/{uid}"));
    match fs::symlink_metadata(&session) {
        Ok(meta) if is_closed(&meta) => session.join("cluster-client"),
        _ => std::env::temp_dir().join(format!("cluster-client-{uid}")),
    }
}

/// Makes the directory where it is missing; see [`check`].
///
/// # Errors
///
/// It can't be made, or is not this user's alone.
pub(crate) fn own(directory: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed(directory, &error))
        }
        _ => check(directory),
    }
}

/// Makes sure that the directory is this user's and closed to others. Another user could have made
/// it first, and would be in the middle of all that is done in it.
///
/// # Errors
///
/// It is missing, or is not this user's alone.
pub(crate) fn check(directory: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(directory).map_err(|error| failed(directory, &error))?;
    if is_closed(&meta) {
        return Ok(());
    }
    Err(Error::config(format!(
        "{} must be a directory of this user with mode 0700; remove it, or choose another place \
         with XDG_RUNTIME_DIR",
        directory.display()
    )))
}

fn is_closed(meta: &fs::Metadata) -> bool {
    let is_mine = meta.uid() == rustix::process::geteuid().as_raw();
    meta.is_dir() && is_mine && meta.mode() & 0o077 == 0
}

fn failed(directory: &Path, error: &io::Error) -> Error {
    let directory = directory.display();
    if error.kind() == io::ErrorKind::NotFound {
        let what = format_args!(
            "the directory {directory} can't be made; make the one above it, or choose another place \
             with XDG_RUNTIME_DIR"
        );
        return Error::io(what, error);
    }
    Error::io(format_args!("the directory {directory} can't be used"), error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_is_open_to_others_or_no_directory_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("run");
        assert_eq!(check(&directory).unwrap_err().kind(), ErrorKind::Io);
        let error = own(&directory.join("below")).unwrap_err().to_string();
        assert!(error.contains("choose another place with XDG_RUNTIME_DIR"), "{error}");
        own(&directory).unwrap();
        own(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(own(&directory).unwrap_err().kind(), ErrorKind::Config);
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(own(&file).unwrap_err().kind(), ErrorKind::Config);
        let link = base.path().join("link");
        let closed = base.path().join("closed");
        own(&closed).unwrap();
        std::os::unix::fs::symlink(&closed, &link).unwrap();
        assert_eq!(own(&link).unwrap_err().kind(), ErrorKind::Config, "links lead elsewhere");
    }
}
