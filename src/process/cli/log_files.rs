//! The log files of an instance: where they are, and what becomes of old ones.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{instance::Title, wire::LogPaths};
use crate::{
    error::{Error, Result},
    process::{
        name::ProcessName,
        output::{LogFile, Logs, Sink, copy_lines, tag},
    },
};

/// How many log files of earlier starts are kept, as `<file>.1` (the newest) to `<file>.5`.
const KEPT: u32 = 5;

/// Where the lines of an instance go that was told these paths. The default of stderr is where
/// stdout goes, so that the lines stay in order; the default of stdout is in the state directory.
pub(super) fn paths(title: &Title, stdout: Option<&Path>, stderr: Option<&Path>) -> LogPaths {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let stdout = stdout.map_or_else(|| default_path(title), absolute);
    let stderr = stderr.map_or_else(|| stdout.clone(), absolute);
    LogPaths { stdout, stderr }
}

/// `$XDG_STATE_HOME/cluster-client/<title>.log`, else in `~/.local/state`. Not in the runtime
/// directory: logs outlive their instance.
pub(super) fn default_path(title: &Title) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").map(|home| home.join(".local/state"));
    let state = variable("XDG_STATE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir);
    state.join("cluster-client").join(format!("{}.log", title.as_str()))
}

/// Renames what earlier starts wrote, and forgets the oldest.
///
/// # Errors
///
/// A file that is there can't be renamed.
pub(super) fn rotate(paths: &LogPaths) -> Result<()> {
    for path in each(paths) {
        // A device or a pipe stays what it is, and there is nothing to keep of an empty file.
        let is_used = |meta: fs::Metadata| meta.is_file() && meta.len() > 0;
        if fs::symlink_metadata(path).is_ok_and(is_used) {
            rotate_one(path).map_err(|error| failed(path, &error))?;
        }
    }
    Ok(())
}

fn rotate_one(path: &Path) -> io::Result<()> {
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

pub(super) fn each(paths: &LogPaths) -> impl Iterator<Item = &Path> {
    let stderr = (paths.stderr != paths.stdout).then_some(paths.stderr.as_path());
    std::iter::once(paths.stdout.as_path()).chain(stderr)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(format_args!("the log file {} can't be used", path.display()), error)
}

/// The files of the instance, open.
pub(super) fn open(paths: &LogPaths) -> Result<Logs> {
    let open = |path: &Path| {
        let file = LogFile::open(path).map_err(|error| failed(path, &error))?;
        Ok::<_, Error>(Sink::File(Arc::new(Mutex::new(file))))
    };
    let stdout = open(&paths.stdout)?;
    let stderr = if paths.stderr == paths.stdout { stdout.clone() } else { open(&paths.stderr)? };
    Ok(Logs { stdout, stderr })
}

/// The files of the instance, as a master in the background has them until it has opened them
/// itself.
pub(super) fn open_for_child(paths: &LogPaths) -> Result<[fs::File; 2]> {
    let open = |path: &Path| {
        let opened = LogFile::open(path).map_err(|error| failed(path, &error))?;
        Ok::<_, Error>(opened.into_file())
    };
    Ok([open(&paths.stdout)?, open(&paths.stderr)?])
}

/// What the master itself writes to its stdout and stderr, on the way to the log files: through
/// pipes and a thread each, so that its lines have their tag and a renamed file is noticed.
///
/// What was written is on its way until [`flush`](Self::flush), which a panic and the end of this
/// do. A master that gets a SIGKILL may lose the line that it wrote last.
pub(super) struct OwnLines(Arc<[Stream; 2]>);

struct Stream {
    /// The end that is read, to know whether something is in it.
    pipe: OwnedFd,
    is_busy: Arc<AtomicBool>,
}

impl OwnLines {
    /// Redirects the stdout and stderr of this process.
    ///
    /// # Errors
    ///
    /// There are no more descriptors or threads to be had.
    pub(super) fn redirect(logs: &Logs) -> Result<Self> {
        let redirect = || {
            let (stdout, writer) = Stream::copy_to(logs.stdout.clone())?;
            rustix::stdio::dup2_stdout(writer)?;
            let (stderr, writer) = Stream::copy_to(logs.stderr.clone())?;
            rustix::stdio::dup2_stderr(writer)?;
            Ok([stdout, stderr])
        };
        let streams = redirect().map_err(|error: io::Error| {
            Error::io("can't redirect the output of the master", &error)
        })?;
        let lines = Self(Arc::new(streams));
        // With `panic = "abort"` the message of a panic would be lost.
        let (streams, inner) = (Arc::clone(&lines.0), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            inner(panic);
            flush(&streams);
        }));
        Ok(lines)
    }
}

impl Drop for OwnLines {
    fn drop(&mut self) {
        flush(&self.0);
    }
}

impl Stream {
    fn copy_to(sink: Sink) -> io::Result<(Self, io::PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let stream = Self { pipe: reader.try_clone()?.into(), is_busy: Arc::default() };
        let is_busy = Arc::clone(&stream.is_busy);
        let tag = tag(ProcessName::Master, std::process::id());
        thread::Builder::new().name("cluster-output".into()).stack_size(128 * 1024).spawn(
            move || copy_lines(Busy { reader, is_busy }, |line| sink.write_tagged(&tag, line)),
        )?;
        Ok((stream, writer))
    }

    fn is_empty(&self) -> bool {
        !self.is_busy.load(Ordering::SeqCst) && rustix::io::ioctl_fionread(&self.pipe) == Ok(0)
    }
}

/// Says whether what was read from it is still in somebody's hands.
struct Busy {
    reader: io::PipeReader,
    is_busy: Arc<AtomicBool>,
}

impl io::Read for Busy {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_busy.store(false, Ordering::SeqCst);
        // Busy from before the bytes leave the pipe, so that `is_empty` misses none.
        wait_readable(&self.reader)?;
        self.is_busy.store(true, Ordering::SeqCst);
        self.reader.read(buffer)
    }
}

fn wait_readable(pipe: &io::PipeReader) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    poll(&mut [PollFd::new(pipe, PollFlags::IN)], None)?;
    Ok(())
}

/// Waits until the lines are written, but not for ever: a disk can hang.
fn flush(streams: &[Stream; 2]) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while !streams.iter().all(Stream::is_empty) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_starts_are_kept_and_the_sixth_is_forgotten() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("app; touch x.log");
        let paths = LogPaths { stdout: path.clone(), stderr: path.clone() };
        rotate(&paths).unwrap();
        for start in 0..8 {
            fs::write(&path, format!("start {start}")).unwrap();
            rotate(&paths).unwrap();
            // Nothing was written since.
            fs::write(&path, "").unwrap();
            rotate(&paths).unwrap();
        }
        for number in 1..=KEPT {
            let text = fs::read_to_string(numbered(&path, number)).unwrap();
            assert_eq!(text, format!("start {}", 8 - number));
        }
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1 + KEPT as usize);
    }

    #[test]
    fn stdout_and_stderr_share_a_file_unless_told_otherwise() {
        let title: Title = "app".parse().unwrap();
        let (one, other) = (Path::new("/logs/one"), Path::new("/logs/other"));
        let shared = paths(&title, Some(one), None);
        assert_eq!((shared.stdout.as_path(), shared.stderr.as_path()), (one, one));
        let apart = paths(&title, Some(one), Some(other));
        assert_eq!((apart.stdout.as_path(), apart.stderr.as_path()), (one, other));
        let standard = paths(&title, None, Some(other));
        assert_eq!((standard.stdout, standard.stderr.as_path()), (default_path(&title), other));
    }
}
