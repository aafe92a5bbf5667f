//! The last lines that a child wrote to its stderr, which go on to the master's stderr as they come.
//!
//! A thread a child, and not a task, because writing to the master's stderr can block, and nothing
//! may block the master.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::oneshot;

/// How many lines are kept.
const LINES: usize = 20;

/// Longest line. A longer one goes on to stderr in pieces.
const LINE_BYTES: u64 = 4 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: oneshot::Receiver<()>,
}

impl Tail {
    /// A tail, and the pipe that the child is to have as its stderr.
    pub(super) fn new() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let lines = Arc::default();
        let (ends, ended) = oneshot::channel::<()>();
        let follows = Follow { reader, lines: Arc::clone(&lines), _ends: ends };
        thread::Builder::new()
            .name("cluster-stderr".into())
            .stack_size(128 * 1024)
            .spawn(move || follows.run(io::stderr()))?;
        Ok((Self { lines, ended }, writer))
    }

    /// Waits until the child's stderr has come to its end: all who had it are gone.
    pub(super) async fn ended(&mut self) {
        // The thread drops its end, which is an error here, and what is waited for.
        let _ = (&mut self.ended).await;
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

struct Follow {
    reader: PipeReader,
    lines: Arc<Mutex<VecDeque<String>>>,
    _ends: oneshot::Sender<()>,
}

impl Follow {
    fn run(self, mut onward: impl Write) {
        let mut reader = BufReader::new(self.reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            // Where the master's own stderr is gone, the lines are still kept.
            let _ = onward.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(written: &[u8]) -> (Vec<String>, Vec<u8>) {
        let (reader, mut writer) = io::pipe().unwrap();
        let (ends, ended) = oneshot::channel();
        let lines = Arc::default();
        let tail = Tail { lines: Arc::clone(&lines), ended };
        let follows = Follow { reader, lines, _ends: ends };
        let mut onward = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| follows.run(&mut onward));
            writer.write_all(written).unwrap();
            drop(writer);
        });
        (tail.lines(), onward)
    }

    #[test]
    fn everything_goes_on_and_the_last_lines_stay() {
        let written: String = (0..50).map(|line| format!("line {line}\n")).collect();
        let (lines, onward) = follow(written.as_bytes());
        assert_eq!(onward, written.as_bytes());
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].as_str(), lines[19].as_str()), ("line 30", "line 49"));
    }

    #[test]
    fn endless_lines_and_bytes_that_are_no_text_take_no_more_room() {
        let written = vec![0xff; 200 * LINE_BYTES as usize];
        let (lines, onward) = follow(&written);
        assert_eq!(onward.len(), written.len());
        assert_eq!(lines.len(), LINES);
    }
}
