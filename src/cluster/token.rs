//! The token of a port where no master hands one out: a file that only this user can read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::{
    error::{Error, Result},
    protocol::handshake::{self, Token},
    runtime_dir,
};

/// The token of `port`, made by whoever asks first.
///
/// # Errors
///
/// The directory or file is not this user's alone, or can't be used.
pub(super) fn of_port(port: u16) -> Result<Token> {
    in_directory(&runtime_dir::directory(), port)
}

fn in_directory(directory: &Path, port: u16) -> Result<Token> {
    runtime_dir::own(directory)?;
    let path = directory.join(format!("{port}.token"));
    for _ in 0..2 {
        match read(&path) {
            Ok(secret) => return Token::new(secret),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(directory, &path)?,
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Err(failed(&path, &io::ErrorKind::NotFound.into()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        let reason = "it must belong to this user with mode 0600";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    let mut secret = Vec::new();
    file.take(4096).read_to_end(&mut secret)?;
    Ok(secret)
}

/// Makes the file so that it is either not there or whole: written under another name, then linked
/// to its own, which fails if somebody else was faster.
fn make(directory: &Path, path: &Path) -> Result<()> {
    let name = handshake::random::<8>()?.map(|byte| format!("{byte:02x}")).concat();
    let draft = directory.join(format!(".{name}"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(Token::random().map_err(io::Error::other)?.secret())?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    };
    let made = write().map_err(|error| failed(path, &error));
    // Gone already where it could not be made.
    let _ = fs::remove_file(&draft);
    made
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(format_args!("the token file {} can't be used", path.display()), error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn all_who_ask_at_once_get_the_same_token() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("run");
        let tokens: Vec<_> = std::thread::scope(|scope| {
            let ask = || scope.spawn(|| in_directory(&directory, 7777).unwrap());
            let asked: Vec<_> = (0..8).map(|_| ask()).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]));
        assert_ne!(in_directory(&directory, 7778).unwrap(), tokens[0]);
        let left: Vec<_> = fs::read_dir(&directory).unwrap().collect();
        assert_eq!(left.len(), 2, "no drafts are left: {left:?}");
    }

    #[test]
    fn a_directory_or_file_that_others_can_read_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("run");
        in_directory(&directory, 1).unwrap();
        let file = directory.join("1.token");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(in_directory(&directory, 1).unwrap_err().kind(), ErrorKind::Io);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(in_directory(&directory, 2).unwrap_err().kind(), ErrorKind::Config);
    }
}
