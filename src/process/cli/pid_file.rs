//! The pid file that `--pid-file` asks for, for those who look for one.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::process::Pid;

use super::living::Living;
use crate::error::{Error, Result};

/// A pid file of this process. It is removed when this is dropped, if it is still this process's.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes the file, and its directory where it is missing.
    ///
    /// # Errors
    ///
    /// See [`check`](Self::check); and where it can't be written.
    pub(super) fn write(path: &Path) -> Result<Self> {
        Self::check(path)?;
        let write = || {
            if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
                DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            }
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o644).open(path)?;
            writeln!(file, "{}", std::process::id())
        };
        let was_there = path.exists();
        write().map_err(|error| {
            // On a full disk it can be made and not written.
            if !was_there {
                let _ = fs::remove_file(path);
            }
            failed(path, &error)
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Whether this process may write there: nothing is there, or the pid file of a process that is
    /// gone.
    ///
    /// # Errors
    ///
    /// It belongs to another process that lives, or is no pid file.
    pub(super) fn check(path: &Path) -> Result<()> {
        let shown = path.display();
        match read(path).map_err(|error| failed(path, &error))? {
            Content::Nothing => Ok(()),
            Content::Other => Err(Error::config(format!(
                "{shown} has something else in it than a pid; give another --pid-file"
            ))),
            Content::Pid(pid) if pid == rustix::process::getpid() || is_gone(pid) => Ok(()),
            Content::Pid(pid) => Err(Error::config(format!(
                "{shown} is the pid file of process {}, which lives; stop that, or give another \
                 --pid-file",
                pid.as_raw_pid()
            ))),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Ok(Content::Pid(pid)) = read(&self.0)
            && pid == rustix::process::getpid()
        {
            // Somebody else may have removed it in this moment.
            let _ = fs::remove_file(&self.0);
        }
    }
}

enum Content {
    Nothing,
    Pid(Pid),
    Other,
}

fn read(path: &Path) -> io::Result<Content> {
    let mut text = Vec::new();
    match fs::metadata(path) {
        // To open a pipe would wait for somebody at its other end.
        Ok(meta) if !meta.is_file() => return Ok(Content::Other),
        _ => {}
    }
    match fs::File::open(path) {
        Ok(file) => file.take(64).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Nothing),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    Ok(match (text.trim(), pid) {
        ("", _) => Content::Nothing,
        (_, Some(pid)) => Content::Pid(pid),
        (_, None) => Content::Other,
    })
}

/// Whether there is no process of this number, or one that has ended and was not waited for.
fn is_gone(pid: Pid) -> bool {
    Living::find(pid).is_none_or(|process| process.is_gone())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(format_args!("the pid file {} can't be used", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_pid_while_this_lives_whatever_was_there() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("run/app.pid");
        let own = format!("{}\n", std::process::id());
        // i32::MAX is above the highest pid of any system.
        for stale in [None, Some(""), Some(own.as_str()), Some("2147483647\n")] {
            if let Some(stale) = stale {
                fs::write(&path, stale).unwrap();
            }
            let file = PidFile::write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), own);
            drop(file);
            assert!(!path.exists());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
    }

    #[test]
    fn one_that_is_gone_already_or_is_anothers_by_now_is_let_be() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("app.pid");
        let file = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        drop(file);
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = PidFile::write(&path).unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
    }

    #[test]
    fn that_of_a_living_process_and_other_files_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("app.pid");
        fs::write(&path, "1\n").unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        assert!(error.contains("process 1, which lives"), "{error}");
        fs::write(&path, "precious").unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
