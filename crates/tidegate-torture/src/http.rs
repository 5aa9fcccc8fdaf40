//! A small HTTP/1.1 client on one connection, which says when a question got no answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Longest wait for an answer. A claim waits a second by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer: status and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }

    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A connection that is kept open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        // A port without a listener can be given to the one who asks for it: that would be a talk with oneself.
        ensure!(stream.local_addr()? != stream.peer_addr()?, "connected to myself");
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Asks and waits for the answer. After an error the connection is of no more use.
    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Answer> {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        self.buffer.clear();
        loop {
            if let Some(answer) = read(&self.buffer)? {
                return Ok(answer);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => bail!("the connection ended before the answer"),
                count => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Result<Answer> {
        self.ask("POST", path, "content-type: application/json\r\n", body.to_string().as_bytes())
    }
}

/// Makes one GET on a connection of its own; anything but 200 is an error.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = Connection::open(address)?.ask("GET", path, "connection: close\r\n", b"")?;
    ensure!(answer.status == 200, "GET {path}: {}", answer.text());
    answer.json()
}

/// Reads a whole answer; none while it is not complete.
fn read(input: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&input[..end]).context("a head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let (status, length) = (status.context("a head has no status")?, length.context("a head has no content-length")?);
    let body = input.get(end + 4..end + 4 + length);
    Ok(body.map(|body| Answer { status, body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let whole = b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}";
        assert!(read(&whole[..whole.len() - 1]).unwrap().is_none());
        let answer = read(whole).unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (429, b"{}".as_slice()));
    }
}
