//! A receiver of webhooks that answers by script, byte for byte, so that it can also answer wrongly.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// What is done with one request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Written as it stands; the connection stays open.
    Bytes(String),
    /// Written as it stands, then the connection is closed.
    Last(String),
    /// Nothing is written and the connection stays open.
    Hang,
}

impl Answer {
    /// An answer with a status, further header lines and a body.
    pub(crate) fn status(status: u16, headers: &str, body: &str) -> Self {
        Self::Bytes(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
    }
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Receiver {
    /// Starts a receiver that takes its answers in turn and repeats the last.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?tenant=7", listener.local_addr().unwrap());
        let (send, requests) = mpsc::unbounded_channel();
        let script = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn(serve(stream, script.clone(), send.clone()));
            }
        });
        Self { url, requests }
    }

    /// Waits for the next request.
    pub(crate) async fn next(&mut self) -> Request {
        self.requests.recv().await.unwrap()
    }

    /// Tells whether no further request came.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }
}

/// Returns the address of somebody who takes connections and closes them at once.
pub(crate) async fn slammed_door() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream)
        }
    });
    address
}

#[expect(clippy::disallowed_methods, reason = "the test's own door: the receiver is no part of the product")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<VecDeque<Answer>>>, send: mpsc::UnboundedSender<Request>) {
    while let Some(request) = read(&mut stream).await {
        let answer = {
            let mut script = script.lock();
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
        };
        if send.send(request).is_err() {
            return;
        }
        match answer {
            Some(Answer::Bytes(bytes)) => stream.write_all(bytes.as_bytes()).await.unwrap_or_default(),
            Some(Answer::Last(bytes)) => {
                return stream.write_all(bytes.as_bytes()).await.unwrap_or_default();
            }
            Some(Answer::Hang) => std::future::pending().await,
            None => return,
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(end);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { method, path, headers, body })
}
