//! `logs`: the last lines of an instance, and those that come.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

use super::{
    client::Client,
    instance::Instance,
    log_files::default_path,
    wire::{Ask, LogPaths},
};
use crate::{
    error::{Error, ErrorKind, Result},
    process::name::Exit,
};

/// How often a file is looked at for new lines.
const LOOK: Duration = Duration::from_millis(100);

/// How long a master may take to say where its logs are.
const SILENCE: Duration = Duration::from_secs(2);

/// How much of a file is read at once.
const CHUNK: u64 = 64 * 1024;

/// Prints the last lines, and with `follow` those that come, until it is interrupted.
///
/// # Errors
///
/// The instance has no log files.
pub(super) fn logs(instance: &Instance, lines: u32, follow: bool) -> Result<Exit> {
    let paths = find(instance)?;
    let is_split = paths.len() > 1;
    let mut watched: Vec<Watched> = paths.into_iter().map(Watched::new).collect();
    let mut shown = None;
    for (index, file) in watched.iter_mut().enumerate() {
        let text = file.last_lines(lines as usize).map_err(|error| failed(&file.path, &error))?;
        let heading = (is_split && !text.is_empty()).then_some(file.path.as_path());
        if !print(heading, &text) {
            return Ok(Exit::Clean);
        }
        shown = Some(index);
    }
    if !follow {
        return Ok(Exit::Clean);
    }
    loop {
        let mut is_quiet = true;
        for (index, file) in watched.iter_mut().enumerate() {
            let text = file.new_bytes().map_err(|error| failed(&file.path, &error))?;
            if text.is_empty() {
                continue;
            }
            let heading = (is_split && shown != Some(index)).then_some(file.path.as_path());
            shown = Some(index);
            is_quiet = false;
            if !print(heading, &text) {
                return Ok(Exit::Clean);
            }
        }
        // There may be more than a chunk.
        if is_quiet {
            thread::sleep(LOOK);
        }
    }
}

/// The last lines of a file; none where it can't be read.
pub(super) fn last_lines(path: &Path, lines: usize) -> Vec<String> {
    let text = Watched::new(path.to_owned()).last_lines(lines).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Where the logs are: the master knows; where none runs, in the place where they are by default.
fn find(instance: &Instance) -> Result<Vec<PathBuf>> {
    let title = instance.title.as_str();
    let default = default_path(&instance.title);
    let nothing = |text: String| Err(Error::new(ErrorKind::Process, text));
    if let Some(client) = Client::connect(instance)? {
        match client.ask::<Option<LogPaths>>(Ask::Logs, SILENCE) {
            Ok(Some(LogPaths { stdout, stderr })) if stdout == stderr => return Ok(vec![stdout]),
            Ok(Some(LogPaths { stdout, stderr })) => return Ok(vec![stdout, stderr]),
            Ok(None) => {
                return nothing(format!(
                    "{title} runs in the foreground and has no log files; its lines are where it \
                     was started, or with the service manager"
                ));
            }
            // The files may be there all the same.
            Err(_) => {}
        }
    }
    if default.exists() {
        return Ok(vec![default]);
    }
    nothing(format!("{title} has no log file {}", default.display()))
}

/// Opens a log file. What is no file has no lines to look back at: a FIFO or a terminal gives each
/// line once, to whoever is the first to read it, and would be waited for.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    // A FIFO that nobody writes to is opened as well, and not waited for.
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.read(true).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device"
    };
    let text = format!("it is {what} and no file; its lines are with whoever reads it");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(format_args!("can't read {}", path.display()), error)
}

/// False where nobody reads it any more.
fn print(heading: Option<&Path>, text: &[u8]) -> bool {
    let mut stdout = io::stdout().lock();
    let heading = heading.map(|path| format!("==> {} <==\n", path.display())).unwrap_or_default();
    let written = stdout.write_all(heading.as_bytes());
    written.and_then(|()| stdout.write_all(text)).and_then(|()| stdout.flush()).is_ok()
}

