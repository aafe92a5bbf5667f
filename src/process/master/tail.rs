//! What a child writes to its stdout and stderr: it goes on as it comes, and the last lines are
//! kept.
//!
//! A thread a stream, and not a task, because writing on can block, and nothing may block the
//! master.

use std::{
    collections::VecDeque,
    io::{self, PipeReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::oneshot;

use crate::process::output::{Sink, copy_lines};

/// How many lines are kept.
const LINES: usize = 20;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: Vec<oneshot::Receiver<()>>,
}

impl Tail {
    /// Starts to copy a stream of the child. Where there is a tag, each line gets it, and pieces of
    /// a line that is too long become lines of their own.
    pub(super) fn follow(
        &mut self,
        stream: PipeReader,
        onward: Sink,
        tag: Option<String>,
    ) -> io::Result<()> {
        let (ends, ended) = oneshot::channel::<()>();
        let follows = Follow { lines: Arc::clone(&self.lines), onward, tag, _ends: ends };
        thread::Builder::new()
            .name("cluster-output".into())
            .stack_size(128 * 1024)
            .spawn(move || follows.run(stream))?;
        self.ended.push(ended);
        Ok(())
    }

    /// Waits until the streams have come to their end: all who had them are gone.
    pub(super) async fn ended(&mut self) {
        for ended in &mut self.ended {
            // The thread drops its end, which is an error here, and what is waited for.
            let _ = ended.await;
        }
        self.ended.clear();
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

struct Follow {
    lines: Arc<Mutex<VecDeque<String>>>,
    onward: Sink,
    tag: Option<String>,
    _ends: oneshot::Sender<()>,
}

impl Follow {
    fn run(self, stream: impl Read) {
        copy_lines(stream, |line| {
            match &self.tag {
                Some(tag) => self.onward.write_tagged(tag, line),
                None => self.onward.write(line),
            }
            let text = String::from_utf8_lossy(line).trim_end().to_owned();
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(text);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::output::{LINE_BYTES, LogFile};

    fn follow(written: &[u8], tag: Option<&str>) -> (Vec<String>, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let onward = Sink::File(Arc::new(Mutex::new(LogFile::open(file.path()).unwrap())));
        let tail = Tail::default();
        let (ends, _ended) = oneshot::channel();
        let tag = tag.map(str::to_owned);
        Follow { lines: Arc::clone(&tail.lines), onward, tag, _ends: ends }.run(written);
        (tail.lines(), std::fs::read(file.path()).unwrap())
    }

    #[test]
    fn everything_goes_on_and_the_last_lines_stay() {
        let written: String = (0..50).map(|line| format!("line {line}\n")).collect();
        let (lines, onward) = follow(written.as_bytes(), None);
        assert_eq!(onward, written.as_bytes());
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].as_str(), lines[19].as_str()), ("line 30", "line 49"));
    }

    #[test]
    fn endless_lines_and_bytes_that_are_no_text_take_no_more_room() {
        let written = vec![0xff; 200 * LINE_BYTES as usize];
        let (lines, onward) = follow(&written, None);
        assert_eq!(onward.len(), written.len());
        assert_eq!(lines.len(), LINES);
    }

    #[test]
    fn with_a_tag_each_line_has_it_and_an_end() {
        let (lines, onward) = follow(b"one\ntwo", Some("agent[7]: "));
        assert_eq!(String::from_utf8(onward).unwrap(), "agent[7]: one\nagent[7]: two\n");
        assert_eq!(lines, ["one", "two"]);
        let endless = vec![b'x'; 2 * LINE_BYTES as usize];
        let (_, onward) = follow(&endless, Some("agent[7]: "));
        let onward = String::from_utf8(onward).unwrap();
        assert_eq!(onward.lines().count(), 2);
        assert!(onward.lines().all(|line| line.starts_with("agent[7]: x")));
    }
}
