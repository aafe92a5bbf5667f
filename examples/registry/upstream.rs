//! The service that everybody needs: a registry, reached over TCP. It stands for one on another
//! host; here it is a thread of the first process, so that it outlives the processes that are
//! killed. It counts who connects and who subscribes.
//!
//! One JSON object a line. A request has an id and gets one answer with it; a subscription also gets
//! a push at once and with each change. What a connection registered is gone a while after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    #[serde(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    Hello { pid: u32 },
    Register { data_id: String, url: String },
    Unregister { data_id: String, url: String },
    Subscribe { data_id: String },
    Unsubscribe { data_id: String },
    GetConfig { data_id: String },
}

/// What the registry says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Say {
    Answer { id: u64, config: Option<Vec<String>> },
    Push { data_id: String, urls: Vec<String> },
}

/// What is known of one connection, also after its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visit {
    pub(crate) pid: u32,
    pub(crate) is_open: bool,
    /// How often it subscribed to each data id.
    pub(crate) subscribed: BTreeMap<String, u32>,
    pub(crate) registered: u32,
}

/// A handle on the running registry.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    visits: Vec<Visit>,
    /// Who registered each URL last, by data id.
    urls: BTreeMap<String, BTreeMap<String, usize>>,
    /// Who gets the pushes of each data id.
    subscribers: BTreeMap<String, BTreeSet<usize>>,
    outs: BTreeMap<usize, TcpStream>,
}

impl Upstream {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let upstream = Self { address: listener.local_addr()?, state: Arc::default() };
        let acceptor = upstream.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let upstream = acceptor.clone();
                thread::spawn(move || upstream.serve(stream));
            }
        });
        Ok(upstream)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All connections that there ever were, oldest first.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.lock().visits.clone()
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(out) = stream.try_clone() else { return };
        let who = self.lock().enter(out);
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let Ok(request) = serde_json::from_str::<Request>(&line) else { break };
            self.lock().handle(who, request);
        }
        self.lock().leave(who);
        // The session ends some time after the connection: whoever comes back has lost nothing.
        thread::sleep(SESSION);
        self.lock().expire(who);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, out: TcpStream) -> usize {
        let who = self.visits.len();
        self.visits.push(Visit { is_open: true, ..Visit::default() });
        self.outs.insert(who, out);
        who
    }

    fn handle(&mut self, who: usize, Request { id, ask }: Request) {
        let mut config = None;
        let mut changed = None;
        match ask {
            Ask::Hello { pid } => self.visits[who].pid = pid,
            Ask::Register { data_id, url } => {
                self.visits[who].registered += 1;
                let is_new =
                    self.urls.entry(data_id.clone()).or_default().insert(url, who).is_none();
                changed = is_new.then_some(data_id);
            }
            Ask::Unregister { data_id, url } => {
                let was = self.urls.get_mut(&data_id).and_then(|urls| urls.remove(&url));
                changed = was.map(|_| data_id);
            }
            Ask::Subscribe { data_id } => {
                *self.visits[who].subscribed.entry(data_id.clone()).or_default() += 1;
                self.subscribers.entry(data_id.clone()).or_default().insert(who);
                self.say(who, &self.push_of(&data_id));
            }
            Ask::Unsubscribe { data_id } => {
                self.subscribers.entry(data_id).or_default().remove(&who);
            }
            Ask::GetConfig { data_id } => config = Some(vec![format!("{data_id}: timeout = 3 s")]),
        }
        self.say(who, &Say::Answer { id, config });
        if let Some(data_id) = changed {
            self.tell(&data_id);
        }
    }

    fn leave(&mut self, who: usize) {
        self.visits[who].is_open = false;
        self.outs.remove(&who);
        for subscribers in self.subscribers.values_mut() {
            subscribers.remove(&who);
        }
    }

    fn expire(&mut self, who: usize) {
        let mut changed = Vec::new();
        for (data_id, urls) in &mut self.urls {
            let before = urls.len();
            urls.retain(|_, owner| *owner != who);
            if urls.len() != before {
                changed.push(data_id.clone());
            }
        }
        for data_id in changed {
            self.tell(&data_id);
        }
    }

    fn tell(&self, data_id: &str) {
        let push = self.push_of(data_id);
        for who in self.subscribers.get(data_id).into_iter().flatten() {
            self.say(*who, &push);
        }
    }

    fn push_of(&self, data_id: &str) -> Say {
        let urls = self.urls.get(data_id).into_iter().flatten().map(|(url, _)| url.clone());
        Say::Push { data_id: data_id.to_owned(), urls: urls.collect() }
    }

    fn say(&self, who: usize, say: &Say) {
        if let (Some(mut out), Ok(mut line)) = (self.outs.get(&who), serde_json::to_vec(say)) {
            line.push(b'\n');
            // A connection that is gone is noticed by its reader.
            let _ = out.write_all(&line);
        }
    }
}

/// How long what a connection registered outlives it.
const SESSION: Duration = Duration::from_secs(3);