/// A file that is read as it grows, and found again where it is renamed.
struct Watched {
    path: PathBuf,
    file: Option<File>,
    /// How much of it was shown.
    offset: u64,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, offset: 0 }
    }

    /// The last lines. What is shown next comes after them.
    fn last_lines(&mut self, lines: usize) -> io::Result<Vec<u8>> {
        let mut file = match open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let end = file.metadata()?.len();
        let (mut text, mut begin) = (Vec::new(), end);
        // The end of the last line is not the beginning of another.
        while begin > 0 && count_lines(&text) <= lines {
            let size = begin.min(CHUNK);
            begin -= size;
            file.seek(SeekFrom::Start(begin))?;
            let mut chunk = Vec::new();
            (&file).take(size).read_to_end(&mut chunk)?;
            chunk.append(&mut text);
            text = chunk;
        }
        self.offset = end;
        self.file = Some(file);
        Ok(keep_lines(&text, lines).to_vec())
    }

    /// What was written since, at most a chunk.
    fn new_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        if let Some(file) = &mut self.file {
            if file.metadata()?.len() < self.offset {
                // Cut by somebody: it begins anew.
                self.offset = 0;
            }
            file.seek(SeekFrom::Start(self.offset))?;
            file.take(CHUNK).read_to_end(&mut text)?;
            self.offset += text.len() as u64;
        }
        // The old file first, to its end.
        if text.is_empty() && self.is_moved() {
            self.file = open(&self.path).ok();
            self.offset = 0;
        }
        Ok(text)
    }

    fn is_moved(&self) -> bool {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let there = std::fs::metadata(&self.path).map(identity).ok();
        let ours = self.file.as_ref().and_then(|file| file.metadata().map(identity).ok());
        there.is_some() && there != ours
    }
}

fn count_lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

fn keep_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let Some(skipped) = lines.checked_sub(1) else { return &[] };
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match ends.map(|(at, _)| at).nth(skipped) {
        Some(at) => &text[at + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_however_long_the_file() {
        assert_eq!(keep_lines(b"", 3), b"");
        assert_eq!(keep_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(keep_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(keep_lines(b"a\n", 0), b"");
        assert_eq!(keep_lines(b"a\nb\n", 9), b"a\nb\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..100_000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(file.path(), &text).unwrap();
        let mut watched = Watched::new(file.path().to_owned());
        let last = watched.last_lines(20_000).unwrap();
        assert!(text.as_bytes().ends_with(&last));
        assert!(last.starts_with(b"line 80000\n"));
        assert!(watched.new_bytes().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let directory = base.path();
        for (path, is) in [
            (path.as_path(), "a FIFO"),
            (Path::new("/dev/null"), "a device"),
            (Path::new("/dev/tty"), ""),
            (directory, "a directory"),
        ] {
            let error = Watched::new(path.to_owned()).last_lines(10).unwrap_err();
            assert!(error.to_string().contains(is), "{error}");
            assert!(last_lines(path, 10).is_empty());
        }
    }

    #[test]
    fn a_file_that_is_renamed_is_read_to_its_end_and_then_the_new_one() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("app.log");
        std::fs::write(&path, "one\n").unwrap();
        let mut watched = Watched::new(path.clone());
        assert_eq!(watched.last_lines(10).unwrap(), b"one\n");
        let append = |path: &Path, text: &str| {
            let mut file = File::options().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append(&path, "two\n");
        std::fs::rename(&path, base.path().join("app.log.1")).unwrap();
        append(&path, "three\n");
        let mut read = Vec::new();
        for _ in 0..5 {
            read.extend(watched.new_bytes().unwrap());
        }
        assert_eq!(read, b"two\nthree\n");
        std::fs::write(&path, "").unwrap();
        append(&path, "4\n");
        assert_eq!([watched.new_bytes().unwrap(), watched.new_bytes().unwrap()].concat(), b"4\n");
    }
}
