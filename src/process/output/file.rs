//! A log file that can be renamed under the hands of its writer.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, fcntl_setfl};

/// A file that lines are added to, at its path, whatever becomes of the file that is there.
#[derive(Debug)]
pub(in crate::process) struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode of the file.
    identity: (u64, u64),
}

impl LogFile {
    /// Opens the file, and makes it and its directory where they are missing.
    pub(in crate::process) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        }
        let mut options = OpenOptions::new();
        // A pipe that nobody reads is an error, and not waited for.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.append(true).create(true).mode(0o640).open(path)?;
        fcntl_setfl(&file, OFlags::APPEND)?;
        let meta = file.metadata()?;
        Ok(Self { path: path.to_owned(), file, identity: (meta.dev(), meta.ino()) })
    }

    pub(in crate::process) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Only a file is rotated. What leads to a pipe or a terminal stays what it was: through
        // /dev/stdout a master that reads its own output would write it to itself.
        let is_moved = fs::metadata(&self.path)
            .map_or(true, |meta| meta.is_file() && (meta.dev(), meta.ino()) != self.identity);
        if is_moved
            // Where it can't be opened again, the old file is better than none.
            && let Ok(reopened) = Self::open(&self.path)
        {
            *self = reopened;
        }
        self.file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::process::output::Sink;

    fn sink(path: &Path) -> Sink {
        Sink::File(Arc::new(Mutex::new(LogFile::open(path).unwrap())))
    }

    #[test]
    fn a_file_that_is_renamed_is_opened_anew_for_the_next_line() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("some/where/app.log");
        let sink = sink(&path);
        sink.write(b"one\n");
        let moved = base.path().join("some/where/app.log.1");
        fs::rename(&path, &moved).unwrap();
        sink.write(b"two\n");
        fs::remove_dir_all(base.path().join("some")).unwrap();
        sink.write(b"three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(LogFile::open(&path).is_err());
    }

    #[test]
    fn a_path_that_leads_to_a_pipe_by_now_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let (path, file) = (base.path().join("stdout"), base.path().join("file"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &path).unwrap();
        let sink = sink(&path);
        sink.write(b"one\n");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        sink.write(b"two\n");
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn lines_of_one_file_go_to_both_sides_of_a_rename() {
        let base = tempfile::tempdir().unwrap();
        let (path, moved) = (base.path().join("app.log"), base.path().join("old"));
        let sink = sink(&path);
        sink.write(b"one\n");
        fs::rename(&path, &moved).unwrap();
        sink.write(b"two\n");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
