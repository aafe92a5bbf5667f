//! The control link, as the master has it: frames of a child in, frames for it out.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    process::{
        control::{LinkError, Reader, Writer},
        master::{
            dispatcher::{Event, Words},
            outbox::{Outgoing, Room},
        },
        name::ProcessName,
    },
    protocol::pb::{Ended, Taken, control::Body, ended::How},
};

/// What comes from a child.
#[derive(Debug)]
pub(in crate::process::master) enum Heard {
    /// What the dispatcher has to know: the life of the process.
    Event(Event),
    /// Anything else that the child said.
    Frame(FromChild),
}

/// A frame of a child that is not about its life.
#[derive(Debug)]
pub(in crate::process::master) struct FromChild {
    pub(in crate::process::master) process: ProcessName,
    pub(in crate::process::master) pid: u32,
    pub(in crate::process::master) body: Box<Body>,
}

/// Carries frames both ways until the link ends.
pub(super) async fn talk(
    (reader, writer): (Reader, Writer),
    outgoing: Outgoing,
    process: ProcessName,
    pid: u32,
    heard: mpsc::Sender<Heard>,
) {
    let room = outgoing.room();
    let why = tokio::select! {
        why = listen(reader, room, process, pid, heard) => why,
        why = speak(writer, outgoing) => why,
    };
    match why {
        // The death itself is told by the system.
        LinkError::Gone => {}
        // Closing the link makes the child exit.
        error => tracing::error!(%process, pid, "closing the control link: {error}"),
    }
}

/// Says for a program that can't when it takes its place and is ready.
pub(super) async fn speak_for(ready_after: Duration, pid: u32, heard: mpsc::Sender<Heard>) {
    tokio::time::sleep(ready_after).await;
    for words in [Words::Taken { answers_pings: false }, Words::Ready] {
        // The master is gone only when no child is left.
        let _ = heard.send(Heard::Event(Event::Said { pid, words })).await;
    }
}

async fn listen(
    mut reader: Reader,
    room: Room,
    process: ProcessName,
    pid: u32,
    heard: mpsc::Sender<Heard>,
) -> LinkError {
    loop {
        // One that sends and does not read what it gets back is not read either.
        room.wait().await;
        let said = match reader.read().await {
            // That it is there concerns the dispatcher; that it takes messages, the router.
            Ok(body @ Body::Taken(Taken { takes_messages: true, .. })) => {
                let frame = FromChild { process, pid, body: Box::new(body.clone()) };
                if heard.send(Heard::Frame(frame)).await.is_err() {
                    return LinkError::Gone;
                }
                Ok(body)
            }
            other => other,
        };
        let said = match said {
            Ok(body) => match words(body) {
                Ok(words) => Heard::Event(Event::Said { pid, words }),
                Err(body) => Heard::Frame(FromChild { process, pid, body }),
            },
            Err(error) => return error,
        };
        if heard.send(said).await.is_err() {
            return LinkError::Gone;
        }
    }
}

async fn speak(mut writer: Writer, mut outgoing: Outgoing) -> LinkError {
    while let Some(body) = outgoing.next().await {
        match writer.write(body).await {
            Ok(()) => {}
            // What the child said last may still be in the socket, and what is said to it now makes
            // room for nobody's sake but that of those who wait for room.
            Err(LinkError::Gone) => while outgoing.next().await.is_some() {},
            Err(error) => return error,
        }
    }
    std::future::pending().await
}

/// What a frame says of the life of its process; the frame itself where it is about something else.
fn words(body: Body) -> Result<Words, Box<Body>> {
    match body {
        Body::Taken(taken) => Ok(Words::Taken { answers_pings: taken.answers_pings }),
        Body::Standby(_) => Ok(Words::Standby),
        Body::Ready(_) => Ok(Words::Ready),
        Body::Ended(Ended { how: Some(how) }) => Ok(match how {
            How::Done(_) => Words::Done,
            How::Early(_) => Words::Early,
            How::Failed(text) => Words::Failed(text),
            How::Panicked(text) => Words::Panicked(text),
        }),
        other => Err(Box::new(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream as Blocking, time::Duration};

    use prost::Message;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{
        process::{
            control::{Inbox, split},
            master::outbox::{Outbox, outbox},
        },
        protocol::pb::{Control, MessageReceipt, SendMessage},
    };

    /// The master's end of a link to a process that does with the other end what it wants.
    fn link() -> (Blocking, Outbox, mpsc::Receiver<Heard>, JoinHandle<()>) {
        let (ours, theirs) = Blocking::pair().unwrap();
        let (outbox, outgoing) = outbox();
        let (hears, heard) = mpsc::channel(64);
        let link = split(ours, Inbox::default()).unwrap();
        let talk = tokio::spawn(talk(link, outgoing, ProcessName::Agent, 7, hears));
        (theirs, outbox, heard, talk)
    }

    #[tokio::test]
    async fn one_that_floods_and_does_not_read_is_not_read_either() {
        let (mut theirs, outbox, mut heard, _talk) = link();
        // Long enough for a machine that is busy, since its end means that nobody reads any more.
        theirs.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let flood = tokio::task::spawn_blocking(move || {
            let message = SendMessage { data: vec![b'1'; 1024].into(), ..SendMessage::default() };
            let control = Control { body: Some(Body::SendMessage(message)) }.encode_to_vec();
            let frame = [&(control.len() as u32).to_be_bytes()[..], &control].concat();
            let sent = (0..100_000).take_while(|_| theirs.write_all(&frame).is_ok()).count();
            (sent, theirs)
        });
        let answers = async {
            let receipt = MessageReceipt { id: 1, taken: 1, ..MessageReceipt::default() };
            while let Some(Heard::Frame(_)) = heard.recv().await {
                outbox.push(Body::MessageReceipt(receipt)).unwrap();
            }
        };
        let (sent, _theirs) = tokio::select! {
            sent = flood => sent.unwrap(),
            () = answers => unreachable!("the link ends with the test"),
        };
        assert!((500..10_000).contains(&sent), "{sent} frames were read");
    }

    #[tokio::test]
    async fn what_is_no_frame_ends_the_link() {
        let (mut theirs, _outbox, mut heard, talk) = link();
        theirs.write_all(&[0, 0, 0, 3, 0xff, 0xff, 0xff]).unwrap();
        talk.await.unwrap();
        assert!(heard.recv().await.is_none());
        assert!(theirs.write_all(&[0]).is_err(), "it is closed, so the child exits");
    }
}
