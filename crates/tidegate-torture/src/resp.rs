//! The little of the Redis protocol that a check needs: ask, and read whatever the answer is.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    Number(i64),
    List(Vec<Self>),
    Nothing,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    pub(crate) fn list(&self) -> &[Self] {
        if let Self::List(list) = self { list } else { &[] }
    }
}

/// A connection to a server.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn ask(&mut self, words: &[&str]) -> Result<Answer> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(command.as_bytes())?;
        self.read()
    }

    fn read(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.trim_end();
        let kind = line.chars().next().context("the server closed the connection")?;
        let rest = line.get(1..).unwrap_or_default();
        Ok(match kind {
            '+' => Answer::Text(rest.to_owned()),
            '-' => bail!("the server says {rest}"),
            ':' => Answer::Number(rest.parse()?),
            '$' if rest == "-1" => Answer::Nothing,
            '$' => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Answer::Text(String::from_utf8(bytes).context("a value is no text")?)
            }
            '*' if rest == "-1" => Answer::Nothing,
            '*' => Answer::List((0..rest.parse::<usize>()?).map(|_| self.read()).collect::<Result<_>>()?),
            _ => bail!("an odd answer: {line}"),
        })
    }
}
